"""`genba trust`: the certificates of a file's connections, or of a directory, shown, accepted, rejected and handed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from adapters.opcua.certificates import fingerprint, thumbprint
from adapters.opcua.pki import Trust
from tests.adapters.opcua.certs import Pair, make

Genba = Callable[..., Any]
PLANT = """\
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  kepserver:
    kind: opcua
    endpoint: opc.tcp://192.168.1.5:49320
    security: {policy: Basic256Sha256, trust: pki}
    tags: {temp: {address: "ns=2;s=T"}}
  robot:
    kind: opcua
    endpoint: opc.tcp://192.168.1.6:4840
    security: {policy: Basic256Sha256}
    tags: {temp: {address: "ns=2;s=T"}}
  press:
    kind: modbus
    endpoint: tcp://10.0.0.7:502
    tags: {temp: {address: "hr:1", type: int16}}
sinks: {}
"""


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    file = tmp_path / "plant.yaml"
    file.write_text(PLANT)
    return file


@pytest.fixture
def server(tmp_path: Path) -> Pair:
    """A server that was refused by kepserver."""
    pair = make(name="Kep 7")
    Trust.load(tmp_path / "pki").reject(pair.certificate, "BadCertificateUntrusted: not trusted", "opc.tcp://192.168.1.5:49320")
    return pair


def test_list_says_what_was_refused_why_and_what_to_type(genba: Genba, plant: Path, server: Pair) -> None:
    done = genba("trust", "list", plant, "kepserver")
    assert done.status == 0
    for said in (
        "kepserver:",
        "CN=Kep 7",
        "urn:acme:server",
        "plc-7",
        fingerprint(server.certificate),
        thumbprint(server.certificate),
        "reason       BadCertificateUntrusted: not trusted",
        f"-> genba trust accept {plant} kepserver {fingerprint(server.certificate)[:12]}",
    ):
        assert said in done.out
    everybody = genba("trust", "list", plant)
    assert "robot:" in everybody.out
    assert "press:" not in everybody.out


def test_accept_list_reject_by_file(genba: Genba, plant: Path, server: Pair) -> None:
    prefix = thumbprint(server.certificate)[:8]
    done = genba("trust", "accept", plant, "kepserver", prefix)
    assert (done.status, done.out.splitlines()[0]) == (0, "kepserver: CN=Kep 7 is trusted now")
    assert "within 30 s" in done.out
    (entry,) = json.loads(genba("trust", "list", plant, "kepserver", "--json").out)["kepserver"]
    assert (entry["state"], entry["sha1"]) == ("trusted", thumbprint(server.certificate))
    done = genba("trust", "reject", plant, "kepserver", prefix, "--json")
    assert json.loads(done.out)["kepserver"][0]["state"] == "rejected"


def test_without_an_adapter_the_list_that_has_it_is_found(genba: Genba, plant: Path, server: Pair) -> None:
    done = genba("trust", "accept", plant, fingerprint(server.certificate)[:8])
    assert (done.status, done.out.splitlines()[0]) == (0, "kepserver: CN=Kep 7 is trusted now")


def test_a_directory_needs_no_file(genba: Genba, tmp_path: Path, server: Pair) -> None:
    at = ("--directory", tmp_path / "pki")
    assert f"-> genba trust accept --directory {tmp_path / 'pki'}" in genba("trust", "list", *at).out
    assert "is trusted now" in genba("trust", "accept", *at, fingerprint(server.certificate)[:8]).out
    assert "is not trusted any more" in genba("trust", "reject", fingerprint(server.certificate)[:8], *at).out


def test_our_certificate_is_made_and_handed_over_without_its_key(genba: Genba, plant: Path, tmp_path: Path) -> None:
    target = tmp_path / "genba.der"
    done = genba("trust", "own", plant, "robot", "--export", target)
    assert done.status == 0
    assert "CN=genba robot" in done.out
    handed = x509.load_der_x509_certificate(target.read_bytes())
    assert fingerprint(handed) in done.out
    assert "ours: the other side must trust it" in genba("trust", "list", plant, "robot").out
    both = json.loads(genba("trust", "own", plant, "--json").out)
    assert sorted(both) == ["kepserver", "robot"]
    assert both["robot"][0]["sha256"] == fingerprint(handed)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list",), "name a configuration file, or --directory"),
        (("list", "PLANT", "kepsrver"), "there is no adapter 'kepsrver' in the file (did you mean 'kepserver'?)"),
        (("list", "PLANT", "press"), "press uses no certificates"),
        (("list", "PLANT", "--directory", "pki"), "name a configuration file, or --directory"),
        (("list", "--directory", "nowhere"), "there is no directory nowhere"),
        (("accept", "PLANT", "kepserver", "zz"), "not the beginning of a fingerprint"),
        (("accept", "PLANT", "kepserver", "0123456789"), "there is "),
        (("accept", "PLANT"), "name a configuration file, or --directory"),
        (("accept", "PLANT", "kepserver", "robot", "1234"), "write [FILE [ADAPTER]] FINGERPRINT"),
        (("own", "PLANT", "--export", "x.der"), "say whose certificate: kepserver, robot"),
        (("own", "PLANT", "robot", "--export", "no/such/x.der"), "cannot write no/such/x.der"),
    ],
)
def test_a_wrong_call_ends_with_2_and_the_way_out(
    genba: Genba, plant: Path, server: Pair, arguments: tuple[str, ...], says: str
) -> None:
    done = genba("trust", *(plant if argument == "PLANT" else argument for argument in arguments))
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_file_without_certificates_says_so(genba: Genba, tmp_path: Path) -> None:
    file = tmp_path / "plant.yaml"
    file.write_text("enterprise: acme\nsite: osaka\ngateway: gw\nadapters: {}\nsinks: {}\n")
    done = genba("trust", "list", file)
    assert done.status == 2
    assert "no adapter of this file uses certificates" in done.err


def test_the_doctor_of_opcua_takes_its_options_and_says_what_is_wrong_with_them(genba: Genba, tmp_path: Path) -> None:
    help_text = genba("doctor", "opcua", "--help").out
    for option in ("--policy", "--trust", "--username", "--password-file", "--user-certificate", "--allow-deprecated"):
        assert option in help_text
    done = genba("doctor", "opcua", "opc.tcp://127.0.0.1:4840", "--policy", "Basic512")
    assert (done.status, "--policy" in done.err) == (2, True)
    done = genba("doctor", "opcua", "127.0.0.1")
    assert (done.status, "FAIL options" in done.out) == (3, True)
    assert "opc.tcp://192.168.1.5:4840" in done.out
