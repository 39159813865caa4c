"""The trust list as `genba trust` works on it: what is there, accept, reject. Blocking; call it where that is no harm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

from schemas.certificates import StoredCertificate
from schemas.errors import ConfigError

from . import certificates as c
from .identity import Identities
from .pki import FOLDERS, note_reason, read_certificate, read_reason, reason_file

State = Literal["trusted", "issuer", "rejected", "own", "renewed"]
_STATES: Final[Mapping[State, str]] = {"trusted": "trusted", "issuer": "issuers", "rejected": "rejected"}
_SHORTEST: Final = 4


@dataclass(frozen=True, slots=True)
class Store:
    """The directories of one trust list; `identity` is where our certificate is (None: this list has none) and its name."""

    directory: Path
    identity: Path | None = None
    name: str = ""

    def entries(self) -> Sequence[StoredCertificate]:
        """As `TrustStore` says. An unreadable file among the rejected is passed over."""
        found: list[StoredCertificate] = []
        for state, folder in _STATES.items():
            found += sorted(self._of(state, folder), key=lambda entry: (entry.subject, entry.sha256))
        return found + list(self._ours())

    def accept(self, fingerprint: str) -> StoredCertificate:
        """As `TrustStore` says. The certificate moves to `trusted/`; a certificate that is trusted already stays there."""
        entry = self._find(fingerprint, "rejected", "trusted")
        if entry.state == "trusted":
            return entry
        target = self.directory / "trusted" / entry.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        entry.path.replace(target)
        reason_file(entry.path).unlink(missing_ok=True)
        return describe(read_certificate(target), "trusted", target)

    def reject(self, fingerprint: str) -> StoredCertificate:
        """As `TrustStore` says. The certificate moves to `rejected/`; connections that stand are not cut."""
        entry = self._find(fingerprint, "trusted", "rejected")
        if entry.state == "rejected":
            return entry
        target = self.directory / "rejected" / f"{entry.sha1}{entry.path.suffix or '.der'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        entry.path.replace(target)
        note_reason(target, f"no longer trusted: rejected by a person on {datetime.now(UTC):%Y-%m-%d}", "")
        return describe(read_certificate(target), "rejected", target, read_reason(target))

    def own(self) -> StoredCertificate | None:
        """As `TrustStore` says; the successor where there is one, because that is what the server should trust."""
        ours = list(self._ours(make=True))
        return ours[-1] if ours else None

    def _of(self, state: State, folder: str) -> Iterator[StoredCertificate]:
        place = self.directory / folder
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if not file.is_file() or file.suffix in (".json", ".part") or file.name.startswith("."):
                continue
            try:
                parsed = read_certificate(file)
            except ConfigError:
                if state != "rejected":
                    raise
                continue
            yield describe(parsed, state, file, read_reason(file) if state == "rejected" else "")

    def _ours(self, *, make: bool = False) -> Iterator[StoredCertificate]:
        if self.identity is None or not (make or (self.identity / "own" / "certificate.der").exists()):
            return
        identities = Identities.load_or_make(self.identity, self.name)
        yield describe(identities.current.parsed, "own", identities.current.certificate)
        if identities.successor is not None:
            yield describe(identities.successor.parsed, "renewed", identities.successor.certificate)

    def _find(self, given: str, first: State, second: State) -> StoredCertificate:
        """The one certificate whose SHA-256 or SHA-1 fingerprint begins with `given`: of state `first`, else of `second`."""
        wanted = given.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "").replace("-", "")
        if len(wanted) < _SHORTEST or not set(wanted) <= set("0123456789abcdef"):
            raise ConfigError(
                f"{given!r} is not the beginning of a fingerprint",
                hint=f"at least {_SHORTEST} hexadecimal digits, as `genba trust list` shows them",
            )
        if not self.directory.is_dir():
            raise ConfigError(
                f"there is no trust list at {self.directory}", hint="it is made when the gateway first connects with `security`"
            )
        entries = [entry for state in (first, second) for entry in self._of(state, _STATES[state])]
        for state in (first, second):
            fitting = {
                entry.sha256: entry
                for entry in entries
                if entry.state == state and (entry.sha256.startswith(wanted) or entry.sha1.startswith(wanted))
            }
            if len(fitting) > 1:
                listed = "; ".join(f"{entry.sha256[:16]} {entry.subject}" for entry in fitting.values())
                raise ConfigError(f"{given} fits {len(fitting)} certificates: {listed}", hint="give more digits")
            if fitting:
                return next(iter(fitting.values()))
        raise ConfigError(
            f"no {first} certificate has a fingerprint that begins with {given}", hint=_nearest(wanted, first, entries)
        )


def _nearest(wanted: str, state: State, entries: Sequence[StoredCertificate]) -> str:
    known = {fingerprint[: len(wanted)]: entry for entry in entries for fingerprint in (entry.sha1, entry.sha256)}
    near = get_close_matches(wanted, known, n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]} ({known[near[0]].subject})?"
    there = [f"{entry.sha256[:12]} {entry.subject}" for entry in entries if entry.state == state]
    return f"there is {'; '.join(there[:5])}" if there else f"nothing is {state} there; see `genba trust list`"


def describe(certificate: x509.Certificate, state: State, path: Path, reason: str = "") -> StoredCertificate:
    """A certificate as `genba trust` shows it."""
    return StoredCertificate(
        state=state,
        subject=c.subject(certificate),
        issuer=c.issuer(certificate),
        uri=c.clean(c.application_uri(certificate)),
        hosts=tuple(c.clean(host) for host in c.hosts(certificate)),
        sha256=c.fingerprint(certificate),
        sha1=c.thumbprint(certificate),
        valid_from_us=c.micros(certificate.not_valid_before_utc),
        expires_us=c.expires_us(certificate),
        key=c.key(certificate),
        signature=c.signature(certificate),
        path=path,
        reason=reason,
    )


def at(directory: Path) -> Store:
    """The trust list in a directory. Raises ConfigError when it is not one."""
    if not directory.is_dir():
        raise ConfigError(f"there is no directory {directory}", hint="name the one that `security.trust` names")
    if not any((directory / folder).is_dir() for folder in FOLDERS):
        raise ConfigError(
            f"{directory} is not a trust list: it has none of {', '.join(FOLDERS)}",
            hint="name the one that `security.trust` names",
        )
    own = directory if (directory / "own" / "certificate.der").exists() else None
    return Store(directory, own)
