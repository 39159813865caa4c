"""Trust: who is trusted and why not, authorities and their chains, revocation, and what is kept of the refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from adapters.opcua.certificates import Expected
from adapters.opcua.pki import Trust, read_reason
from adapters.opcua.policies import POLICIES
from schemas.errors import ConfigError
from tests.adapters.opcua.certs import NOW, URI, Pair, authority, der, key, make, revoking

EXPECTED = Expected(URI, "plc-7", POLICIES["Basic256Sha256"])


def trust_with(directory: Path, *trusted: Pair, issuers: tuple[Pair, ...] = (), revoked: tuple[bytes, ...] = ()) -> Trust:
    Trust.load(directory)
    for number, pair in enumerate(trusted):
        form, suffix = (Encoding.PEM, "pem") if number % 2 else (Encoding.DER, "der")
        (directory / "trusted" / f"{number}.{suffix}").write_bytes(pair.certificate.public_bytes(form))
    for number, pair in enumerate(issuers):
        (directory / "issuers" / f"{number}.der").write_bytes(der(pair.certificate))
    for number, content in enumerate(revoked):
        (directory / "revoked" / f"{number}.pem").write_bytes(content)
    return Trust.load(directory)


def fatal(trust: Trust, *sent: Pair) -> list[str]:
    return [one.status for one in trust.examine([pair.certificate for pair in sent], EXPECTED, NOW) if one.fatal]


def told(trust: Trust, *sent: Pair) -> list[str]:
    return [one.status for one in trust.examine([pair.certificate for pair in sent], EXPECTED, NOW) if not one.fatal]


def test_nobody_is_trusted_at_first(tmp_path: Path) -> None:
    trust = Trust.load(tmp_path / "pki")
    server = make()
    assert fatal(trust, server) == ["BadCertificateUntrusted"]
    assert fatal(trust_with(tmp_path / "other", server), server) == []
    assert {folder.name for folder in (tmp_path / "pki").iterdir()} == {"trusted", "issuers", "revoked", "rejected"}


def test_all_that_is_wrong_is_told_at_once_trust_first(tmp_path: Path) -> None:
    trust = Trust.load(tmp_path)
    wrong = make(days=(-9, -1), uri="urn:other")
    assert fatal(trust, wrong) == ["BadCertificateUntrusted", "BadCertificateTimeInvalid", "BadCertificateUriInvalid"]


def test_what_an_authority_signed_is_trusted(tmp_path: Path) -> None:
    plant = authority()
    trust = trust_with(tmp_path, plant)
    assert fatal(trust, make(signer=plant)) == []
    assert told(trust, make(signer=plant)) == ["BadCertificateRevocationUnknown"]
    forged = make(signer=Pair(plant.certificate, key(2)))
    assert fatal(trust, forged) == ["BadCertificateChainIncomplete"]
    assert fatal(trust, make(signer=plant, hosts=("plc-8",))) == ["BadCertificateHostNameInvalid"]


def test_a_chain_is_completed_from_the_issuers_and_from_what_the_server_sends(tmp_path: Path) -> None:
    root = authority(1, "Root")
    middle = make(key(2), name="Middle", uri="", hosts=(), signer=root, authority=True)
    leaf = make(key(3), signer=middle)
    assert fatal(trust_with(tmp_path / "a", root), leaf) == ["BadCertificateChainIncomplete"]
    assert fatal(trust_with(tmp_path / "b", root, issuers=(middle,)), leaf) == []
    assert fatal(trust_with(tmp_path / "c", root), leaf, middle) == []
    assert fatal(trust_with(tmp_path / "d", middle), leaf) == []
    # An issuer alone trusts nobody.
    assert fatal(trust_with(tmp_path / "e", issuers=(root, middle)), leaf) == ["BadCertificateUntrusted"]


def test_a_trusted_leaf_signs_for_nobody(tmp_path: Path) -> None:
    plant = authority()
    leaf = make(key(2), signer=plant)
    trust = trust_with(tmp_path, leaf)
    assert fatal(trust, leaf) == []
    assert fatal(trust, make(key(3), signer=leaf)) == ["BadCertificateChainIncomplete"]


def test_the_revoked_is_named_and_a_list_of_somebody_else_revokes_nobody(tmp_path: Path) -> None:
    plant = authority()
    leaf = make(key(2), signer=plant)
    assert fatal(trust_with(tmp_path / "a", plant, revoked=(revoking(plant, leaf),)), leaf) == ["BadCertificateRevoked"]
    assert fatal(trust_with(tmp_path / "b", plant, leaf, revoked=(revoking(plant, leaf),)), leaf) == ["BadCertificateRevoked"]
    other = trust_with(tmp_path / "c", plant, revoked=(revoking(plant),))
    assert (fatal(other, leaf), told(other, leaf)) == ([], [])
    forged = revoking(Pair(plant.certificate, key(3)), leaf)
    assert fatal(trust_with(tmp_path / "d", plant, revoked=(forged,)), leaf) == []


def test_a_revoked_or_expired_authority_is_named(tmp_path: Path) -> None:
    root = authority(1, "Root")
    middle = make(key(2), name="Middle", uri="", hosts=(), signer=root, authority=True)
    leaf = make(key(3), signer=middle)
    trust = trust_with(tmp_path / "a", root, issuers=(middle,), revoked=(revoking(root, middle),))
    assert fatal(trust, leaf) == ["BadCertificateIssuerRevoked"]
    old = authority(1, "Old", days=(-100, -1))
    assert fatal(trust_with(tmp_path / "b", old), make(signer=old)) == ["BadCertificateIssuerTimeInvalid"]


def test_an_old_revocation_list_is_told(tmp_path: Path) -> None:
    plant = authority()
    trust = trust_with(tmp_path, plant, revoked=(revoking(plant, days=(-9, -2)),))
    problems = trust.examine([make(signer=plant).certificate], EXPECTED, NOW)
    assert [(one.status, one.fatal) for one in problems] == [("BadCertificateRevocationUnknown", False)]
    assert "out of date" in problems[0].found


def test_the_refused_is_kept_with_the_reason_and_the_newest_stay(tmp_path: Path) -> None:
    trust = Trust.load(tmp_path)
    servers = [make(name=f"server {n}") for n in range(25)]
    for server in servers:
        trust.reject(server.certificate, "BadCertificateUntrusted: not trusted", "opc.tcp://plc-7:4840")
    kept = sorted((tmp_path / "rejected").glob("*.der"), key=lambda file: file.stat().st_mtime_ns)
    assert [file.read_bytes() for file in kept] == [der(server.certificate) for server in servers[5:]]
    assert len(list((tmp_path / "rejected").iterdir())) == 40
    assert read_reason(kept[-1]) == "BadCertificateUntrusted: not trusted"


def test_the_same_reason_is_written_once(tmp_path: Path) -> None:
    trust, server = Trust.load(tmp_path), make().certificate
    trust.reject(server, "expired", "opc.tcp://plc-7:4840")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "rejected").iterdir()}
    trust.reject(server, "expired", "opc.tcp://plc-7:4840")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "rejected").iterdir()} == before
    trust.reject(server, "revoked", "opc.tcp://plc-7:4840")
    assert read_reason(next((tmp_path / "rejected").glob("*.der"))) == "revoked"


def test_a_hidden_file_is_no_certificate(tmp_path: Path) -> None:
    trust_with(tmp_path, make())
    (tmp_path / "trusted" / ".gitkeep").write_text("")
    assert len(Trust.load(tmp_path).certificates) == 1


@pytest.mark.parametrize("folder", ["trusted", "issuers", "revoked"])
def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, folder: str) -> None:
    Trust.load(tmp_path)
    (tmp_path / folder / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        Trust.load(tmp_path)
