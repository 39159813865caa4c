"""One session with a server over asyncua: bounded messages, our own liveness, errors that say who must act.

asyncua supplies the transport, the secure channel and the services. Its supervisor, its reconnection and its publish loop
stay off: one `Connection` is one attempt, and everything that runs for it is a task of its owner.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UASocketProtocol, UASocketState
from asyncua.client.ua_session import UaSession
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.common.shortcuts import Shortcuts
from asyncua.crypto.security_policies import SecurityPolicy
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from cryptography.exceptions import InvalidSignature

from adapters.capture import Recorder
from schemas import quality as q
from schemas.certificates import CertificateFact
from schemas.errors import ConfigError, NotConnected

from .channel import GuardedConnection
from .config import OpcuaConfig
from .guard import BoundedBuffer, bounded
from .identity import Identity
from .prepared import PreparedRead
from .secure import REFUSES_US, Offer, RefusesOurCertificate, Security, discover
from .taped import keep_types, recorded
from .users import activate
from .values import Types

MAX_MESSAGE: Final = 16 * 2**20
"""Bytes of one response over all its chunks; more closes the connection."""
_CHUNK: Final = 65_535
_SESSION_TIMEOUT_MS: Final = 60_000
_CHANNEL_LIFETIME_MS: Final = 3_600_000

_CREDENTIALS: Final = ("BadUserAccessDenied", "BadIdentityTokenRejected", "BadIdentityTokenInvalid")
_POLICIES: Final = ("BadSecurityPolicyRejected", "BadSecurityModeRejected", "BadSecurityModeInsufficient")
_CROWDED: Final = ("BadTooManySessions", "BadMaxConnectionsReached", "BadTcpServerTooBusy")


class _Limits(TransportLimits):  # type: ignore[misc]
    """Limits of what we receive; the server's acknowledge only says what it takes from us."""

    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        if msg.ReceiveBufferSize >= 8192:  # the smallest that the standard allows (OPC 10000-6, 7.1.2.3)
            self.max_send_buffer: int = min(_CHUNK, msg.ReceiveBufferSize)


class _Protocol(UASocketProtocol):  # type: ignore[misc]
    """Closes the connection when a peer announces a chunk that it may not send, instead of buffering it; hands out guarded messages."""

    receive_buffer: bytes | None
    _connection: SecureConnection

    def __init__(self, timeout: float, security_policy: SecurityPolicy, limits: TransportLimits) -> None:
        super().__init__(timeout, security_policy=security_policy, limits=limits)
        self._connection = GuardedConnection(security_policy, self._connection._limits)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiting = self.receive_buffer
        if waiting and len(waiting) > _CHUNK:
            self.receive_buffer = None
            if self.transport is not None:
                self.transport.abort()

    def _process_received_message(self, msg: ua.Message | ua.Acknowledge | ua.ErrorMessage | None) -> None:
        # asyncua resolves the request before it looks at the status: a server that refuses the channel would be an AssertionError.
        if isinstance(msg, ua.Message) and isinstance(msg.SecurityHeader(), ua.AsymmetricAlgorithmHeader):
            body = BoundedBuffer(bytes(msg.body()), steps=1000)
            nodeid_from_binary(body)
            struct_from_binary(ua.ResponseHeader, body).ServiceResult.check()
        super()._process_received_message(msg)

    async def open_secure_channel(self, params: ua.OpenSecureChannelParameters) -> ua.OpenSecureChannelResult:
        try:
            return await super().open_secure_channel(params)
        except AssertionError as error:
            raise ConnectionError("the answer to the secure channel is not one") from error

    def _send_request(
        self, request: ua.UaBase, timeout: float = 1, message_type: ua.MessageType = ua.MessageType.SecureMessage
    ) -> asyncio.Future[Any]:
        """As asyncua's, for a request that brings its encoding along."""
        if not isinstance(request, PreparedRead):
            answer: asyncio.Future[Any] = super()._send_request(request, timeout, message_type)
            return answer
        if self.transport is None:
            raise ConnectionError("connection is closed")
        self._setup_request_header(request.RequestHeader, timeout)
        self.revolve_security_token()
        message = self._connection.message_to_binary(
            request.to_binary(), message_type=message_type, request_id=self._request_id + 1
        )
        self._request_id: int = self._request_id + 1
        answer = asyncio.get_running_loop().create_future()
        self._callbackmap[self._request_id] = answer
        self.transport.write(message)
        return answer


def _browses(request: ua.UaBase) -> bool:
    """Whether the answer may be a large one: not where one reference of each node is wanted, as a session does for supertypes."""
    if isinstance(request, ua.BrowseRequest):
        return bool(request.Parameters.RequestedMaxReferencesPerNode != 1)
    return isinstance(request, ua.BrowseNextRequest)


class _Transport(UaClient):  # type: ignore[misc]
    protocol: _Protocol | None

    async def _send_request(self, request: ua.UaBase, *how: Any) -> BoundedBuffer:
        return bounded(await super()._send_request(request, *how), browsing=_browses(request))

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
        self.max_messagesize, self.max_chunkcount = MAX_MESSAGE, MAX_MESSAGE // 8192


class Connection:
    """An activated session. Made by `open_connection`; `request` and `session` are what the adapter works with."""

    def __init__(self, client: _Client, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s
        self.recorder: Recorder | None = None
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._renew_at = self.heard_at + 0.75 * client.secure_channel_timeout / 1000
        self.certificates: Sequence[CertificateFact] = ()
        self.renewal = ""  # why the server was shown our old certificate while a renewed one is there
        self.log_in: Callable[[], Awaitable[None]] | None = None
        """Creates and activates a session on this channel, as `open_connection` did."""

    @property
    def session(self) -> UaSession:
        """The service calls of asyncua."""
        return self._client.uaclient.session

    async def request(
        self, request: ua.UaBase | PreparedRead, *, patient: bool = False, positions: npt.NDArray[np.uint32] | None = None
    ) -> bytes:
        """Send a service request, return the encoded response. `patient`: no deadline (publish); the server answers when it likes.

        `positions` says whose values a read asks for, for a capture. Raises what `failures` translates.
        """
        protocol = self._client.uaclient.protocol
        if protocol is None:
            raise ConnectionError("connection is closed")
        if self.recorder is None:
            answer = await protocol.send_request(request, 0 if patient else None)
        else:
            send = partial(protocol.send_request, request, 0 if patient else None)
            answer = await recorded(self.recorder, request, positions, send)
        self.heard_at = self._loop.time()
        return bytes(answer.copy().read(len(answer)))

    def keep_types(self, types: Types) -> None:
        """For a capture: the layout of structures that the answers from now on are decoded by."""
        if self.recorder is not None:
            keep_types(self.recorder, types)

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

    async def new_session(self) -> None:
        """Close the session with its subscriptions and make another one on the same channel. Raises what `failures` translates."""
        with suppress(ua.UaError, TimeoutError):
            await self._client.uaclient.close_session(True)
        if self.log_in is None:
            raise ConnectionError("the session is lost")
        await self.log_in()
        self.heard_at = self._loop.time()

    async def aclose(self) -> None:
        """Close session, channel and socket; waits for a silent server for half the timeout (at most 1 s), then hangs up."""
        if self.recorder is not None:
            self.recorder.closed("closed by the gateway")
            self.recorder = None
        with suppress(Exception):
            async with asyncio.timeout(min(1.0, self._timeout_s / 2)):
                await self._client.uaclient.close_session(True)
                await self._client.close_secure_channel()
        await hang_up(self._client)


async def open_connection(config: OpcuaConfig, name: str, directory: Path, base: Path) -> Connection:
    """Connect, secure as configured, create and activate a session. Raises NotConnected or ConfigError.

    Certificates are below `directory`/pki, or where `security.trust` says, which is relative to `base`. A renewed certificate of ours
    is tried first; a server that does not take it yet is shown the old one, and `Connection.renewal` says so.
    """
    security = await asyncio.to_thread(Security.load, config, name, directory, base)
    *newer, last = security.candidates
    renewal = ""
    for identity in newer:
        try:
            return await _open(config, name, base, security, identity)
        except RefusesOurCertificate as error:
            renewal = str(error)
    return await _open(config, name, base, security, last, renewal)


async def try_successor(config: OpcuaConfig, name: str, directory: Path, base: Path) -> str | None:
    """Show the server our renewed certificate, in a session beside the one in use that is closed again.

    Returns why it is not taken, empty when it is; None when there is nothing to renew yet. The renewed one is made when it is due.
    """
    security = await asyncio.to_thread(Security.load, config, name, directory, base)
    successor = None if security.identities is None else security.identities.successor
    if successor is None:
        return None
    client = new_client(config, name)
    try:
        async with failures(config.endpoint):
            await _start(client, security, successor)
            await client.uaclient.close_session(True)
    except (ConfigError, NotConnected) as error:
        return str(error)
    finally:
        await hang_up(client)
    return ""


async def _open(
    config: OpcuaConfig, name: str, base: Path, security: Security, identity: Identity | None, renewal: str = ""
) -> Connection:
    client = new_client(config, name)
    opened = False
    try:
        async with failures(config.endpoint):
            session = await _start(client, security, identity)
            await activate(client, session, security, base)
            settled = await security.settle(identity)

            async def log_in() -> None:
                again = await client.create_session()
                security.verify(again)
                await activate(client, again, security, base)

            opened = True
            connection = Connection(client, config.timeout.s)
            connection.log_in = log_in
            connection.certificates, connection.renewal = security.facts(settled), renewal
            return connection
    finally:
        if not opened:
            await hang_up(client)


async def _start(client: _Client, security: Security, identity: Identity | None) -> ua.CreateSessionResult:
    """Channel and session, not activated yet."""
    client.certificate_validator = security.validate
    if identity is not None:
        offer = await ask_endpoints(client)
        await security.secure(client, identity, offer)
    await client.connect_socket()
    await client.send_hello()
    async with security.handshake(identity):
        await client.open_secure_channel()
        session = await client.create_session()
    security.verify(session)
    return session


async def ask_endpoints(client: _Client) -> Offer:
    """What the server offers, over a connection of its own and in the clear. `client` can be secured and connected afterwards."""
    try:
        await client.connect_socket()
        await client.send_hello()
        await client.open_secure_channel()
        offer = await discover(client)
        await client.close_secure_channel()
        return offer
    finally:
        await hang_up(client)


def new_client(config: OpcuaConfig, name: str) -> _Client:
    """A client of asyncua on our transport, not connected."""
    client = _Client(config.endpoint, config.timeout.s)
    client.application_uri = f"urn:genba:{name}"
    client.name = client.description = f"genba {name}"
    return client


async def hang_up(client: _Client) -> None:
    """Close the socket at once. Legal in every state."""
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
            raise ConfigError(
                f"{endpoint} refuses the user ({status})",
                hint="check `auth`: user name and password, or that the server trusts the user's certificate",
            ) from error
        if status in _POLICIES:
            raise ConfigError(f"{endpoint}: {status}", hint="choose a policy and mode that the server offers") from error
        if status in REFUSES_US:
            raise ConfigError(
                f"{endpoint}: {status}", hint="trust the certificate of this gateway in the server (genba trust list shows it)"
            ) from error
        if status in _CROWDED:
            raise NotConnected(f"{endpoint}: {status}: close other clients, or raise the limit in the server") from error
        raise NotConnected(f"{endpoint}: {status}") from error
    except TimeoutError as error:
        raise NotConnected(f"{endpoint} does not answer", quality=q.BAD_TIMEOUT) from error
    except ua.UaError as error:
        if "No matching endpoints" in str(error):
            raise ConfigError(f"{endpoint} has no unsecured endpoint", hint="add `security`") from error
        raise NotConnected(f"{endpoint}: {error}") from error
    except (OSError, ValueError, LookupError, RecursionError, struct.error, InvalidSignature) as error:
        raise NotConnected(f"{endpoint}: {str(error) or type(error).__name__}") from error


def quiet_library() -> None:
    """asyncua logs what we raise, and formats every message to do so; only a level that somebody has set is kept."""
    log = logging.getLogger("asyncua")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL + 1)
