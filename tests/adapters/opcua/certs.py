"""Certificates of every kind that a plant shows a gateway, good and bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

URI = "urn:acme:server"
NOW = datetime.now(UTC)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """`NAME.der` and `NAME.pem`."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.der", folder / f"{name}.pem"
        certificate.write_bytes(der(self.certificate))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


_KEYS: dict[tuple[int, int], rsa.RSAPrivateKey] = {}


def key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key; the same number gives the same one, because making one takes long."""
    if (number, bits) not in _KEYS:
        _KEYS[number, bits] = rsa.generate_private_key(65537, bits)
    return _KEYS[number, bits]


def make(
    own: Key | None = None,
    *,
    name: str = "server",
    uri: str = URI,
    hosts: Sequence[str] = ("plc-7",),
    days: tuple[float, float] = (-1, 400),
    signer: Pair | None = None,
    authority: bool = False,
    lacking: Sequence[str] = (),
    purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
    algorithm: hashes.HashAlgorithm | None = None,
) -> Pair:
    """A certificate that passes every check, but for what is said. `lacking` names key usages that it does not have."""
    own = own or key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    usage = {
        use: use not in lacking
        for use in ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_cert_sign")
    }
    usage["key_cert_sign"] &= signer is None or authority
    builder = (
        x509.CertificateBuilder(
            subject if signer is None else signer.certificate.subject, subject, own.public_key(), x509.random_serial_number()
        )
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=False)
        .add_extension(
            x509.KeyUsage(key_agreement=False, crl_sign=authority, encipher_only=False, decipher_only=False, **usage),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((own if signer is None else signer.key).public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if purposes and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    return Pair(builder.sign(own if signer is None else signer.key, algorithm or hashes.SHA256()), own)


def authority(number: int = 1, name: str = "Plant CA", **more: object) -> Pair:
    """An authority of the plant."""
    return make(key(number), name=name, uri="", hosts=(), authority=True, **more)  # type: ignore[arg-type]


def revoking(signer: Pair, *revoked: Pair, days: tuple[float, float] = (-1, 1)) -> bytes:
    """A revocation list of an authority, PEM."""
    builder = x509.CertificateRevocationListBuilder(
        signer.certificate.subject, NOW + timedelta(days=days[0]), NOW + timedelta(days=days[1])
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(one.certificate.serial_number, NOW).build())
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
