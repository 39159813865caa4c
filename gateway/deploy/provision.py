"""Fleet provisioning: from a claim certificate that many boxes share to a certificate of this one.

The private key is made here, once, and never leaves: only a signing request goes out. Each step is on disk before the next one, so
that whatever ends the process, running it again goes on where it was. Files belong to the user that runs this alone (0600).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from schemas.errors import Busy, ConfigError, NotConnected

if TYPE_CHECKING:
    from cloud_sinks.iot_core.config import IotCoreConfig
    from cloud_sinks.iot_core.connection import Options
    from cloud_sinks.iot_core.provisioning import Certified, Provisioning, Registered

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_TOKEN_S: Final = 3300.0
"""How long an ownership token is used: the service forgets it after an hour."""
_ATTEMPTS: Final = 5
_BETWEEN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What is shared by the boxes of a fleet. Paths are relative to where the command runs."""

    certificate: Path
    key: Path
    template: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Provisioned:
    """`thing` is what the template named it. `fresh` is False where the certificate was there already."""

    thing: str
    certificate: Path
    key: Path
    configuration: Mapping[str, str]
    fresh: bool


class Fleet:
    """Provisions the box of one sink's entry. `say` gets a line per step. Blocking work is done in threads."""

    def __init__(self, config: IotCoreConfig, base: Path, claim: Claim, say: Callable[[str], None]) -> None:
        self._config, self._claim, self._say = config, claim, say
        if config.certificate is None or config.key is None:
            raise ConfigError(
                "only a gateway with a certificate and a key in files can be provisioned", hint="write certificate and key"
            )
        self._certificate, self._key = base / config.certificate, base / config.key
        self._ca = None if config.ca is None else base / config.ca
        self._waiting = self._certificate.with_name(f"{self._certificate.name}.pending")
        self._token = self._certificate.with_name(f"{self._certificate.name}.token")

    async def run(self) -> Provisioned:
        """Provision, or go on with it. Raises ConfigError, NotConnected, Busy; run again then."""
        key = await asyncio.to_thread(self._own_key)
        if await asyncio.to_thread(self._is_there, key):
            await asyncio.to_thread(self._clear)
            return Provisioned(self._config.thing, self._certificate, self._key, {}, fresh=False)
        registered = await self._registered(key)
        await asyncio.to_thread(self._finish)
        self._say(f"{self._certificate} is the certificate of {registered.thing}")
        return Provisioned(registered.thing, self._certificate, self._key, registered.configuration, fresh=True)

    async def verify(self, thing: str) -> None:
        """Connect with the new certificate, for a while: a policy takes a moment to be in force. Raises as connecting does."""
        for attempt in range(_ATTEMPTS):
            try:
                await self._connects(thing, self._certificate)
                return
            except (ConfigError, NotConnected):
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_BETWEEN_S)

    async def _registered(self, key: PrivateKey) -> Registered:
        from cloud_sinks.iot_core.provisioning import Provisioning, Registered, TokenSpent

        provisioning = Provisioning(await self._options(self._claim.certificate, self._claim.key))
        certified = await asyncio.to_thread(self._kept)
        try:
            await provisioning.open()
            if certified is not None:
                self._say("going on with the certificate that was signed before")
            else:
                certified = await self._certified(provisioning, key)
            try:
                return await self._register(provisioning, certified)
            except TokenSpent:
                # Registered by the run before, which ended before it knew, or too old.
                if await self._works():
                    return Registered(self._config.thing, {})
                certified = await self._certified(provisioning, key)
            try:
                return await self._register(provisioning, certified)
            except TokenSpent:
                raise ConfigError("IoT Core does not know the certificate that it has just signed", hint="run it again") from None
        finally:
            await provisioning.close()

    async def _certified(self, provisioning: Provisioning, key: PrivateKey) -> Certified:
        certified = await provisioning.certify(await asyncio.to_thread(_request, key, self._config.thing))
        if not _fits(certified.certificate, key):
            raise ConfigError(
                f"{self._config.host} has signed another key", hint="correct `endpoint` and `ca`: this is not IoT Core"
            )
        await asyncio.to_thread(self._keep, certified)
        self._say(f"IoT Core has signed the certificate {certified.certificate_id[:12]}…")
        return certified

    async def _register(self, provisioning: Provisioning, certified: Certified) -> Registered:
        return await provisioning.register(self._claim.template, certified.token, self._claim.parameters)

    async def _works(self) -> bool:
        """Whether the certificate that waits is active already."""
        try:
            await self._connects(self._config.thing, self._waiting)
        except (ConfigError, NotConnected, Busy):
            return False
        return True

    async def _connects(self, thing: str, certificate: Path) -> None:
        from cloud_sinks.iot_core.connection import Connection

        connection = Connection(await self._options(certificate, self._key, thing), lambda topic, data, retained: None)
        try:
            await connection.open()
        finally:
            await connection.close()

    async def _options(self, certificate: Path, key: Path, thing: str | None = None) -> Options:
        """How to connect; the handshake is tried first, which says what is wrong with a certificate."""
        from cloud_sinks.iot_core.connection import Options
        from cloud_sinks.iot_core.handshake import context_of, examine

        config = self._config
        await asyncio.to_thread(
            lambda: examine(config.host, config.host_port, context_of(certificate, key, self._ca, "provision"), "provision")
        )
        return Options(
            host=config.host,
            port=config.host_port,
            client_id=thing or config.thing,
            certificate=str(certificate),
            key=str(key),
            ca=None if self._ca is None else str(self._ca),
            keep_alive_s=config.keep_alive.s,
            timeout_s=config.timeout.s,
        )

    # What follows blocks.

    def _own_key(self) -> PrivateKey:
        """The key that is there, or a new one."""
        if self._key.exists():
            try:
                key = serialization.load_pem_private_key(self._key.read_bytes(), password=None)
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{self._key} is no private key: {error}", hint="a PEM file without a pass phrase, or none: one is made then"
                ) from error
            if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
                raise ConfigError(f"{self._key}: IoT Core takes RSA and elliptic curve keys", hint="delete it: one is made then")
            return key
        made = ec.generate_private_key(ec.SECP256R1())
        private = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(self._key, private)
        self._say(f"{self._key} is a new private key; it stays on this machine")
        return made

    def _is_there(self, key: PrivateKey) -> bool:
        if not self._certificate.exists():
            return False
        if not _fits(self._certificate.read_text(encoding="utf-8", errors="replace"), key):
            raise ConfigError(
                f"{self._certificate} is not the certificate of {self._key}",
                hint="move both away to provision this box anew; revoke the old certificate in IoT Core",
            )
        return True

    def _keep(self, certified: Certified) -> None:
        """The token last: where it is, the certificate is too."""
        self._token.unlink(missing_ok=True)
        write_private(self._waiting, certified.certificate.encode())
        told = {"certificate_id": certified.certificate_id, "token": certified.token, "made": time.time()}
        write_private(self._token, json.dumps(told).encode())

    def _kept(self) -> Certified | None:
        from cloud_sinks.iot_core.provisioning import Certified

        try:
            told = json.loads(self._token.read_bytes())
            certified = Certified(str(told["certificate_id"]), self._waiting.read_text(encoding="ascii"), str(told["token"]))
            young = abs(time.time() - float(told["made"])) < _TOKEN_S
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return certified if young else None

    def _finish(self) -> None:
        os.replace(self._waiting, self._certificate)
        _flush(self._certificate.parent)
        self._clear()

    def _clear(self) -> None:
        for file in (self._token, self._waiting):
            file.unlink(missing_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user may read: durable when it returns, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _flush(path.parent)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _request(key: PrivateKey, thing: str) -> str:
    """A signing request as PEM. The name in it is for people: IoT Core goes by the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, thing[:64])])
    signed = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _fits(certificate: str, key: PrivateKey) -> bool:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    except ValueError:
        return False
    return public.public_bytes(*form) == key.public_key().public_bytes(*form)
