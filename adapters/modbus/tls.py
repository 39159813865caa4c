"""Modbus/TCP Security: the certificates of a `tls://` endpoint, and in words why a handshake failed.

The device proves who it is (MODBUS/TCP Security Protocol Specification V21, 8); with `certificate` the gateway does so too.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError, GenbaError, NotConnected

from .config import ModbusConfig

# Codes of X509_verify_cert that say when and not whom: they pass without anybody editing a file.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_NAMES: Final = (62, 64)  # host name mismatch, IP address mismatch
_UNKNOWN_AUTHORITY: Final = (18, 19, 20, 21)
_OUR_CERTIFICATE: Final = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "HANDSHAKE_FAILURE",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)


def tls_context(config: ModbusConfig, base: Path) -> ssl.SSLContext:
    """Verifying unless `insecure`, TLS 1.2 at least; made anew only when a file has changed. Blocking: looks at the files.

    Raises ConfigError that names the option.
    """
    system = ssl.get_default_verify_paths()
    paths = [base / path if path else None for path in (config.ca, config.certificate, config.key)]
    seen = tuple(_version(path) for path in (*paths, system.cafile, system.capath))
    return _made(config.ca, config.certificate, config.key, config.insecure, base, seen)


@lru_cache(
    maxsize=32
)  # a device that is away is tried every few seconds, and the system's authorities take longer to load than that
def _made(
    ca: str | None, certificate: str | None, key: str | None, insecure: bool, base: Path, _seen: tuple[object, ...]
) -> ssl.SSLContext:
    option, file = "ca", ca
    try:
        made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=None if ca is None else base / ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        option, file = "certificate", certificate
        if certificate is not None:
            made.load_cert_chain(base / certificate, None if key is None else base / key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{option} {file} cannot be used: {error}", hint="a PEM file is wanted, without a password") from error
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _version(path: Path | str | None) -> tuple[int, ...] | None:
    """Tells one state of a file from another."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def failure_of(config: ModbusConfig, error: ssl.SSLError) -> GenbaError:
    """ConfigError where a file or the entry must be edited, NotConnected where the device or the time is at fault."""
    where = config.endpoint
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            state = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
            return NotConnected(
                f"{where}: the device's certificate {state}; renew it on the device, or set the clock of this machine"
            )
        if error.verify_code in _NAMES:
            name = config.server_name or config.host
            return ConfigError(
                f"{where}: the device's certificate is not for {name}", hint="write the name that it is for as `server_name`"
            )
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return ConfigError(
                f"{where}: the device's certificate is not trusted: {error.verify_message}",
                hint="name the PEM file of the authority that signed it, or the certificate itself, as `ca`",
            )
        return ConfigError(f"{where}: the device's certificate is not accepted: {error.verify_message}")
    return NotConnected(f"{where}: {reason_of(error)}")


def reason_of(error: ssl.SSLError) -> str:
    """Why there is no TLS connection, or none any more."""
    reason = error.reason or ""
    if any(one in reason for one in _OUR_CERTIFICATE):
        return f"the device does not accept this gateway's certificate ({reason.replace('_', ' ').lower()}); see `certificate` and `key`"
    if "WRONG_VERSION" in reason or "UNEXPECTED" in reason or "RECORD" in reason:
        return "the other side does not speak TLS; is it a tcp:// device?"
    return f"no TLS connection: {reason.replace('_', ' ').lower() or error}"
