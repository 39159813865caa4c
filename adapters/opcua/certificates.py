"""What a certificate says and whether that fits: pure functions over parsed certificates, no files and no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .policies import Policy

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_WEAK: Final = frozenset({"md5", "sha1"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A check that a certificate does not pass. `status` is OPC UA's name of it; one that is not `fatal` is told and lived with."""

    status: str
    found: str
    way_out: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose certificate it should be: the server's application URI, the host of the endpoint, the policy it is used with."""

    uri: str
    host: str
    policy: Policy
    allow_other_host: bool = False
    allow_deprecated: bool = False


def split_chain(content: bytes) -> list[x509.Certificate]:
    """The certificates of a chain as a server sends it, its own first (OPC 10000-6, 6.2.6). Raises ValueError for anything else."""
    found = []
    while content:
        if len(content) < 4 or content[0] != 0x30:
            raise ValueError("not a certificate")
        first = content[1]  # DER: short form below 0x80, else the number of bytes that hold the length
        header = 2 if first < 0x80 else 2 + (first & 0x7F)
        length = first if first < 0x80 else int.from_bytes(content[2:header], "big")
        found.append(parse(content[: header + length]))
        content = content[header + length :]
        if len(found) > 10:
            raise ValueError("a chain of more than 10 certificates")
    return found


def parse(content: bytes, *, pem: bool = False) -> x509.Certificate:
    """One certificate, of which everything that is looked at here can be read. Raises ValueError for anything else.

    A server may send what it likes, and the library decodes most of a certificate only when it is asked for.
    """
    try:
        made = x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
        for part in ("extensions", "subject", "issuer", "not_valid_before_utc", "not_valid_after_utc", "serial_number"):
            getattr(made, part)
        made.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"not a certificate that can be read: {clean(str(error))}") from error
    except x509.InvalidVersion as error:
        raise ValueError("not a certificate of version 3") from error
    return made


def clean(text: str) -> str:
    """Text of a stranger, fit for a terminal and a log: no control characters, 200 characters at most."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def thumbprint(certificate: x509.Certificate) -> str:
    """SHA-1 in lower-case hexadecimal, as servers' lists of clients show it."""
    return certificate.fingerprint(hashes.SHA1()).hex()


def subject(certificate: x509.Certificate) -> str:
    """`CN=Press 7, O=Acme`; `-` where the certificate names nobody."""
    return _name(certificate.subject)


def issuer(certificate: x509.Certificate) -> str:
    """Who signed it: `self-signed`, or the authority's name."""
    return "self-signed" if certificate.issuer == certificate.subject else _name(certificate.issuer)


def _name(name: x509.Name) -> str:
    common = [*name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    rest = [attribute for attribute in name if attribute not in common]
    return clean(", ".join(f"{attribute.rfc4514_attribute_name}={attribute.value!s}" for attribute in (*common, *rest))) or "-"


def application_uri(certificate: x509.Certificate) -> str:
    """The application URI that it names; empty when it names none."""
    names = _alternative_names(certificate)
    found = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    return found[0] if found else ""


def hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    """Host names and IP addresses that it is for."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    return (*names.get_values_for_type(x509.DNSName), *(str(one) for one in names.get_values_for_type(x509.IPAddress)))


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def key(certificate: x509.Certificate) -> str:
    """`RSA 2048`."""
    try:
        public = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return "unknown"
    if isinstance(public, rsa.RSAPublicKey):
        return f"RSA {public.key_size}"
    return f"ECC {public.curve.name}" if isinstance(public, ec.EllipticCurvePublicKey) else type(public).__name__.strip("_")


def signature(certificate: x509.Certificate) -> str:
    """`SHA256`: the hash under its signature."""
    try:
        used = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "unknown"
    return "none" if used is None else used.name.upper()


def expires_us(certificate: x509.Certificate) -> int:
    """The end of its validity in µs UTC."""
    return micros(certificate.not_valid_after_utc)


def micros(moment: datetime) -> int:
    """A moment in µs UTC."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def is_authority(certificate: x509.Certificate) -> bool:
    """True when it may sign others."""
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """True when `authority` has signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def matches_host(certificate: x509.Certificate, host: str) -> bool:
    """True when it is for that host, by name or address; `*.plant.example` stands for one label."""
    wanted = host.rstrip(".").casefold()
    for name in hosts(certificate):
        known = name.rstrip(".").casefold()
        if known == wanted or (known.startswith("*.") and wanted.partition(".")[2] == known[2:]):
            return True
        try:
            if ip_address(known) == ip_address(wanted):
                return True
        except ValueError:
            continue
    return False


def problems(
    certificate: x509.Certificate, expected: Expected, now: datetime, *, pinned: bool, skew: timedelta | None = None
) -> Iterator[Problem]:
    """Everything about a server's certificate that does not fit, but trust and revocation, which `Trust` knows (OPC 10000-4, 6.1.3).

    `pinned`: a person trusts this very certificate. Then who else might show it does not matter, and neither does the hash under its
    signature. `skew` is the server's clock minus ours.
    """
    yield from validity(certificate, now, skew)
    yield from _host(certificate, expected, pinned)
    named = application_uri(certificate)
    if named != expected.uri:
        yield Problem(
            "BadCertificateUriInvalid",
            f"application URI: the certificate names {clean(named) or 'none'}, the server says it is {clean(expected.uri) or 'nothing'}",
            "make the server a new certificate (most do when the old one is deleted and the server is restarted), then accept that",
        )
    yield from _usage(certificate)
    yield from _algorithm(certificate, expected, pinned)


def validity(certificate: x509.Certificate, now: datetime, skew: timedelta | None = None) -> Iterator[Problem]:
    """Expired, or not yet valid."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clocks = f"the clock of the gateway says {now:%Y-%m-%d %H:%M} UTC"
    if skew is not None and abs(skew) > timedelta(minutes=1):
        clocks += f", the server's {now + skew:%Y-%m-%d %H:%M}"
    if now > last:
        yield Problem(
            "BadCertificateTimeInvalid",
            f"expired on {last:%Y-%m-%d %H:%M} UTC",
            f"renew the certificate of the server; where a clock is wrong, set it: {clocks}",
        )
    elif now < first:
        yield Problem(
            "BadCertificateTimeInvalid",
            f"not valid before {first:%Y-%m-%d %H:%M} UTC",
            f"set the clock that is wrong: {clocks}; a certificate that was made with a wrong clock must be made anew",
        )


def _host(certificate: x509.Certificate, expected: Expected, pinned: bool) -> Iterator[Problem]:
    if expected.host.casefold() in LOOPBACK or matches_host(certificate, expected.host):
        return
    known = clean(", ".join(hosts(certificate))) or "no host at all"
    yield Problem(
        "BadCertificateHostNameInvalid",
        f"host name: the endpoint says {expected.host}, the certificate is for {known}",
        "write one of these names into `endpoint`, or make the server a certificate with the name that is used; "
        "`security.allow_other_host: true` accepts it as it is",
        fatal=not (pinned or expected.allow_other_host),
    )


def _usage(certificate: x509.Certificate) -> Iterator[Problem]:
    extensions = certificate.extensions
    way_out = "make the server a certificate for OPC UA servers (OPC 10000-6, 6.2.2)"
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        lacking = [
            name
            for name, has in (
                ("digital signature", usage.digital_signature),
                ("key encipherment", usage.key_encipherment),
                ("data encipherment", usage.data_encipherment),
                ("non-repudiation", usage.content_commitment),
            )
            if not has
        ]
        if lacking:
            works = usage.digital_signature and (usage.key_encipherment or usage.data_encipherment)
            yield Problem("BadCertificateUseNotAllowed", f"key usage: it lacks {', '.join(lacking)}", way_out, fatal=not works)
    except x509.ExtensionNotFound:
        yield Problem("BadCertificateUseNotAllowed", "key usage: the certificate says nothing of it", way_out, fatal=False)
    try:
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(purposes):
            yield Problem("BadCertificateUseNotAllowed", "extended key usage: it is not for servers", way_out)
    except x509.ExtensionNotFound:
        yield Problem(
            "BadCertificateUseNotAllowed", "extended key usage: the certificate says nothing of it", way_out, fatal=False
        )


def _algorithm(certificate: x509.Certificate, expected: Expected, pinned: bool) -> Iterator[Problem]:
    public = certificate.public_key()
    policy = expected.policy
    if not isinstance(public, rsa.RSAPublicKey):
        yield Problem(
            "BadCertificatePolicyCheckFailed",
            f"key: {key(certificate)}, and policy {policy.name} needs RSA",
            "choose an endpoint with an RSA certificate; the policies on elliptic curves cannot be spoken yet",
        )
    elif not policy.bits[0] <= public.key_size <= policy.bits[1]:
        yield Problem(
            "BadCertificatePolicyCheckFailed",
            f"key: {public.key_size} bits, and policy {policy.name} takes {policy.bits[0]} to {policy.bits[1]}",
            "make the server a certificate with an RSA key of 2048 bits",
        )
    used = signature(certificate)
    if used.lower() in _WEAK and not policy.deprecated:
        yield Problem(
            "BadCertificatePolicyCheckFailed",
            f"signature: {used}, which can be forged",
            "make the server a certificate signed with SHA-256",
            fatal=not (pinned or expected.allow_deprecated),
        )
