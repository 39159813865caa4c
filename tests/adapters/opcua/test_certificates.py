"""What is wrong with a server's certificate: each check named, with the way out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.opcua import certificates
from adapters.opcua.certificates import Expected, Problem, matches_host, problems, split_chain
from adapters.opcua.pki import Trust
from adapters.opcua.policies import POLICIES
from tests.adapters.opcua.certs import NOW, URI, authority, der, key, make


def found(
    made: dict[str, Any], *, pinned: bool = False, policy: str = "Basic256Sha256", skew: timedelta | None = None, **expected: Any
) -> list[Problem]:
    wanted = Expected(URI, expected.pop("host", "plc-7"), POLICIES[policy], **expected)
    return list(problems(make(**made).certificate, wanted, NOW, pinned=pinned, skew=skew))


def test_a_certificate_that_fits_has_no_problems() -> None:
    assert found({}) == []
    assert found({"hosts": ("10.0.0.7",)}, host="10.0.0.7") == []


@pytest.mark.parametrize(
    ("made", "status", "says"),
    [
        ({"days": (-20, -2)}, "BadCertificateTimeInvalid", "expired on"),
        ({"days": (2, 20)}, "BadCertificateTimeInvalid", "not valid before"),
        ({"hosts": ("plc-8", "10.0.0.8")}, "BadCertificateHostNameInvalid", "plc-7, the certificate is for plc-8, 10.0.0.8"),
        ({"uri": "urn:acme:other"}, "BadCertificateUriInvalid", "urn:acme:other, the server says it is urn:acme:server"),
        ({"uri": ""}, "BadCertificateUriInvalid", "names none"),
        ({"lacking": ("digital_signature",)}, "BadCertificateUseNotAllowed", "lacks digital signature"),
        ({"lacking": ("key_encipherment", "data_encipherment")}, "BadCertificateUseNotAllowed", "key encipherment"),
        ({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, "BadCertificateUseNotAllowed", "not for servers"),
        ({"own": key(0, 1024)}, "BadCertificatePolicyCheckFailed", "1024 bits"),
        ({"own": ec.generate_private_key(ec.SECP256R1())}, "BadCertificatePolicyCheckFailed", "ECC secp256r1"),
    ],
)
def test_each_check_is_named_with_a_way_out(made: dict[str, Any], status: str, says: str) -> None:
    (problem,) = found(made)
    assert (problem.status, problem.fatal) == (status, True)
    assert says in problem.found
    assert problem.way_out


@pytest.mark.parametrize(
    "made",
    [{"lacking": ("content_commitment",)}, {"purposes": ()}],
)
def test_what_many_servers_leave_out_is_told_and_lived_with(made: dict[str, Any]) -> None:
    (problem,) = found(made)
    assert not problem.fatal


def test_a_pinned_certificate_needs_no_host_name_and_one_of_an_authority_does() -> None:
    assert [one.fatal for one in found({"hosts": ("plc-8",)}, pinned=True)] == [False]
    assert [one.fatal for one in found({"hosts": ("plc-8",)}, allow_other_host=True)] == [False]
    assert [one.fatal for one in found({"hosts": ("plc-8",)})] == [True]
    assert found({"hosts": ("plc-8",)}, host="127.0.0.1") == []


def test_a_short_key_is_fine_where_the_policy_asks_for_no_more() -> None:
    assert found({"own": key(0, 1024)}, policy="Basic256", allow_deprecated=True) == []


def test_a_sha1_signature_counts_unless_a_person_pinned_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "signature", lambda _: "SHA1")  # this library makes none any more
    (problem,) = found({})
    assert (problem.status, problem.fatal) == ("BadCertificatePolicyCheckFailed", True)
    assert "SHA1, which can be forged" in problem.found
    assert [one.fatal for one in found({}, pinned=True)] == [False]
    assert [one.fatal for one in found({}, allow_deprecated=True)] == [False]


def test_a_wrong_clock_is_hinted_at() -> None:
    (problem,) = found({"days": (2, 20)}, skew=timedelta(days=3))
    assert f"the server's {NOW + timedelta(days=3):%Y-%m-%d}" in problem.way_out
    (problem,) = found({"days": (2, 20)}, skew=timedelta(seconds=3))
    assert "the server's" not in problem.way_out


@pytest.mark.parametrize(
    ("names", "host", "fits"),
    [
        (("PLC-7.",), "plc-7", True),
        (("*.plant.example",), "plc-7.plant.example", True),
        (("*.plant.example",), "a.plc-7.plant.example", False),
        (("10.0.0.7",), "10.0.0.7", True),
        (("fe80::1",), "fe80:0::1", True),
        (("plc-7",), "plc-70", False),
        ((), "plc-7", False),
    ],
)
def test_host_names(names: tuple[str, ...], host: str, fits: bool) -> None:
    assert matches_host(make(hosts=names).certificate, host) is fits


def test_a_chain_is_split_and_anything_else_is_an_error() -> None:
    above = authority()
    leaf = make(signer=above)
    assert split_chain(der(leaf.certificate) + der(above.certificate)) == [leaf.certificate, above.certificate]
    assert split_chain(b"") == []
    for bad in (b"\x00", b"\x30", b"\x30\x84", b"\x30\x82\xff\xff", der(leaf.certificate) + b"tail", der(leaf.certificate)[:-1]):
        with pytest.raises(ValueError, match=r"."):
            split_chain(bad)
    with pytest.raises(ValueError, match="more than 10"):
        split_chain(der(leaf.certificate) * 11)


def test_a_subject_reads_with_its_name_first() -> None:
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Acme"), x509.NameAttribute(x509.NameOID.COMMON_NAME, "Press 7")]
    )
    pair = make()
    builder = x509.CertificateBuilder(name, name, pair.key.public_key(), 7, NOW, NOW + timedelta(days=1))
    built = builder.sign(pair.key, hashes.SHA256())
    assert certificates.subject(built) == "CN=Press 7, O=Acme"
    assert certificates.issuer(built) == "self-signed"
    assert certificates.application_uri(built) == ""
    assert certificates.hosts(built) == ()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4), st.integers(0, 2000))
def test_whatever_a_server_sends_is_a_certificate_or_an_error(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(der(make().certificate))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        chain = split_chain(bytes(content[: max(cut, 1)]) if cut < len(content) else bytes(content))
    except ValueError:
        return
    wanted = Expected(URI, "plc-7", POLICIES["Basic256Sha256"])
    trust = Trust(Path("pki"), (make(key(1)).certificate,), (), ())
    assert trust.examine(chain, wanted, NOW)[0].status in ("BadCertificateUntrusted", "BadCertificateChainIncomplete")
    for tell in (certificates.subject, certificates.issuer, certificates.key, certificates.signature):
        assert tell(chain[0]).isprintable()


def test_names_of_strangers_do_not_reach_the_terminal_as_they_are() -> None:
    made = make(name="evil\x1b[2Jname", uri="urn:\x07bell").certificate
    assert certificates.subject(made) == "CN=evil?[2Jname"
    (problem, *_) = problems(made, Expected(URI, "plc-7", POLICIES["Basic256Sha256"]), NOW, pinned=False)
    assert "urn:?bell" in problem.found
    assert problem.found.isprintable()
