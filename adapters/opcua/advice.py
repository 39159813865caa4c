"""What a doctor says of certificates: both of them side by side, and where in a server ours is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from cryptography import x509

from . import certificates as c

_WIDTH: Final = 40

TRUST_US: Final = """In the server, trust the certificate of this gateway: SHA-1 {sha1}, file {file}
(`genba trust own FILE ADAPTER --export genba.der` copies it). Most servers list it among the rejected clients by now.
S7-1500, S7-1200: TIA Portal -> the CPU -> Properties -> OPC UA -> Server -> Security -> Secure channel -> Trusted clients: add it
   (import it in the certificate manager first: Protection & Security -> Certificate manager, with the global security settings on);
   compile, download.
KEPServerEX: the Kepware icon in the task bar -> OPC UA Configuration -> Trusted Clients -> the entry with the red cross -> Trust.
Ignition: Config -> OPC UA -> Security -> Server -> Quarantined Certificates -> Trust.
Prosys: the view Certificates -> the entry -> Trust. Unified Automation and .NET servers: move the file in the server's PKI folder from
   rejected/certs to trusted/certs."""


def side_by_side(server: x509.Certificate, ours: x509.Certificate) -> str:
    """Both certificates, field by field, as lines of a table."""
    rows = [("", "server", "this gateway")]
    left, right = dict(_fields(server)), dict(_fields(ours))
    rows += [(name, left[name], right[name]) for name in left]
    return "\n".join(line for row in rows for line in _row(*row))


def _fields(certificate: x509.Certificate) -> Iterator[tuple[str, str]]:
    yield "subject", c.subject(certificate)
    yield "issuer", c.issuer(certificate)
    yield "application", c.clean(c.application_uri(certificate)) or "-"
    yield "hosts", c.clean(", ".join(c.hosts(certificate))) or "-"
    yield "valid from", f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    yield "valid to", f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    yield "key", f"{c.key(certificate)}, signed with {c.signature(certificate)}"
    yield "SHA-1", c.thumbprint(certificate)
    yield "SHA-256", c.fingerprint(certificate)


def _row(name: str, left: str, right: str) -> Iterator[str]:
    lefts, rights = wrap(left, _WIDTH) or [""], wrap(right, _WIDTH) or [""]
    for number in range(max(len(lefts), len(rights))):
        one = lefts[number] if number < len(lefts) else ""
        other = rights[number] if number < len(rights) else ""
        yield f"{name if number == 0 else '':<11}  {one:<{_WIDTH}}  {other}".rstrip()
