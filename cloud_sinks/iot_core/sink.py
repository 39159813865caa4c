"""The sink: rows become messages, at the pace that the service allows, each counted as delivered when it was acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from cloud_sinks.aws import Account, AwsConfig
from cloud_sinks.base import BatchPolicy, SinkContext
from cloud_sinks.commands import Inbox
from cloud_sinks.json_rows import JsonRows
from cloud_sinks.messages import Messages
from cloud_sinks.topics import Topics
from schemas.errors import Busy, ConfigError, NotConnected, Rejected
from schemas.span import Command, SpoolSpan

from .config import IotCoreConfig
from .connection import Connection, Options, refused
from .handshake import context_of, examine
from .messages import Publication, Publications, Refusal
from .pacing import Pace
from .pkcs11 import SecurityModule
from .shadow import MAX_BYTES, Shadow

if TYPE_CHECKING:
    from schemas.kinds import Kind

_SINGLE: Final = BatchPolicy(max_rows=1_000, max_bytes=1 << 20, max_age_s=0.0)
_QUOTA: Final = (0x89, 0x97)
_NOT_AUTHORIZED: Final = 0x87
_NEVER: Final = {0x90: "topic name invalid", 0x95: "packet too large", 0x99: "payload format invalid"}
_BATCHED_ROWS: Final = 10_000
_BREATH: Final = 250
"""Messages that are sent at most before others on the loop have their turn, however wide the window."""


class IotCoreSink:
    """One connection to IoT Core."""

    def __init__(self, config: IotCoreConfig, context: SinkContext) -> None:
        self._config, self._context, self._where = config, context, f"sinks.{context.name}"
        self._topics = Topics(config.topic, context)
        self._command_topic = self._topics.of_plant(config.command_topic)
        self._batched = BatchPolicy(max_rows=_BATCHED_ROWS, max_bytes=1 << 20, max_age_s=config.max_age.s)
        self._pace = Pace(config.max_messages, int(config.max_bytes))
        self._module = None if config.pkcs11 is None else SecurityModule(config.pkcs11, context.base, self._where)
        self._publications: Publications | None = None
        self._connection: Connection | None = None
        source, log = f"iot_core sink {context.name}", context.log.bind(sink=context.name)
        self._inbox = Inbox(self._command_topic, source, log)
        self._shadow = Shadow(
            config.thing,
            self._inbox,
            self._pace,
            source=source,
            where=f"{self._where}.shadow",
            timeout_s=config.timeout.s,
            log=log,
        )

    def policy(self, kind: Kind) -> BatchPolicy:
        """Readings, scores and gaps wait for company; everything else goes at once."""
        return self._batched if kind in ("telemetry", "score", "gap") else _SINGLE

    async def connect(self) -> None:
        """Look at the certificates, connect, listen for commands. Raises NotConnected and ConfigError."""
        await self._drop()
        await asyncio.to_thread(self._prepare)
        options = await self._signed() if self._config.websocket else await self._certified()
        connection = Connection(options, self._inbox.message)
        self._connection = connection
        try:
            await connection.open()
            if self._config.commands and refused(await connection.subscribe(f"{self._command_topic}/#")):
                self._context.log.warning(
                    "IoT Core lets nobody command this gateway", sink=self._context.name, topic=self._command_topic
                )
        except ConfigError as error:
            await self._drop()
            raise ConfigError(error.message, where=error.where or self._where, hint=error.hint) from error
        except BaseException:
            await self._drop()
            raise

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Publish in order, at most `max_in_flight` under way; return when all are acknowledged.

        Raises NotConnected when the connection is lost (everything of the span is sent again then), Busy, ConfigError, and Rejected
        for rows that no message of the service's limits can say.
        """
        connection, publications = self._connection, self._publications
        if connection is None or publications is None or connection.lost.done():
            raise NotConnected(f"{self._config.endpoint} is not connected")
        encoding = "zstd" if self._config.compression == "zstd" else ""
        refusals: dict[int, str] = {}
        under_way: deque[tuple[Publication, asyncio.Future[int]]] = deque()
        try:
            for made in publications.of(batches, span):
                if isinstance(made, Refusal):
                    refusals[made.row] = made.reason
                    continue
                while under_way and (len(under_way) >= self._config.max_in_flight or under_way[0][1].done()):
                    await self._settle(*under_way.popleft(), refusals)
                await self._pace.take(len(made.payload) + len(made.topic))
                answer = connection.send(made.topic, made.payload, content_type="application/json", encoding=encoding)
                under_way.append((made, answer))
                if len(under_way) % _BREATH == 0:
                    await asyncio.sleep(0)
            while under_way:
                await self._settle(*under_way.popleft(), refusals)
        finally:
            for _, answer in under_way:
                answer.cancel()
        if refusals:
            raise Rejected(next(iter(refusals.values())), sorted(refusals))

    @property
    def report_bytes(self) -> int:
        """See Reporter."""
        return MAX_BYTES if self._config.shadow else 0

    async def report(self, state: Mapping[str, object]) -> None:
        """See Reporter. The document is the thing's shadow `genba`."""
        if self._connection is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        await self._shadow.exchange(self._connection, state)

    def commands(self) -> AsyncIterator[Command]:
        """Commands as they come, over reconnects, until `aclose`. For one listener."""
        return self._inbox.commands()

    async def lost(self) -> None:
        """Return when the broker is gone."""
        if self._connection is not None:
            await asyncio.shield(self._connection.lost)

    async def aclose(self) -> None:
        """Disconnect."""
        self._inbox.close()
        await self._drop()

    async def _certified(self) -> Options:
        """How to connect with the device certificate, which a handshake has tried before."""
        config, base = self._config, self._context.base
        assert config.certificate is not None
        if self._module is not None:
            return await self._in_module(self._module, base / config.certificate)
        assert config.key is not None
        await asyncio.to_thread(self._shake_hands)
        return replace(self._options(), certificate=str(base / config.certificate), key=str(base / config.key))

    def examine(self) -> str:
        """See Examined: one handshake, which judges the certificates of both sides. The policy shows only when the gateway runs."""
        config = self._config
        self._shake_hands()
        judged = f"takes the certificate of {config.thing}" if config.key is not None else "is believed"
        return f"{config.host}:{config.host_port} {judged}"

    def _shake_hands(self) -> None:
        """Blocking."""
        config, base = self._config, self._context.base
        if config.websocket:
            context = context_of(None, None, self._ca, self._where)
            examine(config.host, config.host_port, context, self._where, alpn="http/1.1")
        elif config.certificate is None or config.key is None:
            self._look_without_key(base / (config.certificate or ""))
        else:
            context = context_of(base / config.certificate, base / config.key, self._ca, self._where)
            examine(config.host, config.host_port, context, self._where)

    async def _in_module(self, module: SecurityModule, certificate: Path) -> Options:
        """How to connect with a key that only the module has: a handshake before can judge no one but the other side."""
        await asyncio.to_thread(self._look_without_key, certificate)
        return replace(self._options(), certificate=str(certificate), module=module)

    def _look_without_key(self, certificate: Path) -> None:
        """Blocking."""
        config, where = self._config, self._where
        if not certificate.is_file():
            hint = "paths are relative to the YAML file"
            raise ConfigError(f"{certificate} is not there", where=f"{where}.certificate", hint=hint)
        try:
            examine(config.host, config.host_port, context_of(None, None, self._ca, where), where)
        except ConfigError as error:
            if error.where != f"{where}.certificate":  # that one is missed was clear
                raise

    async def _signed(self) -> Options:
        """How to connect by WebSocket with the AWS credentials of this moment. Raises NotConnected and ConfigError."""
        config, where = self._config, self._where
        account = Account(AwsConfig(**dict(config.aws), timeout=config.timeout), self._context.base, f"{where}.aws")
        found = await asyncio.to_thread(account.credentials)
        region = config.aws.region or _region_of(config.host) or found.region
        if region is None:
            raise ConfigError("no region is known", where=f"{where}.aws", hint="add `region`, for instance ap-northeast-1")
        await asyncio.to_thread(self._shake_hands)
        return replace(self._options(), signed_by=replace(found, region=region))

    def _options(self) -> Options:
        config = self._config
        return Options(
            host=config.host,
            port=config.host_port,
            client_id=config.thing,
            ca=None if self._ca is None else str(self._ca),
            keep_alive_s=config.keep_alive.s,
            timeout_s=config.timeout.s,
        )

    @property
    def _ca(self) -> Path | None:
        return None if self._config.ca is None else self._context.base / self._config.ca

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._shadow.forget()
        if connection is not None:
            await connection.close()

    async def _settle(self, made: Publication, answer: asyncio.Future[int], refusals: dict[int, str]) -> None:
        code = await answer
        if not refused(code):
            return
        if code in _NEVER:
            refusals.update(dict.fromkeys(made.rows, f"IoT Core refuses it: {_NEVER[code]}"))
        elif code in _QUOTA:
            raise Busy(1.0, f"{self._config.endpoint} asks to wait")
        elif code == _NOT_AUTHORIZED:
            raise ConfigError(
                f"IoT Core does not let this gateway publish on {made.topic}",
                where=self._where,
                hint="allow iot:Publish in the policy of its certificate",
            )
        else:
            raise NotConnected(f"{self._config.endpoint} refuses a message (reason code 0x{code:02x})")

    def _prepare(self) -> None:
        """Blocking: the first look at a time zone reads a file."""
        if self._publications is None:
            config, c = self._config, self._context
            plant = {"enterprise": c.enterprise, "site": c.site}
            messages = Messages(c.tags, zone=ZoneInfo(c.time_zone), **plant)
            self._publications = Publications(
                self._topics,
                messages,
                JsonRows(messages, c.tags, **plant),
                prefix=config.prefix,
                batched=config.batch,
                compressed=config.compression == "zstd",
                max_payload=int(config.max_payload),
            )


def _region_of(host: str) -> str | None:
    """`ap-northeast-1` of `a1b2c3-ats.iot.ap-northeast-1.amazonaws.com`."""
    parts = host.split(".")
    return parts[2] if len(parts) > 4 and parts[1] == "iot" else None
