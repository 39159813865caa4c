"""One MQTT connection on the event loop, over paho's client: open, publish, listen, close. Made anew for every attempt.

paho runs without a thread of its own: its socket is watched by the loop. Only name look-up, TCP and TLS set-up, which block,
are done in a thread that ends with them. paho's queue, resending and reconnecting are not used: the spool is the only
authority on what is sent again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY
from socket import socket as Socket
from typing import Any, Final, Literal, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from schemas.errors import NotConnected

Version = Literal["5", "3.1.1"]
LOST: Final = -1
"""Outcome of a message whose connection went away before it was acknowledged; every other outcome is a reason code."""
_MISC_EVERY_S: Final = 1.0
_VERSIONS: Final = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}


@dataclass(frozen=True, slots=True)
class Options:
    """All that an attempt needs. `will` is (topic, payload), retained, QoS 1."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    client_id: str
    username: str | None
    password: str | None
    will: tuple[str, bytes]
    keep_alive_s: float
    timeout_s: float
    max_in_flight: int


class Refused(Exception):
    """The broker's CONNACK says no. `code` is the reason code of version 5, `reason` its words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class NoAnswer(NotConnected):
    """The broker took the connection and then closed it, or kept silent, instead of answering CONNECT."""


class Connection:
    """`open` once, then `publish` and `subscribe`, then `close`. Everything but `open`'s look-up runs on the loop."""

    def __init__(self, options: Options, version: Version, on_message: Callable[[str, bytes, bool], None]) -> None:
        """`on_message(topic, payload, retained)` is called on the loop for what was subscribed to."""
        self.version = version
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.window = options.max_in_flight
        self.max_packet: int | None = None
        self._options, self._on_message = options, on_message
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[tuple[ReasonCode, Properties]] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._attached = False
        self._timer: asyncio.TimerHandle | None = None
        self._client = self._make()

    def _make(self) -> paho.Client:
        o = self._options
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=o.client_id,
            protocol=_VERSIONS[self.version],
            clean_session=None if self.version == "5" else True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = o.timeout_s
        client.max_inflight_messages_set(o.max_in_flight)
        client.will_set(o.will[0], o.will[1], qos=1, retain=True)
        if o.username is not None:
            client.username_pw_set(o.username, o.password)
        if o.tls is not None:
            client.tls_set_context(o.tls)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        client.on_socket_register_write = self._want_write
        client.on_socket_unregister_write = self._done_writing
        client.on_socket_close = self._closing
        return client

    async def open(self, timeout_s: float) -> None:
        """Connect and wait for the broker's answer. Raises Refused, NoAnswer, or NotConnected when it cannot be reached."""
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                await self._reach()
                self._attach()
                both: set[asyncio.Future[Any]] = {self._answer, self.lost}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            if not deadline.expired():
                raise
            await self.close()
            raise NoAnswer(f"no answer within {timeout_s:g} s") from None
        except BaseException:
            await self.close()
            raise
        if not self._answer.done():
            await self.close()
            raise NoAnswer("the broker closed the connection instead of answering")
        code, properties = self._answer.result()
        if code.is_failure:
            await self.close()
            raise Refused(code.value, str(code))
        self.window = min(self.window, getattr(properties, "ReceiveMaximum", self.window))
        self.max_packet = getattr(properties, "MaximumPacketSize", None)

    async def _reach(self) -> None:
        """TCP and TLS, in a thread of its own; a socket that comes too late is closed by that thread."""
        o, client = self._options, self._client
        keep_alive = max(1, round(o.keep_alive_s))
        abandoned = False

        def reach() -> None:
            client.connect(o.host, o.port, keepalive=keep_alive)
            if abandoned and (socket := client.socket()) is not None:
                socket.close()

        thread = ThreadPoolExecutor(1, thread_name_prefix="genba-mqtt-connect")
        try:
            await self._loop.run_in_executor(thread, reach)
        except (OSError, UnicodeError) as error:
            raise NotConnected(f"{o.host}:{o.port}: {reason_of(error)}") from error
        except BaseException:
            abandoned = True
            raise
        finally:
            thread.shutdown(wait=False)

    def _attach(self) -> None:
        """The loop watches the socket from here on."""
        socket = self._client.socket()
        if socket is None:
            return
        # Without it a second message waits in the kernel for the acknowledgement of the first (Nagle, RFC 896).
        cast("Socket", socket).setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._attached = True
        self._loop.add_reader(socket.fileno(), self._read)
        if self._client.want_write():
            self._want_write(self._client, None, socket)
        self._timer = self._loop.call_later(_MISC_EVERY_S, self._misc)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> asyncio.Future[int]:
        """Send with QoS 1; the future gives the reason code of the acknowledgement (0 and 16 are success), or LOST. It never raises."""
        future: asyncio.Future[int] = self._loop.create_future()
        info = None
        if not self.lost.done():
            with suppress(ValueError):  # of a topic or payload that MQTT cannot carry; the reason code says so
                info = self._client.publish(topic, payload, qos=1, retain=retain)
            if info is None:
                future.set_result(0x90)  # topic name invalid
                return future
        if info is None or info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            future.set_result(LOST)
            return future
        self._waiting[info.mid] = future
        return future

    def subscribe(self, topic: str) -> asyncio.Future[int]:
        """Ask for the messages of a topic filter, QoS 1; the future gives the granted QoS, the reason code of a refusal, or LOST."""
        future: asyncio.Future[int] = self._loop.create_future()
        result, mid = (None, None) if self.lost.done() else self._client.subscribe(topic, qos=1)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            future.set_result(LOST)
        else:
            self._waiting[mid] = future
        return future

    async def close(self) -> None:
        """Say goodbye (the last will is not sent) and close the socket. Idempotent."""
        if self._attached and not self.lost.done():
            with suppress(OSError, ValueError):
                self._client.disconnect()
                self._client.loop_write()
        if not self.lost.done():
            self._let_go("closed")
        if (socket := self._client.socket()) is not None:
            self._closing(self._client, None, socket)
            socket.close()

    # Called by paho or the loop, on the loop.

    def _read(self) -> None:
        socket = self._client.socket()
        self._client.loop_read()
        while self._client.socket() is socket and isinstance(socket, ssl.SSLSocket) and socket.pending():
            self._client.loop_read()  # decrypted already, so the loop sees nothing more to read

    def _misc(self) -> None:
        self._timer = self._loop.call_later(_MISC_EVERY_S, self._misc)
        if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._let_go("the broker no longer answers")

    def _want_write(self, client: paho.Client, userdata: Any, socket: Any) -> None:
        if self._attached:
            self._loop.add_writer(socket.fileno(), client.loop_write)

    def _done_writing(self, client: paho.Client, userdata: Any, socket: Any) -> None:
        if self._attached:
            self._loop.remove_writer(socket.fileno())

    def _closing(self, client: paho.Client, userdata: Any, socket: Any) -> None:
        if self._attached and socket.fileno() >= 0:
            self._loop.remove_reader(socket.fileno())
            self._loop.remove_writer(socket.fileno())

    def _connected(self, client: paho.Client, userdata: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        if not self._answer.done():
            self._answer.set_result((code, properties))

    def _disconnected(self, client: paho.Client, userdata: Any, flags: Any, code: ReasonCode, properties: Any) -> None:
        self._let_go(f"the broker closed the connection ({code})" if code.is_failure else "the connection was closed")

    def _published(self, client: paho.Client, userdata: Any, mid: int, code: ReasonCode, properties: Any) -> None:
        future = self._waiting.pop(mid, None)
        if future is not None and not future.done():
            future.set_result(code.value)

    def _subscribed(self, client: paho.Client, userdata: Any, mid: int, codes: list[ReasonCode], properties: Any) -> None:
        self._published(client, userdata, mid, codes[0], properties)

    def _received(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._on_message(message.topic, bytes(message.payload), bool(message.retain))

    def _let_go(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.lost.done():
            self.lost.set_result(reason)
        for future in self._waiting.values():
            if not future.done():
                future.set_result(LOST)
        self._waiting.clear()


class HandshakeSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho lets go of it without closing. Meant for `SSLContext.sslsocket_class`."""

    def do_handshake(self, block: bool = False) -> None:
        """As the base class. A connection that breaks off says what it probably means."""
        try:
            super().do_handshake(block)
        except ConnectionError as error:
            self.close()
            raise ConnectionAbortedError(error.errno, "broke off the TLS handshake; is this a TLS port?") from error
        except BaseException:
            self.close()
            raise


def reason_of(error: OSError | UnicodeError) -> str:
    """What went wrong with name look-up, TCP or TLS, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "does not answer"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
