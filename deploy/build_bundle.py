"""Makes dist/genba-<version>-<platform>-py<version>.tar.gz: everything that a plant machine without network needs.

Wheels are fetched against the hashes of requirements/runtime.txt; the bundle's own requirements.txt then pins every file in its
wheelhouse, ours included, so that the installer accepts nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = f"{sysconfig.get_platform()}-py{sys.version_info[0]}.{sys.version_info[1]}"


def build_wheel(folder: Path) -> Path:
    """Our own wheel, built with the pinned build back end."""
    _run("build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("genba-*.whl"))


def fetch_wheels(wheelhouse: Path, work: Path) -> None:
    """Every runtime requirement as a wheel of this platform, and pip itself, checked against the pinned hashes."""
    pip_only = work / "pip.txt"
    pinned = re.search(r"^pip==.*(?:\n    --hash.*)*", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert pinned is not None, "requirements/dev.txt does not pin pip"
    pip_only.write_text(pinned[0] + "\n")
    for requirements in (ROOT / "requirements" / "runtime.txt", pip_only):
        _run(
            *("pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps", "--require-hashes"),
            *("--wheel-dir", wheelhouse, "-r", requirements),
        )


def write_requirements(wheelhouse: Path, target: Path) -> None:
    """`name==version --hash=…` for every wheel but pip's, which only installs."""
    lines = []
    for wheel in sorted(wheelhouse.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if name != "pip":
            lines.append(f"{name}=={version} --hash=sha256:{_sha256(wheel)}\n")
    target.write_text("".join(lines))


def pack(folder: Path, target: Path) -> None:
    """A tar.gz that is the same for the same contents: sorted, no owner, no times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with (
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,  # wheels are compressed already
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            archive.add(path, folder.name / path.relative_to(folder), recursive=False, filter=plain)
    partial.replace(target)
    target.with_name(target.name + ".sha256").write_text(f"{_sha256(target)}  {target.name}\n")


def main(arguments: Sequence[str] | None = None) -> Path:
    """Builds the bundle and says where it is."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=ROOT / "dist", help="where the archive goes")
    output: Path = options.parse_args(arguments).output.resolve()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        wheel = build_wheel(work)
        folder = work / f"genba-{wheel.name.split('-')[1]}-{PLATFORM}"
        wheelhouse = folder / "wheelhouse"
        wheelhouse.mkdir(parents=True)
        shutil.move(wheel, wheelhouse)
        fetch_wheels(wheelhouse, work)
        write_requirements(wheelhouse, folder / "requirements.txt")
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "lake", "spool"))
        for file in (ROOT / "deploy" / "install.sh", ROOT / "deploy" / "genba.service", ROOT / "LICENSE", ROOT / "README.md"):
            shutil.copy2(file, folder)
        (folder / "PLATFORM").write_text(PLATFORM + "\n")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = "".join(f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in files)
        (folder / "SHA256SUMS").write_text(sums)
        target = output / f"{folder.name}.tar.gz"
        pack(folder, target)
    sys.stdout.write(f"{target} ({target.stat().st_size / 1e6:.0f} MB)\n")
    return target


def _run(module: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {"SOURCE_DATE_EPOCH": "315532800", **os.environ}  # 1980: the earliest time that a wheel can hold
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
