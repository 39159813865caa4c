"""The sink: rows become messages, in order, each counted as delivered when the broker acknowledged it."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from cloud_sinks.base import BatchPolicy, SinkContext
from cloud_sinks.commands import Inbox
from cloud_sinks.messages import Messages, payload, rows
from cloud_sinks.topics import Topics
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.span import Command, SpoolSpan

from .config import MqttConfig, address
from .connection import LOST, Connection, HandshakeSocket, NoAnswer, Options, Refused, Version

if TYPE_CHECKING:
    from schemas.kinds import Kind

_FAREWELL_S: Final = 2.0
_PATIENCE_S: Final = 2.0
"""How long a broker may be silent about version 5 before 3.1.1 is tried: old ones choke on its CONNECT and never answer."""
# Reason codes of MQTT 5, table 2-6; paho gives those of 3.1.1 in the same numbers.
_SUCCESS: Final = (0x00, 0x10)  # 0x10: nobody is subscribed
_UNSUPPORTED_VERSION: Final = 0x84
_CREDENTIALS: Final = {
    0x86: "user name or password is wrong",
    0x87: "this user or client may not connect",
    0x8C: "bad authentication method",
}
_NOT_AUTHORIZED: Final = 0x87
_REFUSED: Final = 0x80
"""Reason codes from here on are failures."""
_QUOTA: Final = (0x89, 0x97)
_NEVER: Final = {
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x99: "payload format invalid",
    0x9B: "QoS 1 not supported",
}
_RETAIN_UNSUPPORTED: Final = 0x9A
_OVERHEAD: Final = 16


class MqttSink:
    """One connection to one broker. Version 5 first; what worked is remembered for the life of the sink."""

    def __init__(self, config: MqttConfig, context: SinkContext) -> None:
        """Touches nothing: the files of TLS are read when connecting."""
        self._config, self._context = config, context
        self._messages: Messages | None = None
        self._policy = BatchPolicy(max_rows=1_000, max_bytes=1 << 20, max_age_s=0.0)
        self._topics = Topics(config.topic, context)
        self._status_topic = self._topics.of_plant(config.status_topic)
        self._command_topic = self._topics.of_plant(config.command_topic)
        self._version: Version | None = None if config.protocol == "auto" else config.protocol
        self._connection: Connection | None = None
        self._inbox = Inbox(self._command_topic, f"mqtt sink {context.name}", context.log.bind(sink=context.name))

    def policy(self, kind: Kind) -> BatchPolicy:
        """At once, a thousand at a time at most."""
        return self._policy

    async def connect(self) -> None:
        """Connect, say `online`, listen for commands. Raises NotConnected within the timeout, ConfigError for wrong credentials."""
        await self._drop()
        if self._messages is None:
            self._messages = await asyncio.to_thread(self._make_messages)
        connection = await self._open()
        self._connection = connection
        outcome = await self._acknowledged(connection.publish(self._status_topic, b"online", retain=True), connection)
        self._judge(outcome, self._status_topic)
        if self._config.commands:
            granted = await self._acknowledged(connection.subscribe(f"{self._command_topic}/#"), connection)
            if granted == LOST:
                self._judge(granted, self._command_topic)
            if granted >= _REFUSED:
                self._context.log.warning(
                    "broker lets nobody command this gateway", sink=self._context.name, topic=self._command_topic
                )

    async def _open(self) -> Connection:
        """The first version that works. One that is refused, or not answered at all, is the broker's way of not speaking it."""
        tls = await asyncio.to_thread(self._tls) if address(self._config.endpoint)[2] else None
        options = self._options(tls)
        versions: tuple[Version, ...] = ("5", "3.1.1") if self._version is None else (self._version,)
        for version in versions:
            last = version == versions[-1]
            connection = Connection(options, version, self._inbox.message)
            try:
                await connection.open(options.timeout_s if last else min(_PATIENCE_S, options.timeout_s / 2))
            except Refused as refused:
                if refused.code == _UNSUPPORTED_VERSION and not last:
                    continue
                raise self._refusal(refused) from refused
            except NoAnswer as error:
                if not last:
                    continue
                hint = "; it may want a certificate of this gateway" if options.tls is not None else ""
                raise NotConnected(f"{self._config.endpoint}: {error}{hint}") from error
            if self._version is None:
                self._version = version
                self._context.log.info("broker is reached", sink=self._context.name, protocol=version)
            return connection
        raise AssertionError("unreachable: the last version returns or raises")

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Publish every row with QoS 1 in order and return when all are acknowledged; at most `max_in_flight` are under way.

        A connection lost in the middle raises NotConnected; the rows are then sent again, with the same ids.
        """
        connection, messages = self._connection, self._messages
        if connection is None or messages is None or connection.lost.done():
            raise NotConnected(f"{self._config.endpoint} is not connected")
        retain = self._config.retain and span.kind == "alert"
        under_way: deque[tuple[int, str, asyncio.Future[int]]] = deque()
        refused: dict[int, str] = {}
        number = "row" if span.kind in ("score", "health") else "seq"
        for row in rows(batches):
            try:
                topic, message = self._topics.of(row, span.kind), payload(messages.of(row, span))
            except ValueError as error:  # also pydantic's: no message can say this row
                refused[row[number]] = str(error)
                continue
            if connection.max_packet is not None and len(message) + len(topic.encode()) + _OVERHEAD > connection.max_packet:
                refused[row[number]] = f"larger than the broker takes ({connection.max_packet} bytes)"
                continue
            while len(under_way) >= connection.window:
                await self._settle(under_way.popleft(), connection, refused)
            under_way.append((row[number], topic, connection.publish(topic, message, retain=retain)))
        while under_way:
            await self._settle(under_way.popleft(), connection, refused)
        if refused:
            raise Rejected(next(iter(refused.values())), sorted(refused))

    def commands(self) -> AsyncIterator[Command]:
        """Commands as they come, over reconnects, until `aclose`. For one listener."""
        return self._inbox.commands()

    async def lost(self) -> None:
        """Return when the broker is gone."""
        if self._connection is not None:
            await asyncio.shield(self._connection.lost)

    async def aclose(self) -> None:
        """Leave `stopped` at the broker, if it still answers, and disconnect."""
        self._inbox.close()
        connection = self._connection
        try:
            if connection is not None and not connection.lost.done():
                await asyncio.wait({connection.publish(self._status_topic, b"stopped", retain=True)}, timeout=_FAREWELL_S)
        finally:
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _acknowledged(self, future: asyncio.Future[int], connection: Connection) -> int:
        try:
            async with asyncio.timeout(self._config.timeout.s):
                return await future
        except TimeoutError:
            await self._drop()
            raise NotConnected(f"{self._config.endpoint} does not acknowledge") from None

    async def _settle(self, sent: tuple[int, str, asyncio.Future[int]], connection: Connection, refused: dict[int, str]) -> None:
        number, topic, future = sent
        outcome = future.result() if future.done() else await self._acknowledged(future, connection)
        if outcome in _NEVER:
            refused[number] = f"the broker refuses it: {_NEVER[outcome]}"
        else:
            self._judge(outcome, topic)

    def _judge(self, outcome: int, topic: str) -> None:
        if outcome in _SUCCESS:
            return
        if outcome == LOST:
            lost = self._connection.lost if self._connection is not None else None
            reason = lost.result() if lost is not None and lost.done() else "the connection was closed"
            raise NotConnected(f"{self._config.endpoint}: {reason}")
        if outcome in _QUOTA:
            raise Busy(1.0, f"{self._config.endpoint} asks to wait")
        if outcome == _NOT_AUTHORIZED:
            raise ConfigError(
                f"the broker at {self._config.endpoint} does not let this gateway publish on {topic}",
                where=f"sinks.{self._context.name}",
                hint="allow it in the broker's access list, or change topic",
            )
        if outcome == _RETAIN_UNSUPPORTED:
            raise ConfigError(
                "the broker keeps no messages", where=f"sinks.{self._context.name}.retain", hint="set retain: false"
            )
        raise NotConnected(f"{self._config.endpoint} refuses a message (reason code 0x{outcome:02x})")

    def _refusal(self, refused: Refused) -> Exception:
        where = f"sinks.{self._context.name}"
        words = _CREDENTIALS.get(refused.code)
        if words is not None:
            hint = (
                "correct username and password"
                if self._config.username
                else "the broker wants username and password, or a certificate"
            )
            return ConfigError(f"the broker at {self._config.endpoint} refuses: {words}", where=where, hint=hint)
        if refused.code == 0x85:
            return ConfigError("the broker refuses the client id", where=f"{where}.client_id", hint="give another client_id")
        if refused.code == _UNSUPPORTED_VERSION:
            return ConfigError(
                f"the broker does not speak MQTT {self._version or '5 or 3.1.1'}",
                where=f"{where}.protocol",
                hint="use protocol: auto",
            )
        return NotConnected(f"{self._config.endpoint} refuses the connection: {refused.reason}")

    def _make_messages(self) -> Messages:
        """Blocking: the first look at a time zone reads a file."""
        c = self._context
        try:
            zone = ZoneInfo(c.time_zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(f"unknown time zone {c.time_zone!r}", where="time_zone", hint="write it like Asia/Tokyo") from error
        return Messages(c.tags, enterprise=c.enterprise, site=c.site, zone=zone)

    def _options(self, tls: ssl.SSLContext | None) -> Options:
        config, context = self._config, self._context
        host, port, _ = address(config.endpoint)
        return Options(
            host=host,
            port=port,
            tls=tls,
            client_id=config.client_id or f"genba-{context.gateway}-{context.name}",
            username=config.username,
            password=None if config.password is None else config.password.get_secret_value(),
            will=(self._status_topic, b"offline"),
            keep_alive_s=config.keep_alive.s,
            timeout_s=config.timeout.s,
            max_in_flight=config.max_in_flight,
        )

    def _tls(self) -> ssl.SSLContext:
        """Blocking: reads the files. Raises ConfigError that names the file."""
        config = self._config
        made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.sslsocket_class = HandshakeSocket
        option, base = "ca", self._context.base
        try:
            if config.ca is not None:
                made.load_verify_locations(base / config.ca)
            option = "certificate"
            if config.certificate is not None:
                made.load_cert_chain(
                    base / config.certificate, None if config.key is None else base / config.key, password=lambda: ""
                )
        except (OSError, ssl.SSLError) as error:
            where = f"sinks.{self._context.name}.{option}"
            raise ConfigError(
                f"{getattr(config, option)} cannot be used: {error}", where=where, hint="a PEM file is wanted"
            ) from error
        if config.insecure:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        return made
