"""The trust list as a person works on it: found by a fingerprint however it is written, moved, and every mistake with its way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.opcua.certificates import fingerprint, thumbprint
from adapters.opcua.pki import Trust
from adapters.opcua.store import Store, at
from schemas.errors import ConfigError
from tests.adapters.opcua.certs import Pair, authority, der, make
from tests.adapters.opcua.test_identity import put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    Trust.load(tmp_path / "pki")
    return Store(tmp_path / "pki")


def refused(store: Store, pair: Pair, reason: str = "BadCertificateUntrusted: its certificate is not trusted") -> None:
    Trust.load(store.directory).reject(pair.certificate, reason, "opc.tcp://plc-7:4840")


def states(store: Store) -> list[tuple[str, str]]:
    return [(entry.state, entry.subject) for entry in store.entries()]


def test_everything_there_is_told(store: Store) -> None:
    refused(store, make(name="press", hosts=("plc-7", "10.0.0.7")))
    (store.directory / "trusted" / "ca.der").write_bytes(der(authority().certificate))
    (store.directory / "issuers" / "root.der").write_bytes(der(authority(2, "Root").certificate))
    (store.directory / "rejected" / "junk.der").write_bytes(b"junk")
    assert states(store) == [("trusted", "CN=Plant CA"), ("issuer", "CN=Root"), ("rejected", "CN=press")]
    press = store.entries()[-1]
    assert (press.uri, press.hosts, press.issuer) == ("urn:acme:server", ("plc-7", "10.0.0.7"), "self-signed")
    assert (press.key, press.signature, press.reason) == (
        "RSA 2048",
        "SHA256",
        "BadCertificateUntrusted: its certificate is not trusted",
    )
    assert press.expires_us - press.valid_from_us == 401 * 86_400 * 10**6


@pytest.mark.parametrize("spelled", ["sha256", "sha1", "colons", "spaces", "0x", "whole"])
def test_accept_takes_the_fingerprint_as_a_server_shows_it(store: Store, spelled: str) -> None:
    pair = make(name="press")
    refused(store, pair)
    refused(store, make(name="other"))
    sha256, sha1 = fingerprint(pair.certificate), thumbprint(pair.certificate)
    given = {
        "sha256": sha256[:12],
        "sha1": sha1[:12],
        "colons": ":".join(sha1[n : n + 2] for n in range(0, 40, 2)).upper(),
        "spaces": " ".join(sha1[n : n + 2] for n in range(0, 12, 2)),
        "0x": f"0x{sha1.upper()}",
        "whole": sha256,
    }[spelled]
    done = store.accept(given)
    assert (done.state, done.subject, done.reason) == ("trusted", "CN=press", "")
    assert states(store) == [("trusted", "CN=press"), ("rejected", "CN=other")]
    assert store.accept(given) == done, "once more changes nothing"
    assert Trust.load(store.directory).certificates == (pair.certificate,)
    assert [file.suffix for file in sorted((store.directory / "rejected").iterdir())] == [".der", ".json"]


def test_reject_and_accept_again(store: Store) -> None:
    pair = make(name="press")
    refused(store, pair)
    prefix = fingerprint(pair.certificate)[:10]
    store.accept(prefix)
    done = store.reject(prefix)
    assert done.state == "rejected"
    assert "rejected by a person on" in done.reason
    assert Trust.load(store.directory).certificates == ()
    assert store.reject(prefix) == done
    assert store.accept(prefix).state == "trusted"


@pytest.mark.parametrize("given", ["", "abc", "xyzw", "press", "../../etc"])
def test_what_is_no_fingerprint_is_said(store: Store, given: str) -> None:
    with pytest.raises(ConfigError, match="not the beginning of a fingerprint"):
        store.accept(given)


def test_an_ambiguous_beginning_lists_what_it_fits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.opcua import certificates

    refused(store, make(name="one"))
    refused(store, make(name="two"))
    monkeypatch.setattr(certificates, "fingerprint", lambda certificate: "abcd" + thumbprint(certificate))
    with pytest.raises(ConfigError, match=r"abcd fits 2 certificates: abcd.*CN=one; abcd.*CN=two|CN=two; abcd.*CN=one") as error:
        store.accept("abcd")
    assert "more digits" in error.value.hint
    assert [state for state, _ in states(store)] == ["rejected", "rejected"]


def test_a_mistyped_one_is_guessed_and_an_unknown_one_lists_what_is_there(store: Store) -> None:
    pair = make(name="press")
    with pytest.raises(ConfigError, match="no rejected certificate") as error:
        store.accept("1234")
    assert "nothing is rejected there" in error.value.hint
    refused(store, pair)
    right = fingerprint(pair.certificate)[:10]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with pytest.raises(ConfigError) as error:
        store.accept(wrong)
    assert error.value.hint == f"did you mean {right} (CN=press)?"
    far = "".join("0123456789abcdef"[15 - int(digit, 16)] for digit in right)
    with pytest.raises(ConfigError) as error:
        store.accept(far)
    assert error.value.hint == f"there is {fingerprint(pair.certificate)[:12]} CN=press"


def test_ours_is_made_when_it_is_asked_for_and_the_renewed_one_is_what_to_hand_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "pki", tmp_path / "state", "genba press")
    assert store.entries() == []
    own = store.own()
    assert own is not None
    assert (own.state, own.subject) == ("own", "CN=genba press")
    assert states(store) == [("own", "CN=genba press")]
    assert Store(tmp_path / "pki").own() is None
    put(tmp_path / "other", make(name="genba old", days=(-1000, 20)))
    ageing = Store(tmp_path / "pki", tmp_path / "other", "genba press")
    assert [entry.state for entry in ageing.entries()] == ["own", "renewed"]
    renewed = ageing.own()
    assert renewed is not None
    assert renewed.state == "renewed"


def test_a_directory_that_is_no_trust_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no directory"):
        at(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="not a trust list"):
        at(tmp_path)
    Trust.load(tmp_path)
    assert at(tmp_path) == Store(tmp_path)
    with pytest.raises(ConfigError, match="there is no trust list"):
        Store(tmp_path / "nowhere").accept("1234")
