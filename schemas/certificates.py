"""Certificates as the gateway sees them, whatever protocol they secure: what to watch, what is trusted, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class CertificateFact:
    """A certificate in use on a connection. `expires_us` is in µs UTC; `action` is what a person does before it expires."""

    owner: Literal["own", "server"]
    subject: str
    fingerprint: str  # SHA-256, lower-case hexadecimal
    expires_us: int
    action: str


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """One certificate of a trust store. `reason` says why a rejected one was refused; times are in µs UTC.

    `sha256` and `sha1` are fingerprints in lower-case hexadecimal: servers and engineering tools show the one or the other.
    """

    state: Literal["trusted", "issuer", "rejected", "own", "renewed"]
    subject: str
    issuer: str
    uri: str
    hosts: Sequence[str]
    sha256: str
    sha1: str
    valid_from_us: int
    expires_us: int
    key: str
    signature: str
    path: Path
    reason: str = ""


class TrustStore(Protocol):
    """Whom a connection trusts, as files below one directory. All methods block; call them where that is no harm.

    A running gateway reads the directory at each attempt to connect, so a change takes effect without a restart.
    """

    def entries(self) -> Sequence[StoredCertificate]:
        """Every certificate there is, by state and subject. Raises ConfigError that names an unreadable file of the trusted ones."""
        ...

    def accept(self, fingerprint: str) -> StoredCertificate:
        """Trust the rejected certificate whose fingerprint begins so. Raises ConfigError that says the way out."""
        ...

    def reject(self, fingerprint: str) -> StoredCertificate:
        """Trust the certificate whose fingerprint begins so no longer. Raises ConfigError that says the way out."""
        ...

    def own(self) -> StoredCertificate | None:
        """Our certificate, made when there is none yet; None for a store that has none (a directory of others' certificates)."""
        ...
