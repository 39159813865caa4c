"""Controls: adapters with one fault each, and the property of the suite that must not let it pass."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from adapters.base import Adapter, AdapterContext
from adapters.modbus import PLUGIN, ModbusConfig, build
from adapters.modbus.adapter import ModbusAdapter
from schemas.errors import NotConnected
from schemas.kinds import TELEMETRY
from schemas.plugin import Plugin
from tests.conformance.adapter import AdapterConformance, PollingConformance


class Suite(PollingConformance, AdapterConformance):
    __test__ = False
    kind = "modbus"
    places: ClassVar = {"temperature": {"address": "hr:100", "type": "float32"}, "count": {"address": "hr:102", "type": "int16"}}
    missing: ClassVar = {"address": "hr:210", "type": "uint16"}
    replayed: ClassVar = {"address": "hr:0", "type": "float64"}

    def endpoint(self, port: int) -> str:
        return f"tcp://127.0.0.1:{port}"

    def __init__(self, adapter: Callable[[ModbusConfig, AdapterContext], Adapter] = build) -> None:
        self.plugin: Plugin[ModbusConfig, Adapter] = Plugin(ModbusConfig, adapter, simulate=PLUGIN.simulate)  # type: ignore[misc]


class WrongTag(ModbusAdapter):
    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        column = TELEMETRY.get_field_index("tag")
        async for batch in super().batches():
            ids = pa.array(np.asarray(batch.column("tag")) + 1000, pa.int32())
            yield batch.set_column(column, TELEMETRY.field("tag"), ids)


class Drifting(ModbusAdapter):
    """Sleeps the period after each poll."""

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        assert self._connection is not None
        while True:
            async for batch in super().batches():
                yield batch
                break
            await asyncio.sleep(0.05)
            await self.connect()


class LeakingTask(ModbusAdapter):
    async def connect(self) -> None:
        await super().connect()
        self._task = asyncio.create_task(asyncio.sleep(5))


class LeakingSocket(ModbusAdapter):
    async def connect(self) -> None:
        await super().connect()
        self._other = socket.socket()


class Stubborn(ModbusAdapter):
    """Never says that the device is gone."""

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        try:
            async for batch in super().batches():
                yield batch
        except NotConnected:
            return


class StepsTwice(ModbusAdapter):
    """Reads everything twice and shows half of it."""

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        shown = False
        async for batch in super().batches():
            shown = not shown
            if shown:
                yield batch


@pytest.mark.parametrize(
    ("faulty", "prop"),
    [
        (WrongTag, Suite.test_every_batch_is_telemetry_of_its_tags_in_microseconds),
        (Drifting, Suite.test_the_schedule_does_not_drift_behind_a_slow_consumer),
        (LeakingTask, Suite.test_nothing_is_left_behind_after_aclose),
        (LeakingSocket, Suite.test_nothing_is_left_behind_after_aclose),
        (Stubborn, Suite.test_survives_a_restart_of_the_device),
        (StepsTwice, Suite.test_a_recording_comes_out_value_for_value),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_faulty_adapter_does_not_pass(
    faulty: type[ModbusAdapter], prop: Callable[[Suite, Path], object], tmp_path: Path
) -> None:
    suite = Suite(faulty)
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        await prop(suite, tmp_path)  # type: ignore[misc]
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
