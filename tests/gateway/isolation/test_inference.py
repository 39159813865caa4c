"""Models in worker processes: the same answers as in the gateway's own, and what happens when they do not keep their limits."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import structlog
from onnx import helper
from structlog.testing import capture_logs

from edge_models import onnx
from edge_models.base import ModelConfig, ModelContext
from edge_models.inference import InProcess, Limits, NoAnswer, Request
from edge_models.runtime import ModelSet
from gateway import catalogue
from gateway.isolation.inference import ROWS, WorkerExecutor, open_worker
from gateway.runner import ModelRunner
from schemas.kinds import with_seq
from schemas.tags import Limits as TagLimits
from tests.edge_models.graphs import FLOAT, constant, greedy_graph, mean_graph, save, slow_graph
from tests.gateway.samples import make_tag, rows, until

START_US = 1_767_225_600_000_000
pytestmark = pytest.mark.timeout(120)


def network(path: Path) -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["rows", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["score"]),
    ]
    weights = [constant("w", rng.normal(0, 1, (40, 64))), constant("v", rng.normal(0, 0.1, (64, 2)))]
    return save(path, nodes, {"rows": (FLOAT, ["batch", 40])}, {"score": (FLOAT, ["batch", 2])}, weights)


def asked(n: int, width: int = 40, seed: int = 1) -> Request:
    return Request({"rows": np.random.default_rng(seed).normal(0, 1, (n, width)).astype(np.float32)}, "score")


def pair(n: int) -> Request:
    return Request({"rows": np.ones((n, 1, 2), dtype=np.float32)}, "score")


@asynccontextmanager
async def working(
    file: Path, *, budget_s: float = 30.0, memory: int = 600 << 20, pause_s: float = 0.05
) -> AsyncIterator[WorkerExecutor]:
    data = await asyncio.to_thread(file.read_bytes)
    worker = WorkerExecutor(
        data, file.name, Limits(budget_s, memory), "models.watch.file", log=structlog.get_logger(), first_pause_s=pause_s,
        starting_s=60.0,
    )  # fmt: skip
    try:
        yield worker
    finally:
        await worker.close()


async def answered(worker: WorkerExecutor, request: Request) -> Any:
    """Ask until there is an answer: the model is tried again after its pause."""
    for _ in range(1000):
        found = await worker.answer(request)
        if found is not None:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"no answer: {worker.suspended}")


async def test_answers_are_those_of_this_process_bit_for_bit(tmp_path: Path) -> None:
    file = network(tmp_path / "m.onnx")
    here = InProcess(file.read_bytes(), file.name, "models.watch.file")
    async with working(file) as worker:
        for n in (1, 7, ROWS, 2 * ROWS + 3):
            request = asked(n, seed=n)
            found = await worker.answer(request)
            assert found is not None
            assert found.dtype == np.float32
            assert found.tobytes() == here.run(request).tobytes()
        assert (await worker.answer(asked(0))) is not None
        pid = worker.pid
        assert pid != 0
        assert os.getpriority(os.PRIO_PROCESS, pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_model_that_overruns_is_suspended_and_tried_again(tmp_path: Path) -> None:
    async with working(slow_graph(tmp_path / "slow.onnx", 10**8), budget_s=0.3) as worker:
        with capture_logs() as log:
            assert await worker.answer(pair(1)) is None
        assert "took longer than its budget of 0.3 s" in worker.suspended
        assert [entry["event"] for entry in log] == ["the model is suspended"]
        assert worker.pid == 0
    async with working(slow_graph(tmp_path / "slow.onnx", 10**8), budget_s=0.3, pause_s=3600) as worker:
        assert await worker.answer(pair(1)) is None
        began = asyncio.get_running_loop().time()
        assert await worker.answer(pair(1)) is None  # nobody waits for one that is suspended
        assert asyncio.get_running_loop().time() - began < 0.25
        assert worker.suspensions == 1
    async with working(slow_graph(tmp_path / "quick.onnx", 1)) as worker:  # the control: the same graph within its budget
        assert (await answered(worker, pair(3))).tolist() == [[0.25]] * 3
        assert worker.suspended == ""


async def test_a_worker_that_is_killed_costs_one_batch(tmp_path: Path) -> None:
    file = network(tmp_path / "m.onnx")
    async with working(file) as worker:
        first = await worker.answer(asked(3))
        os.kill(worker.pid, signal.SIGKILL)
        assert first is not None
        lost = await worker.answer(asked(3))
        assert lost is None or lost.tobytes() == first.tobytes()  # it may have been started anew already
        again = await answered(worker, asked(3))
        assert again.tobytes() == first.tobytes()
        assert worker.suspended == ""


async def test_a_model_that_takes_too_much_memory_is_suspended(tmp_path: Path) -> None:
    async with working(greedy_graph(tmp_path / "greedy.onnx", 3000), memory=400 << 20) as worker:
        assert await worker.answer(pair(1)) is None
        assert "memory" in worker.suspended or "alloc" in worker.suspended
    async with working(greedy_graph(tmp_path / "modest.onnx", 8), memory=400 << 20) as worker:
        assert (await answered(worker, pair(1))).tolist() == [[0.25]]


async def test_a_file_that_the_runtime_does_not_take_says_why(tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "new.onnx", change=lambda model: setattr(model.opset_import[0], "version", 99))
    async with working(file, pause_s=3600) as worker:
        assert await worker.answer(pair(1)) is None
        assert "does not take new.onnx" in worker.suspended
        assert "older operator set" in worker.suspended


async def test_what_is_cancelled_leaves_no_process_and_no_stray_answer(tmp_path: Path) -> None:
    async with working(slow_graph(tmp_path / "slow.onnx", 10**8)) as worker:
        task = asyncio.create_task(worker.answer(pair(1)))
        await until(lambda: worker.pid != 0)
        pid = worker.pid
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: worker.pid == 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_gateway_does_not_wait_in_its_own_process(tmp_path: Path) -> None:
    worker = open_worker(tmp_path, structlog.get_logger())(
        network(tmp_path / "m.onnx").name, Limits(1.0, 1 << 29), "models.watch.file"
    )
    with pytest.raises(NoAnswer):
        worker.run(asked(1))


TAGS = [make_tag(0, limits=TagLimits(high=90.0)), make_tag(1)]
ENTRY = {
    "kind": "onnx", "tags": ["**"], "inputs": [tag.name for tag in TAGS], "output": "score", "limit": 0.9, "lateness": "1h", "max_gap": "0s",
}  # fmt: skip


def models(file: Path, directory: Path, *, budget: str = "30s") -> ModelSet:
    config = onnx.OnnxConfig.model_validate({**ENTRY, "file": file.name, "budget": budget})
    configs: dict[str, ModelConfig] = {"watch": config}
    return ModelSet.build(
        configs, TAGS, lambda kind: catalogue.plugin("models", kind), open_model=open_worker(directory, structlog.get_logger())
    )  # fmt: skip


@pytest.fixture
async def spool(open_spool: Any) -> Any:
    """An open spool."""
    return await open_spool()


@pytest.fixture
def rig(spool: Any, manual_clock: Any, tmp_path: Path) -> Callable[..., Any]:
    """A runner over a spool; `feed(values)` puts polls of both tags and scores them."""

    @asynccontextmanager
    async def make(made: ModelSet) -> AsyncIterator[Any]:
        runner = ModelRunner(
            made, spool=spool, put=spool.put, keep=("alert", "score"), clock=manual_clock, directory=tmp_path / "models",
            log=structlog.get_logger(),
        )  # fmt: skip
        await runner.restore()

        async def feed(values: list[float]) -> None:
            end = spool.end("telemetry")
            n = len(values)
            batch = rows(
                [0, 1] * n, np.repeat(values, 2), time_us=[START_US + 1_000_000 * (end // 2 + k // 2) for k in range(2 * n)]
            )
            runner.offer(await spool.put("telemetry", batch), batch)
            await until(lambda: runner.cursor == spool.end("telemetry"), timeout_s=60)

        task = asyncio.create_task(runner.run())
        try:
            yield runner, feed
        finally:
            runner.finish()
            await asyncio.wait_for(task, 60)

    return make


async def told(spool: Any, kind: str) -> list[dict[str, Any]]:
    await spool.flush()
    return [row for _, batch in await spool.read(kind, 0, max_rows=10_000) for row in batch.to_pylist()]


async def test_the_runner_gives_the_scores_of_a_job_over_a_file(rig: Any, spool: Any, tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "m.onnx", window=2, level=60.0)
    values = [50.0, 55.0, 61.0, 70.0, 40.0, 95.0]
    async with rig(await asyncio.to_thread(models, file, tmp_path)) as (runner, feed):
        await feed(values[:2])
        await feed(values[2:])
        assert runner.suspended == {"watch": ""}
    by_worker = [(row["seq"], row["score"], row["value"]) for row in await told(spool, "score") if row["model"] == "watch"]
    batches = [batch for _, batch in await spool.read("telemetry", 0, max_rows=100)]

    def job() -> list[dict[str, Any]]:
        here = onnx.PLUGIN.build(onnx.OnnxConfig.model_validate({**ENTRY, "file": str(file)}), ModelContext("watch", TAGS))
        whole = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        return [row for one in here.update(with_seq(whole, 0), 0) for row in one.to_pylist()]

    found = await asyncio.to_thread(job)
    assert by_worker == [(row["seq"], row["score"], row["value"]) for row in found] != []
    alerts = await told(spool, "alert")
    marks = [row["problem"] for row in alerts if row["model"] == "watch" and row["transition"] == "raised"]
    assert marks
    assert all("(unsigned m.onnx, sha256:" in text for text in marks)


async def test_data_and_limits_flow_on_while_a_model_is_suspended(rig: Any, spool: Any, tmp_path: Path) -> None:
    file = slow_graph(tmp_path / "slow.onnx", 10**8)
    async with rig(await asyncio.to_thread(models, file, tmp_path, budget="200ms")) as (runner, feed):
        await feed([50.0])
        assert "took longer than its budget" in runner.suspended["watch"]
        await feed([95.0, 96.0])
    scores = [row["score"] for row in await told(spool, "score") if row["model"] == "watch"]
    assert scores == [None, None, None]
    assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]  # of the limit


async def test_models_may_be_replaced_while_a_worker_is_asked(rig: Any, spool: Any, tmp_path: Path) -> None:
    slow = slow_graph(tmp_path / "slow.onnx", 10**8)
    other = await asyncio.to_thread(models, slow, tmp_path, budget="200ms")
    async with rig(await asyncio.to_thread(models, slow, tmp_path, budget="5s")) as (runner, feed):
        feeding = asyncio.create_task(feed([95.0]))
        await until(lambda: runner._begun is not None, timeout_s=60)
        old = next(iter(runner._workers.values()))
        runner.replace(other)
        await feeding
        await until(lambda: old.pid == 0, timeout_s=60)
        await feed([96.0])
    assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]
    assert [row["score"] for row in await told(spool, "score") if row["model"] == "watch"] == [None, None]
