"""Which servers are trusted: the directories of certificates, and what is kept of a server that was refused. Blocking; call in a thread.

Directories below the trust directory: `trusted/` (certificates of servers, or of the authorities that signed them), `issuers/`
(authorities that are not trusted themselves and complete a chain), `revoked/` (revocation lists), `rejected/` (what was refused, with
the reason beside it, for a person to compare and accept). Files are DER or PEM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from schemas.errors import ConfigError

from .certificates import (
    Expected,
    Problem,
    clean,
    fingerprint,
    is_authority,
    parse,
    problems,
    signed,
    subject,
    thumbprint,
    validity,
)

FOLDERS: Final = ("trusted", "issuers", "revoked", "rejected")
_MAX_REJECTED: Final = 20
_MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class Trust:
    """The servers that are trusted, as of the moment of loading."""

    directory: Path
    certificates: tuple[x509.Certificate, ...]
    issuers: tuple[x509.Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...]

    @classmethod
    def load(cls, directory: Path) -> Trust:
        """What `directory` holds; its folders are made when missing. Raises ConfigError naming a file that is not a certificate."""
        try:
            for folder in FOLDERS:
                (directory / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the trust directory {directory}: {error.strerror}") from error
        certificates, issuers = (
            tuple(read_certificate(file) for file in _files(directory / folder)) for folder in ("trusted", "issuers")
        )
        return cls(directory, certificates, issuers, tuple(_read_list(file) for file in _files(directory / "revoked")))

    def examine(
        self, sent: Sequence[x509.Certificate], expected: Expected, now: datetime, skew: timedelta | None = None
    ) -> list[Problem]:
        """Every check that a server's chain (`sent`, its own certificate first) does not pass, the one to act on first."""
        certificate = sent[0]
        pinned = certificate in self.certificates
        return [*self._trust(sent, now), *problems(certificate, expected, now, pinned=pinned, skew=skew)]

    def _trust(self, sent: Sequence[x509.Certificate], now: datetime) -> Iterator[Problem]:
        chain, complete = self.chain(sent)
        pinned = sent[0] in self.certificates
        authorities = chain[1:]
        if not pinned and not any(authority in self.certificates for authority in authorities):
            yield from self._untrusted(chain, complete)
        for number, one in enumerate(chain):
            signer = chain[number + 1] if number + 1 < len(chain) else None
            yield from self._revocation(one, signer, now, own=number == 0)
        if not pinned:
            for authority in authorities:
                for problem in validity(authority, now):
                    yield Problem(
                        "BadCertificateIssuerTimeInvalid",
                        f"its authority {subject(authority)}: {problem.found}",
                        "renew the authority's certificate and the server's with it",
                    )

    def _untrusted(self, chain: Sequence[x509.Certificate], complete: bool) -> Iterator[Problem]:
        certificate = chain[0]
        accept = f"compare its fingerprint with the one that the server shows, then: genba trust accept {{}} {fingerprint(certificate)[:12]}"
        if complete:
            yield Problem("BadCertificateUntrusted", "its certificate is not trusted", accept)
        else:
            missing = clean(chain[-1].issuer.rfc4514_string())
            yield Problem(
                "BadCertificateChainIncomplete",
                f"its certificate is not trusted, and the authority {missing} that signed it is not known here",
                f"put the certificate of that authority into {self.directory / 'trusted'}, or trust this one alone: {accept}",
            )

    def chain(self, sent: Sequence[x509.Certificate]) -> tuple[list[x509.Certificate], bool]:
        """From the server's certificate up as far as authorities are known, and whether it ends in one that signed itself."""
        known = [*self.certificates, *self.issuers, *sent[1:]]
        chain = [sent[0]]
        while not signed(chain[-1], chain[-1]):
            above = next((one for one in known if is_authority(one) and one not in chain and signed(chain[-1], one)), None)
            if above is None or len(chain) == _MAX_CHAIN:
                return chain, False
            chain.append(above)
        return chain, True

    def _revocation(
        self, certificate: x509.Certificate, signer: x509.Certificate | None, now: datetime, *, own: bool
    ) -> Iterator[Problem]:
        whose = "its certificate" if own else f"the certificate of its authority {subject(certificate)}"
        lists = [one for one in self.revocations if one.issuer == certificate.issuer and (signer is None or _lists(one, signer))]
        if any(one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None for one in lists):
            yield Problem(
                "BadCertificateRevoked" if own else "BadCertificateIssuerRevoked",
                f"{whose} was revoked (a list below {self.directory / 'revoked'} names it)",
                "make the server a new certificate; somebody revoked this one on purpose",
            )
        elif signer is None or certificate == signer:
            return
        elif not lists:
            yield Problem(
                "BadCertificateRevocationUnknown",
                f"there is no revocation list of {subject(signer)}, so nobody knows whether {whose} was revoked",
                f"put the revocation list of that authority into {self.directory / 'revoked'}",
                fatal=False,
            )
        elif all(one.next_update_utc is not None and one.next_update_utc < now for one in lists):
            yield Problem(
                "BadCertificateRevocationUnknown",
                f"the revocation list of {subject(signer)} is out of date",
                f"put the present list of that authority into {self.directory / 'revoked'}",
                fatal=False,
            )

    def reject(self, certificate: x509.Certificate, reason: str, endpoint: str) -> None:
        """Keep a refused certificate, and why, for a person. At most 20 are kept; the one refused longest ago goes first."""
        rejected = self.directory / "rejected"
        target = rejected / f"{thumbprint(certificate)}.der"
        if not target.exists():
            kept = sorted(rejected.glob("*.der"), key=lambda file: file.stat().st_mtime_ns)
            for file in kept[: len(kept) - _MAX_REJECTED + 1] if len(kept) >= _MAX_REJECTED else ():
                file.unlink(missing_ok=True)
                reason_file(file).unlink(missing_ok=True)
            write(target, certificate.public_bytes(Encoding.DER), 0o644)
        note_reason(target, reason, endpoint)


def reason_file(certificate: Path) -> Path:
    """Where the reason for rejecting a certificate is kept."""
    return certificate.with_suffix(".json")


def note_reason(certificate: Path, reason: str, endpoint: str) -> None:
    """Keep why a certificate was rejected, and since when; written only when it is another reason than before."""
    file = reason_file(certificate)
    if read_reason(certificate) == reason:
        return
    told = {"reason": reason, "endpoint": endpoint, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    write(file, json.dumps(told, ensure_ascii=False, indent=1).encode(), 0o644)


def read_reason(certificate: Path) -> str:
    """Why a rejected certificate was rejected; empty when nobody wrote it down."""
    try:
        told = json.loads(reason_file(certificate).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(told.get("reason", "")) if isinstance(told, dict) else ""


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(f"{path.suffix}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    part.replace(path)


def read_certificate(file: Path) -> x509.Certificate:
    """A certificate file, DER or PEM. Raises ConfigError that names it."""
    try:
        content = file.read_bytes()
        return parse(content, pem=content.lstrip().startswith(b"-----"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "DER or PEM is expected"
        raise ConfigError(
            f"{file} is not a readable certificate: {why}", hint="take it out, or put the right file there"
        ) from error


def _read_list(file: Path) -> x509.CertificateRevocationList:
    try:
        content = file.read_bytes()
        return x509.load_pem_x509_crl(content) if content.lstrip().startswith(b"-----") else x509.load_der_x509_crl(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a readable revocation list: {error}", hint="DER or PEM is expected") from error


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix != ".part" and file.name[0] != "."]


def _lists(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    public = signer.public_key()
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    try:
        return crl.is_signature_valid(public)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
