"""The named shadow `genba` of a thing: the document that IoT Core keeps of what the gateway reports and what is desired of it.

Service documentation: AWS IoT Device Shadow, MQTT topics, and the quotas (8 KB of state, null deletes a key). What the parts of the
document mean is not known here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import awsiot
import structlog
from awscrt import mqtt_request_response as request_response
from awsiot import iotshadow

from cloud_sinks.commands import Inbox
from schemas.errors import Busy, ConfigError, NotConnected
from schemas.span import Command

from .connection import Connection
from .pacing import Pace

NAME: Final = "genba"
MAX_BYTES: Final = 8 * 1024
"""What the service keeps of state: desired and reported together."""
_REFRESH_S: Final = 300.0
"""How often the whole document is read again: a shadow that was deleted is told to nobody."""
_ABIDE_S: Final = 600.0
_READS: Final = 5
_PATIENCE: Final = 3
"""Connections that IoT Core may cut when the shadow is asked for; it cuts where the policy does not allow it, and alerts come first."""
_HINT: Final = "allow the shadow in the policy of the certificate (deploy/iam/iot.json), or set shadow: false"


class Shadow:
    """Follows one shadow over connection after connection. On the loop only; `exchange` is called by one task."""

    def __init__(
        self,
        thing: str,
        inbox: Inbox,
        pace: Pace,
        *,
        source: str,
        where: str,
        timeout_s: float,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._thing, self._inbox, self._pace, self._source, self._where = thing, inbox, pace, source, where
        self._timeout_s, self._log = timeout_s, log
        self._connection: Connection | None = None
        self._follows = False  # this connection has said what there is, and will say what changes
        self._client: Any = None
        self._stream: Any = None
        self._version = -1  # of the newest document seen over this connection
        self._reported: Mapping[str, object] = {}
        self._desired: Mapping[str, object] | None = None
        self._handed: Mapping[str, object] | None = None
        self._read_at = 0.0
        self._sent: Mapping[str, object] | None = None
        self._cut = 0
        self._aside_until = 0.0

    async def exchange(self, connection: Connection, state: Mapping[str, object]) -> None:
        """Read the document where this connection has not yet, hand over what is desired, and report what differs from `state`.

        Raises NotConnected, Busy, and ConfigError where the policy or the size is in the way.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._aside_until:
            raise ConfigError("IoT Core hangs up on this gateway when it asks for its shadow", where=self._where, hint=_HINT)
        if connection is not self._connection or not self._follows:
            await self._begin(connection)
        elif loop.time() - self._read_at > _REFRESH_S:
            await self._read(connection)
        self._hand_over()
        patch = difference(self._reported, state)
        if patch and state != self._sent:
            size = len(json.dumps({"desired": self._desired, "reported": state}, ensure_ascii=False).encode())
            if size > MAX_BYTES:
                message = f"the shadow would have {size:,} bytes and IoT Core keeps {MAX_BYTES:,}"
                raise ConfigError(message, where=self._where, hint="desire less")
            await self._update(connection, patch)
            self._sent = state

    def forget(self) -> None:
        """Let go of the connection, which is being closed: what the SDK builds on it keeps it alive."""
        self._connection = self._client = self._stream = None
        self._follows = False

    @property
    def _service(self) -> Any:
        if self._client is None:
            raise NotConnected("the connection was closed")
        return self._client

    async def _begin(self, connection: Connection) -> None:
        """Listen first and read then, so that no change falls between the two."""
        self._connection, self._follows, self._version, self._desired = connection, False, -1, None
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = asyncio.get_running_loop().call_soon_threadsafe

        def on_update(event: Any) -> None:  # on a thread of the SDK, like the next
            with suppress(RuntimeError):  # the loop has ended meanwhile
                call(partial(self._seen, connection, event.current))

        def on_status(event: Any) -> None:
            with suppress(RuntimeError):
                call(partial(_settle, listening, event))

        options = request_response.ClientOptions(
            max_request_response_subscriptions=4,
            max_streaming_subscriptions=2,
            operation_timeout_in_seconds=round(self._timeout_s),
        )
        try:
            self._client = iotshadow.IotShadowClientV2(connection.client, options)
            # Not the stream of deltas: they never say that something is not desired any more.
            self._stream = self._client.create_named_shadow_updated_stream(
                iotshadow.NamedShadowUpdatedSubscriptionRequest(thing_name=self._thing, shadow_name=NAME),
                awsiot.ServiceStreamOptions(incoming_event_listener=on_update, subscription_status_listener=on_status),
            )
            self._stream.open()
            either: set[asyncio.Future[Any]] = {listening, connection.lost}
            await asyncio.wait(either, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                cut = connection.lost.done()
                raise NotConnected(f"IoT Core {'hangs up' if cut else 'is silent'} when this gateway wants to follow its shadow")
            listening.result()
            await self._read(connection)
        except Exception:
            if connection.lost.done() and not connection.lost.cancelled():
                self._count_cut()
            raise
        self._follows, self._cut = True, 0

    def _count_cut(self) -> None:
        self._cut += 1
        if self._cut >= _PATIENCE:
            self._cut, self._aside_until = 0, asyncio.get_running_loop().time() + _ABIDE_S

    async def _read(self, connection: Connection) -> None:
        request = iotshadow.GetNamedShadowRequest(thing_name=self._thing, shadow_name=NAME)
        for _ in range(_READS):
            before = self._version
            try:
                found = await self._ask(connection, self._service.get_named_shadow(request))
            except _Missing:
                found = None
            if self._version != before:
                continue  # what was told meanwhile is newer than the answer, or of a document that was deleted since: ask again
            # Anew: one that was deleted and made again may count from the beginning.
            self._version, self._reported, self._desired = -1, {}, {}
            if found is not None:
                self._seen(connection, found)
            break
        self._read_at, self._sent = asyncio.get_running_loop().time(), None

    async def _update(self, connection: Connection, patch: Mapping[str, object]) -> None:
        await self._pace.take(len(json.dumps(patch)))
        state = iotshadow.ShadowState(reported=dict(patch))
        request = iotshadow.UpdateNamedShadowRequest(thing_name=self._thing, shadow_name=NAME, state=state)
        await self._ask(connection, self._service.update_named_shadow(request))
        # The version of the answer is not taken: a wish that came in just before it may still be on its way here.
        self._reported = patched(self._reported, patch)

    async def _ask(self, connection: Connection, operation: Any) -> Any:
        try:
            return await connection.settled(operation)
        except awsiot.V2ServiceException as error:
            said = error.modeled_error
            if said is None:
                raise NotConnected(f"IoT Core does not answer about the shadow: {error.inner_error}") from error
            code, message = said.code or 0, f"IoT Core refuses the shadow: {said.message} ({said.code})"
            if code == 404:
                raise _Missing from error
            if code == 429 or code >= 500:
                raise Busy(5.0, message) from error
            raise ConfigError(message, where=self._where, hint=_HINT) from error

    def _seen(self, connection: Connection, document: Any) -> None:
        """The whole document as it is now, read or told; one that is older than what was seen is passed over."""
        version = document.version or 0
        if version <= self._version or connection is not self._connection:
            return
        self._version = version
        state = document.state
        self._reported = (state.reported if state is not None else None) or {}
        self._desired = (state.desired if state is not None else None) or {}
        if self._follows:
            self._hand_over()

    def _hand_over(self) -> None:
        """Tell the gateway what is desired, if it does not know; where there is no room the next exchange does."""
        if self._desired is None or self._desired == self._handed:
            return
        arguments: dict[str, str | int] = {
            "document": json.dumps(self._desired, ensure_ascii=False),
            "version": max(0, self._version),
        }
        if self._inbox.put(Command("desired", self._source, arguments)):
            self._handed = self._desired


class _Missing(Exception):
    """There is no document yet."""


def _settle(listening: asyncio.Future[None], event: Any) -> None:
    if listening.done():
        return
    if event.type == request_response.SubscriptionStatusEventType.SUBSCRIPTION_ESTABLISHED:
        listening.set_result(None)
    elif event.type == request_response.SubscriptionStatusEventType.SUBSCRIPTION_HALTED:
        listening.set_exception(ConfigError(f"IoT Core does not let this gateway follow its shadow: {event.error}", hint=_HINT))
        listening.exception()  # nobody may be waiting any more


def difference(there: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """The least update that makes `wanted` out of `there`: a JSON merge patch (RFC 7396), in which null deletes a key."""
    patch: dict[str, object] = {key: None for key in there if key not in wanted}
    for key, value in wanted.items():
        old = there.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            below = difference(old, value)
            if below:
                patch[key] = below
        elif old != value or key not in there or type(old) is not type(value):
            patch[key] = value
    return patch


def patched(there: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """`there` after the service has taken `patch`."""
    made = dict(there)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            old = made.get(key)
            made[key] = patched(old if isinstance(old, Mapping) else {}, value)
        else:
            made[key] = value
    return made
