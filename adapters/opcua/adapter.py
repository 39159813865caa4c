"""The OPC UA adapter: one session, its subscriptions, and the batches that come out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import pyarrow as pa

from adapters.base import AdapterContext
from schemas.certificates import CertificateFact
from schemas.errors import NotConnected

from .config import OpcuaConfig
from .connection import Connection, failures, open_connection, quiet_library
from .cyclic import Reader
from .items import Remarks
from .outbox import Outbox
from .plan import SamplingClass, compile_plan
from .renewal import Renewal
from .resolve import ServerFacts, read_facts
from .rows import Rows
from .subscriptions import NoSubscriptions, Subscriber
from .values import Types

_QUIET_S: Final = 1.5
"""Silence after which the server is asked whether it is there. With the default timeout a frozen one is noticed in 3.5 s."""


class OpcuaAdapter:
    """Reads one OPC UA server. Values come when they change; a batch holds all changes of one publish answer."""

    def __init__(self, config: OpcuaConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._plan = compile_plan(context.tags, config)
        self._rows = Rows(context.tags, self._plan)
        self._remarks = Remarks(context.name, context.log)
        self._connection: Connection | None = None
        self._facts = ServerFacts({})
        self._renewal = Renewal(config, context)

    async def connect(self) -> None:
        """Open a new session; a former one is closed first."""
        quiet_library()
        await self._drop()
        context = self._context
        self._rows.types = Types()  # namespaces may have other numbers in the new session
        self._connection = await open_connection(self._config, context.name, context.directory, context.base)
        self._renewal.connected(self._connection)
        try:
            async with failures(self._config.endpoint):
                self._facts = await read_facts(self._connection)
        except BaseException:
            await self._drop()
            raise

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
            session.cancel()
            await asyncio.wait([session])
            await self._drop()

    def certificates(self) -> Sequence[CertificateFact]:
        """Ours and the server's, as of the last connection that stood."""
        return self._renewal.certificates

    async def aclose(self) -> None:
        """Close the session."""
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _run(self, connection: Connection, outbox: Outbox) -> None:
        try:
            async with failures(self._config.endpoint):
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(connection.keep_alive(_QUIET_S))
                        group.create_task(self._renewal.watch())
                        group.create_task(self._read(connection, outbox))
                except BaseExceptionGroup as errors:
                    raise _first(errors) from errors
        except Exception as error:  # noqa: BLE001 - whatever it is, `batches` raises it
            outbox.fail(error)

    async def _read(self, connection: Connection, outbox: Outbox) -> None:
        plan = self._plan
        async with asyncio.TaskGroup() as group:
            if plan.classes:
                group.create_task(self._subscribe(connection, outbox))
            if plan.polls:
                group.create_task(self._reader(connection, outbox, plan.polls).run())

    async def _subscribe(self, connection: Connection, outbox: Outbox) -> None:
        context = self._context
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
        )
        try:
            await subscriber.run()
        except NoSubscriptions:
            context.log.info("the server has no subscriptions: reading cyclically", adapter=context.name)
            await self._reader(connection, outbox, self._plan.classes).run()

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
        )


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
    return next((error for error in flat if isinstance(error, NotConnected)), flat[0])
