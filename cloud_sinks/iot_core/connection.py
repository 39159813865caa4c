"""One MQTT 5 connection of the AWS IoT Device SDK, as asyncio sees it. It is made anew after each loss; nothing is queued in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from awscrt import auth, mqtt5
from awsiot import mqtt5_client_builder

from cloud_sinks.aws import Credentials
from schemas.errors import ConfigError, NotConnected

from .pkcs11 import SecurityModule

_FAILURE: Final = 128
"""Reason codes from here on are failures; 16, nobody is subscribed, is none."""
_REFUSALS: Final = {
    0x86: "the broker refuses the user",
    0x87: "the certificate's policy does not allow iot:Connect with this client id",
    0x85: "the client id is not taken",
}
_NEVER_RECONNECTS_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect. Files are absolute or relative to where the process runs. Who this is, a certificate or signed credentials says."""

    host: str
    port: int
    client_id: str
    ca: str | None
    keep_alive_s: float
    timeout_s: float
    certificate: str = ""
    key: str = ""
    module: SecurityModule | None = None  # has the key instead
    signed_by: Credentials | None = None  # by WebSocket then


class Connection:
    """`open`, then `send` until `lost` is done, then `close`."""

    def __init__(self, options: Options, on_message: Callable[[str, bytes, bool], None]) -> None:
        self._options, self._on_message = options, on_message
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done with the reason when the connection is gone."""
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._client: Any = None
        self._sent: deque[tuple[float, asyncio.Future[int]]] = deque()  # with the deadline of each acknowledgement, oldest first
        self._answers: deque[tuple[asyncio.Future[int], Any]] = deque()  # from the SDK's thread to the loop
        self._watch: asyncio.TimerHandle | None = None
        self._woken = False

    async def open(self) -> None:
        """Connect within the timeout. Raises NotConnected and ConfigError."""
        try:
            self._client = await asyncio.to_thread(self._build)
        except RuntimeError as error:  # of the SDK, which has no others
            if self._options.module is None:
                raise
            raise self._options.module.in_words(error) from error
        self._client.start()
        try:
            async with asyncio.timeout(self._options.timeout_s):
                either: list[asyncio.Future[Any]] = [self._up, self.lost]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise NotConnected(f"{self._options.host}:{self._options.port} does not answer") from None
        if self._up.done():
            self._up.result()  # a refusal
        if self.lost.done():
            raise NotConnected(self.lost.result())

    def send(self, topic: str, payload: bytes, *, content_type: str, encoding: str) -> asyncio.Future[int]:
        """Send with QoS 1. The future holds the reason code of the acknowledgement, or NotConnected when the connection is lost or the
        acknowledgement does not come in time; who no longer waits cancels it."""
        packet = mqtt5.PublishPacket(
            topic=topic,
            payload=payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            content_type=content_type,
            user_properties=[mqtt5.UserProperty("content-encoding", encoding)] if encoding else None,
        )
        waiting: asyncio.Future[int] = self._loop.create_future()
        if self.lost.done():
            waiting.set_exception(NotConnected(self._reason("the connection is lost")))
            return waiting
        self._sent.append((self._loop.time() + self._options.timeout_s, waiting))
        if self._watch is None:
            self._watch = self._loop.call_later(self._options.timeout_s, self._expire)
        self._client.publish(packet).add_done_callback(lambda operation: self._answered(waiting, operation))
        return waiting

    async def subscribe(self, topic: str) -> int:
        """The reason code of the answer. Raises NotConnected."""
        wanted = mqtt5.SubscribePacket([mqtt5.Subscription(topic, mqtt5.QoS.AT_LEAST_ONCE)])
        answer = await self._answer(self._client.subscribe(wanted))
        return int(answer.reason_codes[0])

    async def close(self) -> None:
        """Disconnect and wait until the SDK has let go. Idempotent."""
        client, self._client = self._client, None
        if client is None:
            return
        client.stop(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION))
        await asyncio.wait({self._stopped}, timeout=2.0)
        self._lose("closed")
        for future in (self._up, self.lost):
            if not future.done():
                future.cancel()

    @property
    def client(self) -> Any:
        """The SDK's client, for what the SDK builds upon it. Raises NotConnected unless the connection stands."""
        if self._client is None or not self._up.done() or self._up.cancelled() or self.lost.done():
            raise NotConnected(f"{self._options.host} is not connected")
        return self._client

    async def _answer(self, operation: Any) -> Any:
        try:
            return await self.settled(operation)
        except NotConnected:
            raise
        except Exception as error:
            raise NotConnected(self._reason(str(error))) from error

    async def settled(self, operation: Any) -> Any:
        """What a future of the SDK gives or raises, and NotConnected when the connection is lost or the timeout over before.

        The SDK's futures do not fail when the connection does, and must not be cancelled: whichever ends first ends the wait.
        """
        waiting: asyncio.Future[Any] = self._loop.create_future()

        def settle() -> None:
            if waiting.done():
                return
            if operation.exception() is None:
                waiting.set_result(operation.result())
            else:
                waiting.set_exception(operation.exception())

        def done(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(settle)

        operation.add_done_callback(done)
        either: list[asyncio.Future[Any]] = [waiting, self.lost]
        await asyncio.wait(either, timeout=self._options.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        raise NotConnected(self._reason(f"no acknowledgement within {self._options.timeout_s:g} s"))

    def _answered(self, waiting: asyncio.Future[int], operation: Any) -> None:
        """In the SDK's thread: many answers wake the loop once."""
        self._answers.append((waiting, operation))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._settle)

    def _reason(self, otherwise: str) -> str:
        why = self.lost.result() if self.lost.done() and not self.lost.cancelled() else otherwise
        return f"{self._options.host}: {why}"

    def _build(self) -> Any:
        """Blocking: reads files."""
        options, by = self._options, self._options.signed_by
        call = self._loop.call_soon_threadsafe
        if options.module is not None:
            key = options.module.arguments()
            builder = partial(mqtt5_client_builder.mtls_with_pkcs11, cert_filepath=options.certificate, **key)
        elif by is None:
            builder = partial(mqtt5_client_builder.mtls_from_path, options.certificate, options.key)
        else:
            # The ones of this moment: the connection is made anew after each loss, with those of then.
            provider = auth.AwsCredentialsProvider.new_static(by.access_key, by.secret_key, by.token)
            builder = partial(mqtt5_client_builder.websockets_with_default_aws_signing, by.region, provider)
        return builder(
            endpoint=options.host,
            port=options.port,
            ca_filepath=options.ca,
            client_id=options.client_id,
            keep_alive_interval_sec=max(2, round(options.keep_alive_s)),
            ping_timeout_ms=max(1000, round(1000 * min(options.timeout_s, options.keep_alive_s - 1))),
            connack_timeout_ms=round(1000 * options.timeout_s),
            ack_timeout_sec=max(1, round(options.timeout_s)),
            session_behavior=mqtt5.ClientSessionBehaviorType.CLEAN,
            offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_ALL_ON_DISCONNECT,
            extended_validation_and_flow_control_options=mqtt5.ExtendedValidationAndFlowControlOptions.NONE,
            min_reconnect_delay_ms=_NEVER_RECONNECTS_MS,
            max_reconnect_delay_ms=_NEVER_RECONNECTS_MS,
            on_lifecycle_connection_success=lambda _: call(self._connected),
            on_lifecycle_connection_failure=lambda data: call(partial(self._failed, data)),
            on_lifecycle_disconnection=lambda data: call(partial(self._disconnected, data)),
            on_lifecycle_stopped=lambda _: call(self._has_stopped),
            on_publish_received=lambda data: call(partial(self._received, data.publish_packet)),
        )

    # What follows runs on the loop.

    def _connected(self) -> None:
        if not self._up.done():
            self._up.set_result(None)

    def _failed(self, data: Any) -> None:
        code = getattr(data.connack_packet, "reason_code", None)
        host = self._options.host
        if not self._up.done():
            if code is not None and int(code) in _REFUSALS:
                self._up.set_exception(
                    ConfigError(f"{host}: {_REFUSALS[int(code)]}", hint="correct the policy of the certificate, or `thing`")
                )
            else:
                self._up.set_exception(NotConnected(f"{host}: {data.exception}{_advice(str(data.exception))}"))
            self._up.exception()  # nobody may be waiting any more
        self._lose(str(data.exception))

    def _disconnected(self, data: Any) -> None:
        packet = data.disconnect_packet
        self._lose(f"disconnected by the broker: {packet.reason_code.name}" if packet is not None else str(data.exception))

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        self._settle()
        while self._sent:
            self._fail(self._sent.popleft()[1], why)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _settle(self) -> None:
        """Hand out the answers that have come."""
        self._woken = False
        while self._answers:
            waiting, operation = self._answers.popleft()
            if waiting.done():
                continue
            error = operation.exception()
            if error is None:
                waiting.set_result(int(operation.result().puback.reason_code))
            else:
                self._fail(waiting, str(error))
        while self._sent and self._sent[0][1].done():
            self._sent.popleft()

    def _expire(self) -> None:
        """Fail what has waited too long, and look again when the next one may have."""
        self._watch = None
        self._settle()
        while self._sent and self._sent[0][0] <= self._loop.time():
            self._fail(self._sent.popleft()[1], f"no acknowledgement within {self._options.timeout_s:g} s")
        if self._sent:
            self._watch = self._loop.call_at(self._sent[0][0], self._expire)

    def _fail(self, waiting: asyncio.Future[int], why: str) -> None:
        if not waiting.done():
            waiting.set_exception(NotConnected(self._reason(why)))
            waiting.exception()  # nobody may be waiting any more

    def _has_stopped(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _received(self, packet: Any) -> None:
        self._on_message(packet.topic, bytes(packet.payload or b""), bool(packet.retain))


def _advice(error: str) -> str:
    if "WEBSOCKET_UPGRADE_FAILURE" in error:
        return " Does the policy of these credentials allow iot:Connect, and is the clock right?"
    return ""


def refused(code: int) -> bool:
    """True for a reason code that is a failure."""
    return code >= _FAILURE
