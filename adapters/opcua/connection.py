"""One session with a server over asyncua: bounded messages, our own liveness, errors that say who must act.

asyncua supplies the transport, the secure channel and the services. Its supervisor, its reconnection and its publish loop
stay off: one `Connection` is one attempt, and everything that runs for it is a task of its owner.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol, UASocketState
from asyncua.client.ua_session import UaSession
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto import security_policies
from cryptography.exceptions import InvalidSignature

from schemas import quality as q
from schemas.errors import ConfigError, NotConnected

from .channel import GuardedConnection
from .config import OpcuaConfig
from .pki import Identity, Trust

MAX_MESSAGE: Final = 16 * 2**20
"""Bytes of one response over all its chunks; more closes the connection."""
_CHUNK: Final = 65_535
_SESSION_TIMEOUT_MS: Final = 60_000
_CHANNEL_LIFETIME_MS: Final = 3_600_000

_CREDENTIALS: Final = ("BadUserAccessDenied", "BadIdentityTokenRejected", "BadIdentityTokenInvalid")
_CERTIFICATES: Final = {
    "BadCertificateUntrusted": "copy its certificate from rejected/ to trusted/ of the trust directory after comparing the thumbprint",
    "BadCertificateTimeInvalid": "renew the server's certificate, or set the clock of the gateway",
    "BadCertificateUriInvalid": "the server's certificate names another application URI than the server; make it a new one",
    "BadCertificateRevoked": "the certificate is in a revocation list below revoked/ of the trust directory",
    "BadCertificateInvalid": "the server's certificate lacks extensions that OPC UA asks for",
    "BadCertificateUseNotAllowed": "the server's certificate is not meant for OPC UA servers",
    "BadSecurityChecksFailed": "trust the certificate of this gateway in the server (its list of rejected clients shows it)",
    "BadSecurityPolicyRejected": "choose a policy that the server offers",
}


class _Limits(TransportLimits):  # type: ignore[misc]
    """Limits of what we receive; the server's acknowledge only says what it takes from us."""

    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        if msg.ReceiveBufferSize >= 8192:  # the smallest that the standard allows (OPC 10000-6, 7.1.2.3)
            self.max_send_buffer: int = min(_CHUNK, msg.ReceiveBufferSize)


class _Protocol(UASocketProtocol):  # type: ignore[misc]
    """Closes the connection when a peer announces a chunk that it may not send, instead of buffering it; hands out guarded messages."""

    receive_buffer: bytes | None
    _connection: SecureConnection

    def __init__(self, timeout: float, security_policy: security_policies.SecurityPolicy, limits: TransportLimits) -> None:
        super().__init__(timeout, security_policy=security_policy, limits=limits)
        self._connection = GuardedConnection(security_policy, self._connection._limits)

    async def open_secure_channel(self, params: ua.OpenSecureChannelParameters) -> ua.OpenSecureChannelResult:
        """As asyncua's, which asserts that the answer could be read."""
        try:
            return await super().open_secure_channel(params)
        except AssertionError as error:
            raise ConnectionError("the server's answer to OpenSecureChannel cannot be read") from error

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiting = self.receive_buffer
        if waiting and len(waiting) > _CHUNK:
            self.receive_buffer = None
            if self.transport is not None:
                self.transport.abort()


class _Transport(UaClient):  # type: ignore[misc]
    protocol: _Protocol | None

    def _make_protocol(self) -> UASocketProtocol:
        limits = _Limits(_CHUNK, _CHUNK, MAX_MESSAGE // 8192, MAX_MESSAGE)
        self.protocol = _Protocol(self._timeout, security_policy=self.security_policy, limits=limits)
        self.protocol.on_connection_lost = self._on_transport_lost
        self.protocol.is_session_closing = self._is_session_closing
        return self.protocol


class _Session(UaSession):  # type: ignore[misc]
    def ensure_publish_loop(self) -> None:
        """Publishing is the adapter's."""


class _Client(Client):  # type: ignore[misc]
    """asyncua's client on our transport and session."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, timeout=timeout_s)
        self.uaclient = _Transport(timeout_s)
        self.uaclient.session = _Session(self.uaclient)
        self.nodes = Shortcuts(self.uaclient.session)
        self.session_timeout = _SESSION_TIMEOUT_MS
        self.secure_channel_timeout = _CHANNEL_LIFETIME_MS


class Connection:
    """An activated session. Made by `open_connection`; `request` and `session` are what the adapter works with."""

    def __init__(self, client: _Client, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._renew_at = self.heard_at + 0.75 * client.secure_channel_timeout / 1000

    @property
    def session(self) -> UaSession:
        """The service calls of asyncua."""
        return self._client.uaclient.session

    async def request(self, request: ua.UaBase, *, patient: bool = False) -> bytes:
        """Send a service request, return the encoded response. `patient`: no deadline (publish); the server answers when it likes.

        Raises what `failures` translates.
        """
        protocol = self._client.uaclient.protocol
        if protocol is None:
            raise ConnectionError("connection is closed")
        answer = await protocol.send_request(request, 0 if patient else None)
        self.heard_at = self._loop.time()
        return bytes(answer.copy().read(len(answer)))

    async def keep_alive(self, quiet_s: float) -> None:
        """Never returns: asks for a sign of life after `quiet_s` without one, renews the secure channel in time.

        Raises what `failures` translates when no answer comes within the timeout.
        """
        state = ua.ReadValueId(NodeId=ua.NodeId(ua.ObjectIds.Server_ServerStatus_State), AttributeId=ua.AttributeIds.Value)
        probe = ua.ReadRequest(Parameters=ua.ReadParameters(NodesToRead=[state]))
        while True:
            await asyncio.sleep(max(0.05, self.heard_at + quiet_s - self._loop.time()))
            if self._loop.time() >= self._renew_at:
                await self._client.open_secure_channel(renew=True)
                self._client.uaclient.revolve_security_token()
                self.heard_at = self._loop.time()
                self._renew_at = self.heard_at + 0.75 * self._client.secure_channel_timeout / 1000
            elif self._loop.time() - self.heard_at >= quiet_s:
                await self.request(probe)

    async def read_values(self, nodes: Sequence[ua.NodeId]) -> list[object]:
        """The values of a few nodes; None for one that cannot be read."""
        answers = await self.session.read_attributes(list(nodes), ua.AttributeIds.Value)
        return [a.Value.Value if a.Value is not None and a.StatusCode.is_good() else None for a in answers]

    async def aclose(self) -> None:
        """Close session, channel and socket; waits for a silent server for half the timeout (at most 1 s), then hangs up."""
        with suppress(Exception):
            async with asyncio.timeout(min(1.0, self._timeout_s / 2)):
                await self._client.uaclient.close_session(True)
                await self._client.close_secure_channel()
        await _hang_up(self._client)


async def open_connection(config: OpcuaConfig, name: str, directory: Path, base: Path) -> Connection:
    """Connect, secure as configured, create and activate a session. Raises NotConnected or ConfigError.

    Certificates are below `directory`/pki, or where `security.trust` says, which is relative to `base`.
    """
    client = _Client(config.endpoint, config.timeout.s)
    client.application_uri = f"urn:genba:{name}"
    client.name = client.description = f"genba {name}"
    opened = False
    try:
        async with failures(config.endpoint):
            if config.security is not None and config.secured:
                identity = await asyncio.to_thread(Identity.load_or_make, directory / "pki", f"genba {name}")
                trusted = base / config.security.trust if config.security.trust else directory / "pki"
                trust = await asyncio.to_thread(Trust.load, trusted)
                client.application_uri = identity.uri
                client.certificate_validator = trust.validate
                await _secure(client, config, identity)
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            await client.create_session()
            user, password = (config.auth.username, config.auth.password.get_secret_value()) if config.auth else (None, None)
            await client.activate_session(username=user, password=password)
            opened = True
            return Connection(client, config.timeout.s)
    finally:
        if not opened:
            await _hang_up(client)


async def _secure(client: _Client, config: OpcuaConfig, identity: Identity) -> None:
    assert config.security is not None
    policy = getattr(security_policies, f"SecurityPolicy{config.security.policy}")
    mode = ua.MessageSecurityMode.Sign if config.security.mode == "sign" else ua.MessageSecurityMode.SignAndEncrypt
    offered = await client.connect_and_get_server_endpoints()
    await _hang_up(client)
    fitting = [e for e in offered if e.SecurityPolicyUri == policy.URI and e.SecurityMode == mode and e.ServerCertificate]
    if not fitting:
        names = sorted({f"{e.SecurityPolicyUri.rpartition('#')[2]}/{e.SecurityMode.name}" for e in offered})
        raise ConfigError(
            f"{config.endpoint} has no endpoint with {config.security.policy}, {config.security.mode}",
            hint=f"it offers {', '.join(names) or 'none'}",
        )
    # The first certificate of the chain is the server's own (OPC 10000-6, 6.2.6).
    chain = fitting[0].ServerCertificate
    own = chain[: int.from_bytes(chain[2:4], "big") + 4]
    await client.set_security(policy, str(identity.certificate), str(identity.key), server_certificate=own, mode=mode)


async def _hang_up(client: _Client) -> None:
    protocol = client.uaclient.protocol
    client.disconnect_socket()
    if protocol is None:
        return
    if protocol.transport is not None:
        protocol.transport.abort()  # close() alone would wait for a peer that does not read
    for _ in range(10):
        if protocol.state is not UASocketState.OPEN:
            return
        await asyncio.sleep(0)


@asynccontextmanager
async def failures(endpoint: str) -> AsyncIterator[None]:
    """Turns what goes wrong inside into NotConnected (the supervisor reconnects) or ConfigError (a person acts)."""
    try:
        yield
    except ua.UaStatusCodeError as error:
        status = ua.StatusCode(error.code).name
        if status in _CREDENTIALS:
            raise ConfigError(f"{endpoint} refuses the user ({status})", hint="check `auth`: user name and password") from error
        if status in _CERTIFICATES:
            raise ConfigError(f"{endpoint}: {status}", hint=_CERTIFICATES[status]) from error
        raise NotConnected(f"{endpoint}: {status}") from error
    except TimeoutError as error:
        raise NotConnected(f"{endpoint} does not answer", quality=q.BAD_TIMEOUT) from error
    except ua.UaError as error:
        if "No matching endpoints" in str(error):
            raise ConfigError(f"{endpoint} has no unsecured endpoint", hint="add `security`") from error
        raise NotConnected(f"{endpoint}: {error}") from error
    except (OSError, ValueError, LookupError, struct.error, InvalidSignature, RecursionError) as error:  # nested without end
        raise NotConnected(f"{endpoint}: {str(error) or type(error).__name__}") from error


def quiet_library() -> None:
    """asyncua logs what we raise, and formats every message to do so; only a level that somebody has set is kept."""
    log = logging.getLogger("asyncua")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL + 1)
