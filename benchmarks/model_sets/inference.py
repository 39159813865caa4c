"""What a model in a file costs: a model of the recipe for remaining life, trained on made-up lives of 14 tags with a window of 30 rows.

Rows are computed one by one, with one thread. *In process* is what jobs over files, the lake and Spark do; *in a worker* is what the gateway does,
with batches of 256 rows through two pipes. Time per row is the median of the repetitions; memory is what the idle worker has.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from report import Figure

from edge_models.inference import InProcess, Limits, Request
from edge_models.train.remaining_life import Recipe, train
from gateway.isolation.inference import WorkerExecutor

from . import Measured

NEEDS = ()
_TAGS: Final = 14
_RECIPE: Final = Recipe(trees=250, networks=2, epochs=1, edges=())


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See the module's docstring."""
    del data, calibrate
    rng = np.random.default_rng(0)
    lives = []
    for _ in range(12):
        rows = int(rng.integers(120, 200))
        wear = np.exp(-np.arange(rows)[::-1] / 40.0)
        lives.append(rng.normal(100, 1, _TAGS) + np.outer(wear, np.linspace(-5, 5, _TAGS)) + rng.normal(0, 0.3, (rows, _TAGS)))
    file = train(_RECIPE, lives, [f"t{number}" for number in range(_TAGS)], folds=2)
    count = 256
    request = Request(
        {
            "rows": rng.normal(100, 1, (count, _RECIPE.window, _TAGS)).astype(np.float32),
            "baseline": rng.normal(100, 1, (count, _TAGS)).astype(np.float32),
            "age": np.full((count, 1), 50, dtype=np.float32),
        },
        "remaining",
    )
    repetitions = 10 if quick else 50
    here = InProcess(file, "life.onnx", "models.life.file")
    answers = here.run(request)  # loads it
    seen = []
    for _ in range(repetitions):
        began = time.perf_counter()
        here.run(request)
        seen.append((time.perf_counter() - began) / count)
    there, first, resident, same = asyncio.run(_worker(file, request, answers.tobytes(), repetitions))
    notes = [
        f"The file has {len(file) / 1e3:.0f} kB. The worker's answers are {'' if same else 'NOT '}those of the process bit for bit."
    ]
    return Measured(
        [
            Figure("one row, in process", statistics.median(seen) * 1e6, "µs", "lower"),
            Figure("one row, in a worker, batches of 256", there * 1e6, "µs", "lower"),
            Figure("one batch of one row, in a worker", first * 1e6, "µs", "lower"),
            Figure("memory of the worker", resident / 1e6, "MB", "lower"),
        ],
        notes,
    )


async def _worker(file: bytes, request: Request, expected: bytes, repetitions: int) -> tuple[float, float, int, bool]:
    """Seconds per row in batches, seconds for one row, resident bytes, and whether the answers are the expected ones."""
    worker = WorkerExecutor(file, "life.onnx", Limits(30.0, 1 << 30), "models.life.file", log=structlog.get_logger())
    single = Request({name: array[:1] for name, array in request.inputs.items()}, request.output)
    keeper = asyncio.create_task(worker.keep())
    try:
        async with asyncio.timeout(60):
            while not worker.pid:  # noqa: ASYNC110 (a process that starts)
                await asyncio.sleep(0.01)
        found = await worker.answer(request)
        took: dict[int, list[float]] = {1: [], request.rows: []}
        for _ in range(repetitions):
            for one in (request, single):
                began = time.perf_counter()
                await worker.answer(one)
                took[one.rows].append((time.perf_counter() - began) / one.rows)
        await asyncio.sleep(1.5)  # a sign of life, with its memory
        return (
            statistics.median(took[request.rows]), statistics.median(took[1]), worker.resident,
            found is not None and found.tobytes() == expected,
        )  # fmt: skip
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])
