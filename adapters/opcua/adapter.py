"""The OPC UA adapter: one session, its subscriptions, and the batches that come out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final, cast

import pyarrow as pa

from adapters.base import AdapterContext, BoundTag, TagConfig
from adapters.capture import Recorder
from schemas.certificates import CertificateFact
from schemas.errors import ConfigError, NotConnected
from schemas.kinds import make_batch

from .conditions import Conditions, Seen
from .config import EventsConfig, HistoryConfig, OpcuaConfig, OpcuaTag
from .connection import Connection, failures, open_connection, quiet_library
from .cyclic import Reader
from .history import Backfill, Memory
from .history import Pace as HistoryPace
from .items import Remarks
from .liveness import Contract, Liveness, Pace, Step, contract_of
from .outbox import Outbox
from .plan import Plan, SamplingClass, compile_plan
from .recovery import Renew
from .renewal import Renewal
from .resolve import ServerFacts, read_facts
from .rows import Rows
from .subscriptions import NoSubscriptions, Subscriber
from .values import Types

_QUIET_S: Final = 1.5
"""Silence after which the server is asked whether it is there. With the default timeout a frozen one is noticed in 3.5 s."""
LIVENESS_PACE = Pace()
HISTORY_PACE = HistoryPace()


class OpcuaAdapter:
    """Reads one OPC UA server. Values come when they change; a batch holds all changes of one publish answer."""

    def __init__(self, config: OpcuaConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._plan = compile_plan(context.tags, config)
        self._rows = Rows(context.tags, self._plan)
        self._remarks = Remarks(context.name, context.log)
        self._connection: Connection | None = None
        self._facts = ServerFacts({})
        self._liveness = Liveness(_contract(config, self._plan, context.tags), LIVENESS_PACE)
        self._memory = Memory(context.last_seen_us or 0)
        self._seen = Seen()
        self._renewal = Renewal(config, context)

    async def connect(self) -> None:
        """Open a new session; a former one is closed first."""
        quiet_library()
        await self._drop()
        self._rows.types = Types()  # namespaces may have other numbers in the new session
        self._connection = await self._open()
        try:
            async with failures(self._config.endpoint):
                await self._learn(self._connection)
        except BaseException:
            await self._drop()
            raise
        self._liveness.begin(asyncio.get_running_loop().time())

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Telemetry batches of one publish answer (or one cyclic read) each, and gap batches where values were lost."""
        if self._connection is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        outbox = Outbox(self._context.name, self._context.clock, self._context.log)
        session = asyncio.create_task(self._run(self._connection, outbox), name=f"opcua {self._context.name}")
        try:
            while True:
                yield await outbox.get()
        finally:
            if self._connection is not None:
                self._heard(self._connection)
            session.cancel()
            await asyncio.wait([session])
            await self._drop()

    def certificates(self) -> Sequence[CertificateFact]:
        """Ours and the server's, as of the last connection that stood."""
        return self._renewal.certificates

    async def aclose(self) -> None:
        """Close the session."""
        await self._drop()

    async def _open(self) -> Connection:
        context = self._context
        connection = await open_connection(self._config, context.name, context.directory, context.base)
        if isinstance(context.tape, Recorder):
            await context.tape.opened(context.directory)
            connection.recorder = context.tape
        self._renewal.connected(connection)
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _learn(self, connection: Connection) -> None:
        """Ask for the namespaces; tell where an index that somebody wrote has another meaning now."""
        before = self._facts.moved
        self._facts = await read_facts(connection, self._facts.pinned)
        if self._facts.moved != before:
            moved = {self._facts.pinned[index]: now for index, now in self._facts.moved.items()}
            self._context.log.warning("the server has renumbered its namespaces", adapter=self._context.name, now=moved)

    async def _run(self, connection: Connection, outbox: Outbox) -> None:
        """Sessions until one fails; those that recovery asks for follow each other without an outage."""
        try:
            async with failures(self._config.endpoint):
                while True:
                    try:
                        async with asyncio.TaskGroup() as group:
                            group.create_task(connection.keep_alive(_QUIET_S))
                            group.create_task(self._renewal.watch())
                            group.create_task(self._read(connection, outbox))
                    except BaseExceptionGroup as errors:
                        error = _first(errors)
                        if not isinstance(error, Renew):
                            raise error from errors
                        connection = await self._renew(connection, error, outbox)
        except ConfigError as error:
            # The session was good: a server that has closed it may answer that the user is refused. Connecting again tells.
            outbox.fail(NotConnected(error.message))
        except Exception as error:  # noqa: BLE001 - whatever it is, `batches` raises it
            outbox.fail(error)

    async def _renew(self, connection: Connection, wanted: Renew, outbox: Outbox) -> Connection:
        """Another session, or another connection, in place of this one; a gap row for the moment between."""
        context, loop = self._context, asyncio.get_running_loop()
        began_us = context.clock.now_us()
        self._heard(connection)
        if wanted.step is Step.NEW_CLIENT:
            await self._drop()
            connection = self._connection = await self._open()
        else:
            await connection.new_session()
        self._rows.types = Types()
        await self._learn(connection)
        self._liveness.begin(loop.time(), keep=True)
        context.log.info("a new session is open", adapter=context.name, reason=wanted.reason)
        now_us = max(began_us, context.clock.now_us())
        outbox.put(make_batch("gap", 1, time=began_us, end=now_us, source=context.name, cause="not_connected"))
        return connection

    def _heard(self, connection: Connection) -> None:
        silence_s = asyncio.get_running_loop().time() - connection.heard_at
        self._memory.heard_us = self._context.clock.now_us() - round(silence_s * 1e6)

    async def _read(self, connection: Connection, outbox: Outbox) -> None:
        plan = self._plan
        async with asyncio.TaskGroup() as group:
            if plan.classes or self._config.events is not False:
                group.create_task(self._subscribe(connection, outbox))
            if plan.polls:
                group.create_task(self._reader(connection, outbox, plan.polls).run())

    async def _subscribe(self, connection: Connection, outbox: Outbox) -> None:
        context = self._context
        history = self._config.history
        backfill = None
        if history is not False:
            backfill = Backfill(
                connection,
                self._memory,
                self._plan,
                self._rows,
                outbox,
                max_us=int(history.max if isinstance(history, HistoryConfig) else HistoryConfig().max),
                facts=self._facts,
                name=context.name,
                clock=context.clock,
                log=context.log,
                pace=HISTORY_PACE,
            )
        subscriber = Subscriber(
            connection,
            self._facts,
            self._plan,
            self._rows,
            outbox,
            name=context.name,
            clock=context.clock,
            log=context.log,
            timeout_s=self._config.timeout.s,
            remarks=self._remarks,
            liveness=self._liveness,
            backfill=backfill,
            conditions=self._conditions(connection, outbox),
        )
        try:
            await subscriber.run()
        except NoSubscriptions:
            context.log.info("the server has no subscriptions: reading cyclically", adapter=context.name)
            await self._reader(connection, outbox, self._plan.classes).run()

    def _conditions(self, connection: Connection, outbox: Outbox) -> Conditions | None:
        if self._config.events is False:
            return None
        wanted = self._config.events if isinstance(self._config.events, EventsConfig) else EventsConfig()
        context = self._context
        assets = {bound.tag.asset for bound in context.tags}
        return Conditions(
            connection,
            self._facts,
            outbox,
            self._seen,
            notifiers=wanted.notifiers,
            types=wanted.types,
            min_severity=wanted.min_severity,
            about=self._about,
            asset=assets.pop() if len(assets) == 1 else None,
            name=context.name,
            clock=context.clock,
            log=context.log,
        )

    def _about(self, position: int) -> tuple[int | None, str]:
        """Id and asset of the tag at `position`; no id where its node is several tags."""
        tag = self._context.tags[position].tag
        return (None if position in self._plan.parts else tag.id), tag.asset

    def _reader(self, connection: Connection, outbox: Outbox, classes: Sequence[SamplingClass]) -> Reader:
        context = self._context
        return Reader(
            connection,
            self._facts,
            self._plan,
            classes,
            self._rows,
            outbox,
            name=context.name,
            clock=context.clock,
            log=context.log,
            liveness=self._liveness,
        )


def _contract(config: OpcuaConfig, plan: Plan, tags: Sequence[BoundTag[TagConfig]]) -> Contract:
    within = {i: int(s) for i, bound in enumerate(tags) if (s := cast(OpcuaTag, bound.config).expect_update_within) is not None}
    return contract_of(plan, [bound.tag.period_us for bound in tags], within, int(config.verify_quiet))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says most: one that the adapter raised on purpose before what the library or the loop raised."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [errors]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, (NotConnected, Renew))), flat[0])
