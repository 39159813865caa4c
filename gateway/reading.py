"""Devices without a spool or sinks: what `genba test` shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import structlog

from schemas.errors import ConfigError
from schemas.kinds import Kind
from schemas.plugin import Place

from . import catalogue
from .clock import WallClock
from .collector import Collector
from .config import Configuration
from .latest import Latest
from .pipeline import build_collectors


def share_certificates(configuration: Configuration, directory: Path) -> None:
    """Let adapters in `directory` show the certificates of the gateway itself, and keep whom they refuse where `genba trust` looks.

    A server knows a gateway by its certificate: with one for the occasion it would refuse it. Blocking. Raises ConfigError.
    """
    plant = configuration.plant
    for name, entry in plant.adapters.items():
        hook = catalogue.plugin("adapters", entry.kind).trust
        own = configuration.directory / plant.spool.directory / "adapters" / name
        if hook is None or hook(entry, Place(name, own, configuration.directory)) is None:
            continue
        try:
            (own / "pki").mkdir(parents=True, exist_ok=True)
            (directory / name).mkdir(parents=True, exist_ok=True)
            (directory / name / "pki").symlink_to((own / "pki").absolute())
        except OSError as error:
            raise ConfigError(
                f"cannot use the certificates in {own / 'pki'}: {error.strerror}", hint="run it as the user that runs the gateway"
            ) from error


class Reading:
    """The collectors of a configuration, feeding only the newest values. Nothing is stored, nothing leaves."""

    def __init__(
        self, configuration: Configuration, *, endpoints: Mapping[str, str], log: structlog.stdlib.BoundLogger, directory: Path
    ) -> None:
        self.clock = WallClock()
        self.tags = [replace(tag, id=number) for number, tag in enumerate(configuration.tags)]
        self.latest = Latest(len(self.tags))
        self.crashed: dict[str, str] = {}  # adapters that ended with a bug
        self._log = log
        self.collectors = build_collectors(
            configuration,
            self.tags,
            put=self._put,
            clock=self.clock,
            rng=random.Random(),
            log=log,
            directory=directory,
            endpoints=endpoints,
        )

    async def _put(self, kind: Kind, batch: pa.RecordBatch) -> int:
        if kind == "telemetry":
            self.latest.update(batch)
        return 0

    async def _collect(self, collector: Collector) -> None:
        try:
            await collector.run()
        except Exception as error:  # noqa: BLE001 (a bug in one adapter; the values of the others are worth seeing)
            self.crashed[collector.name] = repr(error)
            self._log.exception("adapter crashed", adapter=collector.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Collect while the block runs."""
        tasks = [asyncio.create_task(self._collect(collector)) for collector in self.collectors]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
