from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.cert_gen import generate_private_key, generate_self_signed_app_certificate
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.opcua.pki import Identity, Trust
from schemas.errors import ConfigError

URI = "urn:acme:server"
SERVER = ua.ApplicationDescription(ApplicationUri=URI)
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return generate_private_key()


def self_signed(key: rsa.RSAPrivateKey, days: int = 10) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(URI)]
    return generate_self_signed_app_certificate(key, "server", {}, names, [ExtendedKeyUsageOID.SERVER_AUTH], days=days)


def issued(key: rsa.RSAPrivateKey, issuer: x509.Certificate, signer: rsa.RSAPrivateKey) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issued")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=1))
        .not_valid_after(NOW + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def trust_with(directory: Path, *trusted: x509.Certificate) -> Trust:
    (directory / "trusted").mkdir(parents=True)
    for number, certificate in enumerate(trusted):
        form, suffix = (Encoding.PEM, "pem") if number % 2 else (Encoding.DER, "der")
        (directory / "trusted" / f"{number}.{suffix}").write_bytes(certificate.public_bytes(form))
    return Trust.load(directory)


async def refusal(trust: Trust, certificate: x509.Certificate, server: ua.ApplicationDescription = SERVER) -> str:
    with pytest.raises(ServiceError) as error:
        await trust.validate(certificate, server)
    return str(ua.StatusCode(error.value.code).name)


def test_the_own_certificate_is_made_once_and_private(tmp_path: Path) -> None:
    made = Identity.load_or_make(tmp_path, "genba kepserver")
    content = made.certificate.read_bytes()
    assert Identity.load_or_make(tmp_path, "genba kepserver") == made
    assert made.certificate.read_bytes() == content
    assert made.uri.endswith(":genba:kepserver")
    assert made.key.stat().st_mode & 0o777 == 0o600
    certificate = x509.load_der_x509_certificate(content)
    assert certificate.not_valid_after_utc - NOW > datetime.timedelta(days=1000)


def test_an_expired_own_certificate_is_replaced(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    made = Identity.load_or_make(tmp_path, "genba x")
    made.certificate.write_bytes(_expired(key))
    again = Identity.load_or_make(tmp_path, "genba x")
    assert x509.load_der_x509_certificate(again.certificate.read_bytes()).not_valid_after_utc > NOW


def _expired(key: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=9))
        .not_valid_after(NOW - datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]), critical=False)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_nobody_is_trusted_at_first_and_the_refused_is_kept_for_a_person(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    trust = await asyncio.to_thread(Trust.load, tmp_path / "pki")
    certificate = self_signed(key)
    assert await refusal(trust, certificate) == "BadCertificateUntrusted"
    (kept,) = (tmp_path / "pki" / "rejected").iterdir()
    assert x509.load_der_x509_certificate(kept.read_bytes()) == certificate
    kept.rename(tmp_path / "pki" / "trusted" / kept.name)
    await (await asyncio.to_thread(Trust.load, tmp_path / "pki")).validate(certificate, SERVER)


async def test_rejected_certificates_do_not_fill_the_disk(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    trust = await asyncio.to_thread(Trust.load, tmp_path)
    for _ in range(25):
        assert await refusal(trust, self_signed(key)) == "BadCertificateUntrusted"
    assert len(list((tmp_path / "rejected").iterdir())) == 20


async def test_what_an_authority_signed_is_trusted_and_can_be_revoked(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    authority = self_signed(key)
    leaf = issued(generate_private_key(), authority, key)
    trust = await asyncio.to_thread(trust_with, tmp_path, authority)
    await trust.validate(leaf, SERVER)
    forged = issued(key, authority, generate_private_key())
    assert await refusal(trust, forged) == "BadCertificateUntrusted"
    crl = (
        x509.CertificateRevocationListBuilder(authority.subject, NOW, NOW + datetime.timedelta(days=1))
        .add_revoked_certificate(x509.RevokedCertificateBuilder(leaf.serial_number, NOW).build())
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "revoked" / "list.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    assert await refusal((await asyncio.to_thread(Trust.load, tmp_path)), leaf) == "BadCertificateRevoked"


async def test_a_trusted_leaf_signs_for_nobody(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    authority = self_signed(key)
    leaf_key = generate_private_key()
    leaf = issued(leaf_key, authority, key)
    assert (
        await refusal((await asyncio.to_thread(trust_with, tmp_path, leaf)), issued(key, leaf, leaf_key))
        == "BadCertificateUntrusted"
    )


async def test_a_trusted_certificate_of_another_server_or_out_of_date_is_refused(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    certificate, old = self_signed(key), x509.load_der_x509_certificate(_expired(key))
    trust = await asyncio.to_thread(trust_with, tmp_path, certificate, old)
    await trust.validate(certificate, SERVER)
    other = ua.ApplicationDescription(ApplicationUri="urn:acme:other")
    assert await refusal(trust, certificate, other) == "BadCertificateUriInvalid"
    assert await refusal(trust, old) == "BadCertificateTimeInvalid"


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        Trust.load(tmp_path)
