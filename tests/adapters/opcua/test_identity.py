"""Our own certificate: made once, renewed in time beside the old one, and put in place once a server takes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters.opcua.identity import Identities, Identity, due, promote
from schemas.errors import ConfigError
from tests.adapters.opcua.certs import NOW, Pair, authority, key, make


def put(directory: Path, pair: Pair) -> None:
    certificate, private = pair.save(directory / "own", "given")
    certificate.rename(directory / "own" / "certificate.der")
    private.rename(directory / "own" / "key.pem")


def fits(identity: Identity) -> bool:
    certificate = x509.load_der_x509_certificate(identity.certificate.read_bytes())
    private = load_pem_private_key(identity.key.read_bytes(), password=None)
    return certificate == identity.parsed and private.public_key() == certificate.public_key()


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    made = Identities.load_or_make(tmp_path, "genba kepserver")
    assert Identities.load_or_make(tmp_path, "genba kepserver") == made
    assert made.candidates == (made.current,)
    assert made.current.uri.endswith(":genba:kepserver")
    assert made.current.key.stat().st_mode & 0o777 == 0o600
    assert made.current.parsed.not_valid_after_utc - NOW > timedelta(days=1000)
    assert fits(made.current)


@pytest.mark.parametrize(
    ("days", "renewed"), [((-100, 91), False), ((-1000, 89), True), ((-10, 20), False), ((-21, 9), True), ((-1, 1000), False)]
)
def test_a_successor_is_made_90_days_before_the_end_or_a_third_of_a_short_life(
    tmp_path: Path, days: tuple[float, float], renewed: bool
) -> None:
    old = make(days=days, uri="urn:box-1:genba:x")
    assert due(old.certificate, NOW) is renewed
    put(tmp_path, old)
    found = Identities.load_or_make(tmp_path, "genba x")
    assert found.current.parsed == old.certificate
    assert (found.successor is not None) is renewed
    if found.successor is not None:
        assert found.candidates == (found.successor, found.current)
        assert found.successor.uri == "urn:box-1:genba:x", "servers know us by it"
        assert found.successor.parsed.public_key() != old.certificate.public_key()
        assert fits(found.successor)
        assert Identities.load_or_make(tmp_path, "genba x").successor == found.successor, "made once"


def test_the_successor_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    put(tmp_path, make(days=(-1000, 20)))
    successor = Identities.load_or_make(tmp_path, "genba x").successor
    assert successor is not None
    settled = promote(tmp_path / "own", successor)
    assert fits(settled)
    found = Identities.load_or_make(tmp_path, "genba x")
    assert (found.current.parsed, found.successor) == (successor.parsed, None)
    assert sorted(file.name for file in (tmp_path / "own").iterdir()) == ["certificate.der", "key.pem"]


def test_power_that_goes_half_way_through_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path, make(days=(-1000, 20)))
    successor = Identities.load_or_make(tmp_path, "genba x").successor
    assert successor is not None
    successor.key.replace(tmp_path / "own" / "key.pem")  # and here the power goes
    found = Identities.load_or_make(tmp_path, "genba x")
    assert found.current.parsed == successor.parsed
    assert fits(found.current)


def test_an_expired_one_is_replaced_by_the_successor_or_anew_under_the_same_name(tmp_path: Path) -> None:
    put(tmp_path / "a", make(days=(-1000, 20), uri="urn:box-1:genba:x"))
    successor = Identities.load_or_make(tmp_path / "a", "genba x").successor
    assert successor is not None
    later = Identities.load_or_make(tmp_path / "a", "genba x", NOW + timedelta(days=21))
    assert (later.current.parsed, later.successor) == (successor.parsed, None)
    put(tmp_path / "b", make(days=(-1000, -1), uri="urn:box-1:genba:x"))
    anew = Identities.load_or_make(tmp_path / "b", "genba x").current
    assert anew.parsed.not_valid_after_utc > NOW
    assert anew.uri == "urn:box-1:genba:x"
    assert fits(anew)


@pytest.mark.parametrize("days", [(-1000.0, 3.0), (-1000.0, -3.0)])
def test_one_of_an_authority_is_never_replaced_by_ours(tmp_path: Path, days: tuple[float, float]) -> None:
    given = make(key(2), signer=authority(), days=days)
    put(tmp_path, given)
    found = Identities.load_or_make(tmp_path, "genba x")
    assert (found.current.parsed, found.successor) == (given.certificate, None)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a", make(uri=""))
    with pytest.raises(ConfigError, match="application URI"):
        Identities.load_or_make(tmp_path / "a", "genba x")
    put(tmp_path / "b", make())
    (tmp_path / "b" / "own" / "key.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"key\.pem is not a readable"):
        Identities.load_or_make(tmp_path / "b", "genba x")
    put(tmp_path / "d", make())
    (tmp_path / "d" / "own" / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"key\.pem is not the key of certificate\.der"):
        Identities.load_or_make(tmp_path / "d", "genba x")
    (tmp_path / "c").write_text("a file where a directory should be")
    with pytest.raises(ConfigError, match="must own that directory"):
        Identities.load_or_make(tmp_path / "c", "genba x")
