"""Our own application certificate: made on first use, and renewed so that the old one serves until the server trusts the new.

Below `own/`: `certificate.der` and `key.pem` in use, and `renewed/` with those that are to follow. Blocking; call in a thread.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from asyncua.crypto.cert_gen import dump_private_key_as_pem, generate_private_key, generate_self_signed_app_certificate
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from schemas.errors import ConfigError

from .certificates import application_uri
from .pki import read_certificate, write

_DAYS: Final = 5 * 365
_OVERLAP: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Identity:
    """An application certificate of ours with its key, as files, and the application URI that it names."""

    certificate: Path
    key: Path
    uri: str
    parsed: x509.Certificate
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class Identities:
    """Our certificate, and its successor once the end is near. `candidates` is in the order to try."""

    current: Identity
    successor: Identity | None

    @classmethod
    def load_or_make(cls, directory: Path, name: str, now: datetime | None = None) -> Identities:
        """Those in `directory`/own, made where they are missing or the end is near. Raises ConfigError for what cannot be read or made.

        A certificate that an authority signed is never replaced by one of ours: its end is told and a person acts.
        """
        now = now or datetime.now(UTC)
        own = directory / "own"
        try:
            current = _finish(own) or _load(own) or _make(own, name, "")
            if _self_signed(current) and current.parsed.not_valid_after_utc <= now:  # nobody takes it any more: no overlap needed
                successor = _load(own / "renewed", renewed=True)
                usable = successor is not None and successor.parsed.not_valid_after_utc > now
                current = promote(own, successor) if successor and usable else _make(own, name, current.uri)
                shutil.rmtree(own / "renewed", ignore_errors=True)
            successor = _load(own / "renewed", renewed=True)
            if successor is None and _self_signed(current) and due(current.parsed, now):
                successor = _make(own / "renewed", name, current.uri, renewed=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make or read the certificate of this gateway in {own}: {error.strerror}",
                hint="the user that runs the gateway must own that directory",
            ) from error
        return cls(current, successor)

    @property
    def candidates(self) -> Sequence[Identity]:
        """Newest first."""
        return (self.current,) if self.successor is None else (self.successor, self.current)


def due(certificate: x509.Certificate, now: datetime) -> bool:
    """True when a successor should stand by: 90 days before the end, or a third of its life where that is shorter."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= last - min(_OVERLAP, (last - first) / 3)


def promote(own: Path, identity: Identity) -> Identity:
    """Make the successor, which the server has taken, the one in use. The former one is removed."""
    # The key first: a power cut in between leaves the new key beside the old certificate, which `_finish` recognises.
    identity.key.replace(own / "key.pem")
    identity.certificate.replace(own / "certificate.der")
    shutil.rmtree(own / "renewed", ignore_errors=True)
    return Identity(own / "certificate.der", own / "key.pem", identity.uri, identity.parsed)


def _load(folder: Path, *, renewed: bool = False) -> Identity | None:
    """The pair in a folder; None when there is none. Raises ConfigError for a certificate without its key: a person put it there."""
    certificate, key = folder / "certificate.der", folder / "key.pem"
    if not certificate.exists():
        return None
    parsed = read_certificate(certificate)
    if not key.exists() or _public(key) != parsed.public_key():
        raise ConfigError(
            f"{key} is not the key of {certificate.name} beside it", hint="put the right key there, or remove both files"
        )
    uri = application_uri(parsed)
    if not uri:
        raise ConfigError(f"{certificate} names no application URI", hint="OPC UA needs one in the subject alternative name")
    return Identity(certificate, key, uri, parsed, renewed)


def _finish(own: Path) -> Identity | None:
    """The successor's certificate where its key was already put in place, and then the power went."""
    key, certificate = own / "key.pem", own / "renewed" / "certificate.der"
    if not (key.exists() and certificate.exists()):
        return None
    parsed = read_certificate(certificate)
    if _public(key) != parsed.public_key():
        return None
    certificate.replace(own / "certificate.der")
    shutil.rmtree(own / "renewed", ignore_errors=True)
    return Identity(own / "certificate.der", key, application_uri(parsed), parsed)


def _public(key: Path) -> PublicKeyTypes:
    try:
        return load_pem_private_key(key.read_bytes(), password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key} is not a readable private key", hint="PEM without a password is expected") from error


def _self_signed(identity: Identity) -> bool:
    return identity.parsed.issuer == identity.parsed.subject


def _make(folder: Path, name: str, uri: str, *, renewed: bool = False) -> Identity:
    """A new pair. `uri` is kept from a former certificate, because servers know us by it; empty: made from the host's name."""
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    uri = uri or f"urn:{host}:{name.replace(' ', ':')}"
    private = generate_private_key()
    made = generate_self_signed_app_certificate(
        private,
        name,
        {},
        [x509.UniformResourceIdentifier(uri), x509.DNSName(host)],
        [ExtendedKeyUsageOID.CLIENT_AUTH],
        days=_DAYS,
    )
    write(folder / "key.pem", dump_private_key_as_pem(private), 0o600)
    write(folder / "certificate.der", made.public_bytes(Encoding.DER), 0o644)
    return Identity(folder / "certificate.der", folder / "key.pem", uri, made, renewed)
