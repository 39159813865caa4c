"""Why TLS with IoT Core fails, in under three seconds: the SDK tells after twenty, and then without a reason. Blocking."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError, NotConnected

_ALPN: Final = "x-amzn-mqtt-ca"
_PATIENCE_S: Final = 2.5


def context_of(certificate: Path | None, key: Path | None, ca: Path | None, where: str) -> ssl.SSLContext:
    """Without certificate and key only the other side is judged. Raises ConfigError that names the file."""
    try:
        made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} cannot be used: {error}", where=f"{where}.ca", hint="a PEM file is wanted") from error
    if certificate is None or key is None:
        return made
    for file, option in ((certificate, "certificate"), (key, "key")):
        if not file.is_file():
            raise ConfigError(f"{file} is not there", where=f"{where}.{option}", hint="paths are relative to the YAML file")
    try:
        made.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{certificate} with {key} cannot be used: {error}",
            where=f"{where}.certificate",
            hint="PEM files that belong together, the key without a pass phrase",
        ) from error
    _dates(certificate, where)
    made.maximum_version = ssl.TLSVersion.TLSv1_2  # here the other side judges our certificate within the handshake
    return made


def _dates(certificate: Path, where: str) -> None:
    """Raises when the certificate is of another time than this machine has: the other side would say no more than that it refuses."""
    from cryptography import x509

    parsed, now = x509.load_pem_x509_certificate(certificate.read_bytes()), datetime.now(UTC)
    if parsed.not_valid_after_utc < now:
        raise ConfigError(
            f"{certificate} has expired on {parsed.not_valid_after_utc:%Y-%m-%d}",
            where=f"{where}.certificate",
            hint=f"give the thing a new certificate, or set the clock of this machine, which says {now:%Y-%m-%d}",
        )
    if parsed.not_valid_before_utc > now:
        raise NotConnected(
            f"{certificate} is valid from {parsed.not_valid_before_utc:%Y-%m-%d %H:%M} UTC and the clock of this machine says "
            f"{now:%Y-%m-%d %H:%M}: is it right?"
        )


def examine(host: str, port: int, context: ssl.SSLContext, where: str, *, alpn: str = _ALPN) -> None:
    """One handshake. Raises NotConnected where nobody is there, ConfigError where a certificate is the reason."""
    if port == 443:
        context.set_alpn_protocols([alpn])
    try:
        with (
            socket.create_connection((host, port), timeout=_PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.settimeout(_PATIENCE_S)
    except ssl.SSLCertVerificationError as error:
        raise _of_theirs(host, error, where) from error
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if "ALERT" in reason:
            raise ConfigError(
                f"{host} does not take this gateway's certificate ({reason.lower().replace('_', ' ')})",
                where=f"{where}.certificate",
                hint="it is registered, active and attached to a policy in this account and region, and not expired",
            ) from error
        raise NotConnected(f"{host}:{port} does not speak TLS: {reason}") from error
    except TimeoutError as error:
        raise NotConnected(f"{host}:{port} does not answer within {_PATIENCE_S:g} s") from error
    except ConnectionResetError as error:
        raise NotConnected(f"{host}:{port} hangs up during the handshake: does it take this gateway's certificate?") from error
    except OSError as error:
        raise NotConnected(f"{host}:{port}: {error.strerror or error}") from error


def _of_theirs(host: str, error: ssl.SSLCertVerificationError, where: str) -> ConfigError | NotConnected:
    reason = error.verify_message
    if error.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
        return NotConnected(f"{host}: {reason}: is the clock of this machine right?")
    hint = "name Amazon's root with `ca`" if error.verify_code in (18, 19, 20, 21) else "correct `endpoint`"
    return ConfigError(f"{host} is not believed: {reason}", where=f"{where}.{'ca' if 'ca`' in hint else 'endpoint'}", hint=hint)
