"""The Modbus adapter: one connection, its scan classes on one schedule, one batch per poll."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final
from zoneinfo import ZoneInfo

import pyarrow as pa
import structlog

from adapters.base import AdapterContext
from adapters.polling import Schedule
from adapters.quarantine import Quarantine
from schemas.errors import NotConnected

from .config import ModbusConfig
from .connection import open_connection
from .exchange import Connection
from .memory import Memory
from .plan import cuts_of, points_of, scan_classes
from .scanner import Scanner, Silence
from .timing import line_of
from .window import Window

MAX_ROWS: Final = 65_536
"""A poll of more tags comes as several batches."""
_PERSISTENT: Final = 5  # polls in a row that skipped slots


class ModbusAdapter:
    """Polls one Modbus connection, one request at a time unless `window` says otherwise. Time is the gateway's, when the last answer of the poll arrived."""

    def __init__(self, config: ModbusConfig, context: AdapterContext) -> None:
        """Compile the plan. Raises ConfigError for a tag that cannot be read in one request."""
        self._config, self._context = config, context
        self._log = context.log.bind(adapter=context.name)
        points = points_of(config, context.tags)
        line = line_of(config)
        max_gap = line.max_gap if line is not None else None
        window = Window(config.window, self._log)
        self._scanners = [
            Scanner(scan, [context.tags[position] for position in scan.positions], self._log, max_gap=max_gap, window=window)
            for scan in scan_classes(context.tags, points)
        ]
        quarantine = Quarantine(context.directory / "refused.json", config.endpoint, log=self._log)
        self._memory = Memory(quarantine, self._scanners, context.clock, self._log)
        self._units = {point.span.unit for point in points}
        self._zone: ZoneInfo | None = None
        self._connection: Connection | None = None

    async def connect(self) -> None:
        """Open a new connection; a former one is closed first, and what was learnt on it is forgotten."""
        await self.aclose()
        if self._zone is None:
            self._zone = await asyncio.to_thread(ZoneInfo, self._context.time_zone)  # reads a file
        self._connection = await open_connection(self._config, self._context.base)
        cuts = cuts_of(self._config)
        for scanner in self._scanners:
            scanner.begin(cuts, self._zone)
        await self._memory.recall()

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """One telemetry batch per poll of a scan class, with every tag of the class once, in the order of the configuration."""
        connection = self._connection
        if connection is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        try:
            if not self._scanners:
                await _until_lost(connection)
            schedule = Schedule([scanner.period_us for scanner in self._scanners])
            silence = Silence(self._units)
            paces = [_Pace(scanner.period_us / 1e6, self._log) for scanner in self._scanners]
            while True:
                number = await _due(schedule, connection)
                paces[number].note(schedule.overruns[number])
                batch = await self._poll(self._scanners[number], connection, silence)
                if not silence.anybody():
                    continue  # not yet known whether there is a device
                for first in range(0, batch.num_rows, MAX_ROWS):
                    yield batch.slice(first, MAX_ROWS)
        except NotConnected as error:
            raise NotConnected(f"{self._config.endpoint}: {error}", quality=error.quality) from error
        finally:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close the connection; `batches` raises NotConnected then."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _poll(self, scanner: Scanner, connection: Connection, silence: Silence) -> pa.RecordBatch:
        self._memory.wake(scanner)
        values = await scanner.poll(connection, silence)
        await self._memory.keep(scanner)
        return scanner.readings.batch(
            values=values.numbers,
            quality=values.quality,
            time_us=self._context.clock.now_us(),
            integers=values.integers,
            texts=values.texts,
        )


class _Pace:
    """Says once that a scan class cannot keep its period, and once that it can again; a poll that is late now and then is neither."""

    def __init__(self, scan_s: float, log: structlog.stdlib.BoundLogger) -> None:
        self._scan_s, self._log = scan_s, log
        self._overruns = self._behind = 0
        self._late = False

    def note(self, overruns: int) -> None:
        """A slot has come; `overruns` is how many have been skipped so far."""
        self._behind = min(self._behind + 1, _PERSISTENT) if overruns > self._overruns else max(self._behind - 1, 0)
        self._overruns = overruns
        if self._behind == _PERSISTENT and not self._late:
            self._late = True
            self._log.warning("polls take longer than their scan class", scan_s=self._scan_s, skipped=overruns)
        elif self._behind == 0 and self._late:
            self._late = False
            self._log.info("polls keep to their scan class again", scan_s=self._scan_s, skipped=overruns)


async def _due(schedule: Schedule, connection: Connection) -> int:
    """Wait for the next slot, but not longer than the connection stands."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as wait:  # ends the sleep without a second task beside it
            connection.on_loss(lambda: wait.reschedule(loop.time()))
            if connection.loss:
                raise NotConnected(connection.loss)
            return await schedule.next()
    except TimeoutError as error:
        raise NotConnected(connection.loss) from error
    finally:
        connection.on_loss(None)


async def _until_lost(connection: Connection) -> None:
    """No tags: nothing to read, but a lost connection still shows. Raises NotConnected."""
    lost = asyncio.Event()
    connection.on_loss(lost.set)
    if not connection.loss:
        await lost.wait()
    raise NotConnected(connection.loss)
