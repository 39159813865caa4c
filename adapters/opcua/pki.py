"""Certificates: the adapter's own application certificate, and which servers are trusted. Blocking; call in a thread.

Directories below the trust directory: `trusted/` (certificates of servers, or of the authorities that signed them), `revoked/`
(revocation lists), `rejected/` (what was refused, for a person to compare and move), `own/` (certificate and key of this adapter).
Files are DER or PEM.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.cert_gen import dump_private_key_as_pem, generate_private_key, generate_self_signed_app_certificate
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from schemas.errors import ConfigError

_DAYS: Final = 5 * 365
_OPTIONS: Final = CertificateValidatorOptions.BASIC_VALIDATION | CertificateValidatorOptions.PEER_SERVER
_MAX_REJECTED: Final = 20


@dataclass(frozen=True, slots=True)
class Identity:
    """The application certificate of one connection: files and the application URI that it names."""

    certificate: Path
    key: Path
    uri: str

    @classmethod
    def load_or_make(cls, directory: Path, name: str) -> Identity:
        """The certificate in `directory`/own, made on first use and when it has expired. Raises ConfigError when it cannot be read."""
        own = directory / "own"
        certificate, key = own / "certificate.der", own / "key.pem"
        if not (certificate.exists() and key.exists()):
            _make(certificate, key, name)
        made = _read(certificate)
        if made.not_valid_after_utc <= datetime.now(UTC):
            _make(certificate, key, name)
            made = _read(certificate)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return cls(certificate, key, names.get_values_for_type(x509.UniformResourceIdentifier)[0])


def _make(certificate: Path, key: Path, name: str) -> None:
    certificate.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    uri = f"urn:{host}:{name.replace(' ', ':')}"
    private = generate_private_key()
    made = generate_self_signed_app_certificate(
        private,
        name,
        {},
        [x509.UniformResourceIdentifier(uri), x509.DNSName(host)],
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        days=_DAYS,
    )
    _write(key, dump_private_key_as_pem(private), 0o600)
    _write(certificate, made.public_bytes(Encoding.DER), 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    part = path.with_suffix(f"{path.suffix}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class Trust:
    """The servers that are trusted, as of the moment of loading."""

    directory: Path
    certificates: tuple[x509.Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...]

    @classmethod
    def load(cls, directory: Path) -> Trust:
        """What `directory` holds; its folders are made when missing. Raises ConfigError naming a file that is not a certificate."""
        try:
            for folder in ("trusted", "revoked", "rejected"):
                (directory / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the trust directory {directory}: {error.strerror}") from error
        certificates = tuple(_read(file) for file in sorted((directory / "trusted").iterdir()) if file.is_file())
        lists = tuple(_read_list(file) for file in sorted((directory / "revoked").iterdir()) if file.is_file())
        return cls(directory, certificates, lists)

    async def validate(self, certificate: x509.Certificate, application: ua.ApplicationDescription) -> None:
        """Raises ServiceError with the status code of the check that fails: trust, revocation, validity period, application URI."""
        if not self.trusts(certificate):
            await asyncio.to_thread(self._reject, certificate)
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        if self.revoked(certificate):
            raise ServiceError(ua.StatusCodes.BadCertificateRevoked)
        await CertificateValidator(_OPTIONS)(certificate, application)

    def trusts(self, certificate: x509.Certificate) -> bool:
        """True when the certificate itself is trusted, or an authority that is trusted has signed it."""
        return any(known == certificate or (_is_authority(known) and _signed(certificate, known)) for known in self.certificates)

    def revoked(self, certificate: x509.Certificate) -> bool:
        """True when a revocation list of its issuer names it."""
        return any(
            crl.issuer == certificate.issuer
            and crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
            for crl in self.revocations
        )

    def _reject(self, certificate: x509.Certificate) -> None:
        rejected = self.directory / "rejected"
        target = rejected / f"{certificate.fingerprint(hashes.SHA1()).hex()}.der"
        if not target.exists() and len(list(rejected.iterdir())) < _MAX_REJECTED:
            _write(target, certificate.public_bytes(Encoding.DER), 0o644)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(file: Path) -> x509.Certificate:
    try:
        content = file.read_bytes()
        pem = content.lstrip().startswith(b"-----")
        return x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a readable certificate: {error}", hint="DER or PEM is expected") from error


def _read_list(file: Path) -> x509.CertificateRevocationList:
    try:
        content = file.read_bytes()
        return x509.load_pem_x509_crl(content) if content.lstrip().startswith(b"-----") else x509.load_der_x509_crl(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a readable revocation list: {error}", hint="DER or PEM is expected") from error
