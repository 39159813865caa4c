#!/bin/sh
# Installs genba from this folder into an environment of its own. Needs python3 and nothing else: no network, no pip.
#
#   ./install.sh [--prefix /opt/genba] [--python python3] [--service]
#
# --service also makes the user genba, its directory /var/lib/genba and the systemd unit (needs root; starts nothing).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/genba
python=python3
service=no
die() {
    echo "install.sh: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a directory}; shift 2 ;;
        --python) python=${2:?--python needs a program}; shift 2 ;;
        --service) service=yes; shift ;;
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown option $1 (try --help)" ;;
    esac
done

wanted=$(cat "$here/PLATFORM")
command -v "$python" >/dev/null 2>&1 || die "$python is not there; this bundle is for $wanted"
found=$("$python" -c 'import sys, sysconfig; print(f"{sysconfig.get_platform()}-py{sys.version_info[0]}.{sys.version_info[1]}")')
[ "$found" = "$wanted" ] || die "this bundle is for $wanted, $python is $found; name another one with --python"
(cd "$here" && sha256sum --quiet --check SHA256SUMS) || die "the bundle is damaged; unpack it again"

if [ "$service" = yes ]; then
    [ "$(id -u)" = 0 ] || die "--service needs root"
    command -v systemctl >/dev/null 2>&1 || die "--service needs systemd"
fi

"$python" -m venv --clear --without-pip "$prefix" || die "cannot make an environment in $prefix"
prefix=$(cd "$prefix" && pwd)
"$prefix/bin/python" "$(ls "$here"/wheelhouse/pip-*.whl)/pip" --isolated --disable-pip-version-check --quiet install --no-cache-dir \
    --no-index --find-links "$here/wheelhouse" --only-binary :all: --require-hashes -r "$here/requirements.txt"
mkdir -p "$prefix/share/genba"
cp -R "$here/examples" "$here/genba.service" "$here/LICENSE" "$prefix/share/genba/"
"$prefix/bin/genba" --version

if [ "$service" = yes ]; then
    id genba >/dev/null 2>&1 || useradd --system --home-dir /var/lib/genba --shell /usr/sbin/nologin genba
    install -d -o genba -g genba -m 0750 /var/lib/genba
    sed "s|/opt/genba|$prefix|" "$here/genba.service" >/etc/systemd/system/genba.service
    systemctl daemon-reload
    echo "next: write /var/lib/genba/plant.yaml (see $prefix/share/genba/examples), then: systemctl enable --now genba"
else
    echo "next: $prefix/bin/genba check plant.yaml (examples are in $prefix/share/genba/examples)"
fi
