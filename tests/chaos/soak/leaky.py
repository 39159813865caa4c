"""A gateway with leaks: it keeps every batch, and each second opens a file, begins a task and a thread that never end.

`python tests/chaos/soak/leaky.py run plant.yaml`. The control of the soak: the same judgement must find all four.
"""

from __future__ import annotations

import asyncio
import os
import threading

import pyarrow as pa

from gateway import supervisor
from gateway.cli import main
from gateway.pipeline import Pipeline
from schemas.kinds import Kind

KEPT: list[object] = []


def leak() -> None:
    """Replace what forgets by what keeps."""
    put, run = Pipeline.put, supervisor.Supervisor.run

    async def keep(self: Pipeline, kind: Kind, batch: pa.RecordBatch) -> int:
        KEPT.append((batch, os.urandom(20_000)))  # a small batch alone is less than the noise of a minute
        return await put(self, kind, batch)

    async def lose(self: supervisor.Supervisor, stop: asyncio.Event) -> None:
        leaks = asyncio.create_task(_each_second())
        try:
            await run(self, stop)
        finally:
            leaks.cancel()

    Pipeline.put = keep  # type: ignore[method-assign]
    supervisor.Supervisor.run = lose  # type: ignore[method-assign]


async def _each_second() -> None:
    while True:
        KEPT.append(os.open("/dev/null", os.O_RDONLY))
        KEPT.append(asyncio.create_task(asyncio.Event().wait()))
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        await asyncio.sleep(1)


if __name__ == "__main__":
    leak()
    main()
