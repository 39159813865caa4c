"""The S7 adapter: one connection to a PLC, polled on the schedule of its scan classes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from zoneinfo import ZoneInfo

import pyarrow as pa

from adapters.base import AdapterContext, BoundTag, TagConfig
from adapters.playback import schedule_of
from adapters.polling import Schedule
from adapters.quarantine import Quarantine
from schemas.errors import NotConnected

from .config import S7Config
from .connection import Connection, open_connection
from .scanning import ScanClass
from .taped import connection_of


class S7Adapter:
    """Reads one PLC. Nothing is ever written: there is no code for it."""

    def __init__(self, config: S7Config, context: AdapterContext) -> None:
        self._config = config
        by_period: dict[int, list[BoundTag[TagConfig]]] = defaultdict(list)
        for bound in context.tags:
            by_period[bound.tag.period_us].append(bound)
        self._periods = sorted(by_period)
        device = f"{config.endpoint} {config.tsaps[1]:04x}"
        self._quarantine = Quarantine(context.directory / "refused.json", device, log=context.log)
        self._classes = [
            ScanClass(
                by_period[period],
                clock=context.clock,
                log=context.log,
                timeout_s=config.timeout.s,
                quarantine=self._quarantine,
            )
            for period in self._periods
        ]
        self._time_zone = context.time_zone
        self._tape, self._directory = context.tape, context.directory
        self._zone: ZoneInfo | None = None
        self._connection: Connection | None = None
        self.overruns = 0  # polls skipped because an earlier one was still under way

    async def connect(self) -> None:
        """Open a new connection within the timeout; a former one is closed first."""
        await self.aclose()
        if self._zone is None:
            self._zone = await asyncio.to_thread(self._load)
        config = self._config
        connection = await connection_of(
            self._tape,
            self._directory,
            lambda make: open_connection(config.host, config.port, config.tsaps, timeout_s=config.timeout.s, make=make),
        )
        self._connection = connection
        await asyncio.to_thread(self._prepare, connection.pdu, self._zone)  # ten thousand tags take a tenth of a second

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """One batch per poll and scan class."""
        connection = self._connection
        if connection is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        if not self._classes:
            await self._lost(connection)
        schedule = schedule_of(self._tape, self._periods)
        before = self.overruns
        while True:
            scan = self._classes[await self._due(schedule, connection)]
            self.overruns = before + sum(schedule.overruns)
            yield await scan.poll(connection)

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _load(self) -> ZoneInfo:
        """What is read from files, once."""
        refused = self._quarantine.load({key for scan in self._classes for key in scan.keys})
        for scan in self._classes:
            scan.remember(refused)
        return ZoneInfo(self._time_zone)

    def _prepare(self, pdu: int, zone: ZoneInfo) -> None:
        for scan in self._classes:
            scan.prepare(pdu, zone)

    @staticmethod
    async def _due(schedule: Schedule, connection: Connection) -> int:
        """The next scan class, or NotConnected as soon as the connection ends, however long the wait would have been."""
        loop = asyncio.get_running_loop()
        if connection.error is not None:
            raise connection.error
        try:
            async with asyncio.timeout(None) as waiting:
                connection.on_lost = lambda: waiting.reschedule(loop.time())
                return await schedule.next()
        except TimeoutError:
            raise connection.error or NotConnected("the connection ended") from None
        finally:
            connection.on_lost = None

    @staticmethod
    async def _lost(connection: Connection) -> None:
        """A connection without tags has nothing to do but to notice its end."""
        lost = asyncio.Event()
        connection.on_lost = lost.set
        if connection.error is None:
            await lost.wait()
        raise connection.error or NotConnected("the connection ended")
