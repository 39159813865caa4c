"""Modbus/TCP Security: the certificates of a `tls://` endpoint, and in words why a handshake failed.

The device proves who it is (MODBUS/TCP Security Protocol Specification V21, 8); with `certificate` the gateway does so too.
"""

from __future__ import annotations

import ssl
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
    """Verifying unless `insecure`, TLS 1.2 at least. Blocking: reads the files. Raises ConfigError that names the option."""
    made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    option = "ca"
    try:
        if config.ca is not None:
            made.load_verify_locations(base / config.ca)
        option = "certificate"
        if config.certificate is not None:
            key = None if config.key is None else base / config.key
            made.load_cert_chain(base / config.certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{option} {getattr(config, option)} cannot be used: {error}", hint="a PEM file is wanted, without a password"
        ) from error
    if config.insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


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
