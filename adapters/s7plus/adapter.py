"""The adapter: one session with a PLC in a thread of its own, polled on the schedule of its scan classes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from adapters.base import AdapterContext, BoundTag, TagConfig
from adapters.polling import Schedule
from adapters.readings import Readings
from schemas.errors import ConfigError, NotConnected

from .config import INSTALL, LIBRARY, S7PlusConfig, installed
from .plan import CHUNK, Plan
from .worker import Worker

if TYPE_CHECKING:
    from .session import Session

_NAMED: Final = 20  # tags in a log line


class S7PlusAdapter:
    """Reads one PLC by symbol. Nothing is ever written: there is no code for it."""

    def __init__(self, config: S7PlusConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        by_period: dict[int, list[BoundTag[TagConfig]]] = defaultdict(list)
        for bound in context.tags:
            by_period[bound.tag.period_us].append(bound)
        self._periods = sorted(by_period)
        self._tags = [by_period[period] for period in self._periods]
        self._readings = [Readings(tags) for tags in self._tags]
        self._plans: list[Plan] = []
        self._told: dict[tuple[int, int], str] = {}  # scan class and position -> reason that the log has named
        self._worker: Worker | None = None
        self._session: Session | None = None
        self.overruns = 0  # polls skipped because an earlier one was still under way

    async def connect(self) -> None:
        """Open a session and look the names up; a former session is closed first. Raises NotConnected, ConfigError."""
        await self.aclose()
        if not installed():
            raise ConfigError(f"s7plus needs the package {LIBRARY}, which is not installed", hint=INSTALL)
        if not self._plans:
            self._plans = await asyncio.to_thread(self._compile)
        from .session import Session

        self._session = session = Session(self._config, self._context.base)
        self._worker = worker = Worker(f"s7plus-{self._context.name}", session.abort)
        try:
            await worker.run(session.open, timeout_s=self._config.timeout.s)
            await self._resolve(worker, session)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, NotConnected):
                raise NotConnected(self._with_peer(str(error))) from error
            raise

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """One batch per poll and scan class; between them, now and then, a look whether the program was changed."""
        worker, session = self._worker, self._session
        if worker is None or session is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        schedule = Schedule([*self._periods, int(self._config.check_program)])
        before, checked = self.overruns, False
        try:
            while True:
                number = await schedule.next()
                if number < len(self._periods):
                    self.overruns = before + sum(schedule.overruns[:-1])
                    yield await self._poll(number, worker, session)
                elif checked:
                    await self._check(worker, session)
                checked = checked or number == len(self._periods)  # its first slot is right after connecting
        except NotConnected as error:
            raise NotConnected(self._with_peer(str(error))) from error

    async def aclose(self) -> None:
        """Close the session and end the thread."""
        worker, self._worker = self._worker, None
        session, self._session = self._session, None
        if worker is None:
            return
        try:
            if session is not None:
                await worker.run(session.close, timeout_s=0.5)
        except NotConnected:
            pass  # the thread ends with everything in it
        finally:
            await worker.aclose()

    def _compile(self) -> list[Plan]:
        zone = ZoneInfo(self._context.time_zone)  # reads a file
        return [Plan(tags, zone) for tags in self._tags]

    async def _resolve(self, worker: Worker, session: Session) -> None:
        by_name = any(plan.by_name for plan in self._plans)
        symbols = await worker.run(session.symbols, timeout_s=self._config.browse_timeout.s) if by_name else {}
        for plan in self._plans:
            plan.resolve(symbols)

    async def _check(self, worker: Worker, session: Session) -> None:
        limit_s = self._config.browse_timeout.s
        if not any(plan.by_name for plan in self._plans):
            await worker.run(session.look, timeout_s=self._config.timeout.s)
        elif await worker.run(session.program_changed, timeout_s=limit_s):
            self._context.log.info("the program of the PLC was changed; names are looked up anew", adapter=self._context.name)
            await self._resolve(worker, session)

    async def _poll(self, number: int, worker: Worker, session: Session) -> pa.RecordBatch:
        plan = self._plans[number]
        timeout_s = self._config.timeout.s
        requests = -(-len(plan.items) // CHUNK)
        answers = (
            await worker.run(lambda: session.read(plan.items, timeout_s), timeout_s=timeout_s * requests) if plan.items else []
        )
        values = plan.decode(answers)
        self._tell(number, plan)
        return self._readings[number].batch(
            values=values.numbers,
            quality=values.quality,
            time_us=self._context.clock.now_us(),
            integers=values.integers,
            texts=values.texts or None,
        )

    def _tell(self, number: int, plan: Plan) -> None:
        """One log line for all tags that newly cannot be read for one reason, one for those that can again."""
        now = {(number, position): reason for position, (_, reason) in plan.wrong.items()}
        before = {key: reason for key, reason in self._told.items() if key[0] == number}
        if now == before:
            return
        fresh: dict[str, list[int]] = defaultdict(list)
        for key, reason in now.items():
            if before.get(key) != reason:
                fresh[reason].append(key[1])
        log = self._context.log
        for reason, positions in fresh.items():
            log.warning("tags cannot be read", reason=reason, tags=self._names(number, positions), count=len(positions))
        again = sorted(position for _, position in before.keys() - now.keys())
        if again:
            log.info("tags can be read again", tags=self._names(number, again), count=len(again))
        self._told = {key: reason for key, reason in self._told.items() if key[0] != number} | now

    def _names(self, number: int, positions: Iterable[int]) -> list[str]:
        tags = self._tags[number]
        names = [f"{tags[position].tag.name} ({tags[position].tag.address})" for position in positions]
        return names if len(names) <= _NAMED else [*names[:_NAMED], "…"]

    def _with_peer(self, message: str) -> str:
        return message if message.startswith(self._config.endpoint) else f"{self._config.endpoint}: {message}"
