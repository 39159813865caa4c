"""Models in worker processes: the same answers as in the gateway's own, and what happens when they do not keep their limits."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import sys
import termios
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import structlog
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from edge_models import onnx
from edge_models.base import ModelConfig, ModelContext
from edge_models.inference import InProcess, Limits, NoAnswer, Request
from edge_models.runtime import Begun, ModelSet
from gateway import catalogue
from gateway import runner as runner_module
from gateway.isolation import inference, requests
from gateway.isolation.frames import Frame, Garbled, Say
from gateway.isolation.inference import ROWS, WorkerExecutor, open_worker
from gateway.isolation.process import ChildProcess
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
    keeper = asyncio.create_task(worker.keep())
    try:
        yield worker
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


async def ready(worker: WorkerExecutor) -> int:
    """Wait for the process with its model loaded."""
    await until(lambda: worker.pid != 0 or worker.suspended != "", timeout_s=60)
    assert worker.suspended == ""
    return worker.pid


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
        pid = await ready(worker)
        for n in (1, 7, ROWS, 2 * ROWS + 3):
            request = asked(n, seed=n)
            found = await worker.answer(request)
            assert found is not None
            assert found.dtype == np.float32
            assert found.tobytes() == here.run(request).tobytes()
        assert (await worker.answer(asked(0))) is not None
        assert worker.pid == pid
        assert worker.unscored == 0
        assert os.listdir(f"/proc/{pid}/cwd") == []  # names in a graph that are relative lead nowhere
        assert os.getpriority(os.PRIO_PROCESS, pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_nobody_waits_for_a_worker_that_is_starting(tmp_path: Path) -> None:
    async with working(network(tmp_path / "m.onnx")) as worker:
        assert await worker.answer(asked(3)) is None
        assert worker.unscored == 3
        assert worker.suspended == ""
        await ready(worker)
        assert await worker.answer(asked(3)) is not None
        assert worker.unscored == 3


async def test_a_model_that_overruns_is_suspended_and_tried_again(tmp_path: Path) -> None:
    async with working(slow_graph(tmp_path / "slow.onnx", 10**8), budget_s=0.3) as worker:
        first = await ready(worker)
        with capture_logs() as log:
            assert await worker.answer(pair(1)) is None
        assert worker.suspended == "it took longer than its budget of 0.3 s for 1 row"
        assert [entry["event"] for entry in log] == ["the model is suspended"]
        assert worker.pid == 0
        await until(lambda: worker.pid not in (0, first), timeout_s=60)  # tried again
        assert worker.suspended != ""  # until it has answered
    async with working(slow_graph(tmp_path / "quick.onnx", 1)) as worker:  # the control: the same graph within its budget
        assert (await answered(worker, pair(3))).tolist() == [[0.25]] * 3
        assert worker.suspended == ""


async def test_a_batch_has_one_budget_and_what_is_not_done_by_then_has_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(slow_graph(tmp_path / "busy.onnx", 1), budget_s=1.0, pause_s=3600) as worker:
        pid = await ready(worker)
        found = await worker.answer(pair(50_000))
        assert found is not None
        missing = np.isnan(found[:, 0])
        assert 0 < missing.sum() == worker.unscored < 50_000
        assert not missing[: 50_000 - worker.unscored].any()
        assert (found[~missing] == 0.25).all()
        assert worker.suspended == ""
        os.kill(pid, signal.SIGSTOP)  # else it may be as quick as the question
        assert (
            await worker.answer(pair(1), since=asyncio.get_running_loop().time() - 1.0) is None
        )  # the part before used the budget
        os.kill(pid, signal.SIGCONT)
        assert (await answered(worker, pair(2))).tolist() == [[0.25]] * 2
        monkeypatch.setattr(inference, "LATE_S", 0.0)
        await worker.answer(pair(50_000))
        assert "does not keep up" in worker.suspended
        assert worker.pid == 0


async def test_a_pause_of_the_gateway_is_no_overrun(tmp_path: Path) -> None:
    async with working(network(tmp_path / "m.onnx"), budget_s=0.5) as worker:
        pid = await ready(worker)
        task = asyncio.create_task(worker.answer(asked(1)))
        await asyncio.sleep(0)  # it is asked, and nobody has looked for the answer yet
        assert worker._piece is not None
        assert worker._child is not None
        assert worker._child._popen is not None
        assert worker._child._popen.stdout is not None
        pipe, began = worker._child._popen.stdout.fileno(), time.monotonic()
        waiting, answered = 0, False
        while not answered or time.monotonic() - began < 1.0:
            select.select([], [], [], 0.01)  # blocks the loop, and leaves the processor to the worker
            before, waiting = waiting, int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
            answered |= waiting - before > 100  # a sign of life has 28 bytes
            assert time.monotonic() - began < 60.0, "no answer in the pipe"
        assert (await task) is not None
        assert worker.suspended == ""
        assert worker.pid == pid


async def test_a_worker_that_dies_is_suspended_and_started_anew(tmp_path: Path) -> None:
    async with working(network(tmp_path / "m.onnx"), pause_s=0.5) as worker:
        pid = await ready(worker)
        first = await worker.answer(asked(3))
        assert first is not None
        os.kill(pid, signal.SIGSTOP)
        task = asyncio.create_task(worker.answer(asked(3)))
        await until(lambda: worker._piece is not None)
        os.kill(pid, signal.SIGKILL)
        assert await task is None
        assert worker.suspended == "its worker process was killed by SIGKILL"
        assert worker.unscored == 3
        again = await answered(worker, asked(3))
        assert again.tobytes() == first.tobytes()
        assert worker.suspended == ""


async def test_a_process_is_gone_also_where_its_closing_is_cancelled() -> None:
    child = ChildProcess(memory_limit=600 << 20, on_frame=lambda _: None, on_end=lambda: None, module="worker")
    await child.start()
    os.kill(child.pid, signal.SIGSTOP)
    closing = asyncio.create_task(child.close(3600))
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)  # and nobody has to reap it any more


async def test_a_worker_that_dies_while_nobody_asks_is_suspended_too(tmp_path: Path) -> None:
    async with working(network(tmp_path / "m.onnx"), pause_s=3600) as worker:
        os.kill(await ready(worker), signal.SIGKILL)
        await until(lambda: worker.pid == 0)
        assert worker.suspended == "its worker process was killed by SIGKILL"
        assert await worker.answer(asked(1)) is None


async def test_what_a_process_says_that_was_given_up_is_not_taken_for_the_word_of_the_next_one(tmp_path: Path) -> None:
    async with working(network(tmp_path / "m.onnx")) as worker:
        pid = await ready(worker)
        old = worker._child
        assert old is not None
        wrong = requests.answers_to_bytes(np.full((1, 2), 7.0, dtype=np.float32))
        expected = await worker.answer(asked(1))
        worker._fail(old, "for the test")
        await until(lambda: worker.pid not in (0, pid), timeout_s=60)
        os.kill(worker.pid, signal.SIGSTOP)
        task = asyncio.create_task(worker.answer(asked(1)))
        await until(lambda: worker._piece is not None)
        old._on_frame(Frame(Say.ANSWERS, wrong))
        old._on_end()
        os.kill(worker.pid, signal.SIGCONT)
        found = await task
        assert found is not None
        assert expected is not None
        assert found.tobytes() == expected.tobytes()
        assert worker.suspended == ""


async def test_a_model_that_takes_too_much_memory_is_suspended(tmp_path: Path) -> None:
    async with working(greedy_graph(tmp_path / "greedy.onnx", 3000), memory=400 << 20) as worker:
        await ready(worker)
        assert await worker.answer(pair(1)) is None
        assert "memory" in worker.suspended or "alloc" in worker.suspended
    async with working(greedy_graph(tmp_path / "modest.onnx", 8), memory=400 << 20) as worker:
        assert (await answered(worker, pair(1))).tolist() == [[0.25]]


async def test_a_file_that_the_runtime_does_not_take_says_why_and_says_it_once(tmp_path: Path) -> None:
    file = mean_graph(tmp_path / "new.onnx", change=lambda model: setattr(model.opset_import[0], "version", 99))
    with capture_logs() as log:
        async with working(file, pause_s=0.01) as worker:
            await until(lambda: worker._failures >= 2, timeout_s=60)
            assert await worker.answer(pair(1)) is None
            assert "does not take new.onnx" in worker.suspended
            assert "older operator set" in worker.suspended
    assert [entry["event"] for entry in log] == ["the model is suspended"]


async def test_the_answer_to_what_was_cancelled_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    file = network(tmp_path / "m.onnx")
    here = InProcess(file.read_bytes(), file.name, "models.watch.file")
    async with working(file) as worker:
        pid = await ready(worker)
        os.kill(pid, signal.SIGSTOP)
        task = asyncio.create_task(worker.answer(asked(3, seed=1)))
        await until(lambda: worker._piece is not None)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        os.kill(pid, signal.SIGCONT)
        found = await worker.answer(asked(3, seed=2))
        assert found is not None
        assert found.tobytes() == here.run(asked(3, seed=2)).tobytes()
        assert worker.pid == pid


def widening_graph(path: Path) -> Path:
    """`score`: as many columns as the first number of the row says."""
    nodes = [
        helper.make_node("Reshape", ["rows", "flat"], ["numbers"]),
        helper.make_node("Slice", ["numbers", "zero", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["end"], to=TensorProto.INT64),
        helper.make_node("Slice", ["numbers", "zero", "end"], ["kept"]),
        helper.make_node("Reshape", ["kept", "line"], ["score"]),
    ]
    constants = [constant("flat", [-1], np.int64), constant("zero", [0], np.int64), constant("one", [1], np.int64)]
    constants.append(constant("line", [1, -1], np.int64))
    return save(path, nodes, {"rows": (FLOAT, ["batch", 1, 2])}, {"score": (FLOAT, [1, "n"])}, constants)


async def test_answers_of_different_widths_are_none(tmp_path: Path) -> None:
    async with working(widening_graph(tmp_path / "m.onnx"), pause_s=3600) as worker:
        await ready(worker)
        request = pair(40)
        assert (await worker.answer(request)) is not None  # the control: all as wide as one another
        worker._at_once = 1
        request.inputs["rows"][1:, 0, 0] = 2.0
        await worker.answer(request)
        assert worker.suspended == "it has not one answer of the same width for each row"
        assert worker.unscored == 39


def container(header: bytes) -> bytes:
    """What `pack` would write around such a header, with the right checksum."""
    body = b"GBS1" + len(header).to_bytes(4, "little") + header
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    "header",
    [b"no JSON", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"kind": "inference", "version": 1, "parameters": "", "arrays": [7]}'],
)
def test_nonsense_with_a_right_checksum_is_garbled(header: bytes) -> None:
    with pytest.raises(Garbled):
        requests.answers_from_bytes(container(header))
    with pytest.raises(Garbled):
        requests.request_from_bytes(container(header))
    assert requests.answers_from_bytes(requests.answers_to_bytes(None, "why")) == (None, "why")


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
    async def make(made: ModelSet, started: bool = True) -> AsyncIterator[Any]:
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
            if started:
                await until(lambda: all(one.pid or one.suspended for one in runner.workers.values()), timeout_s=60)
            yield runner, feed
        finally:
            runner.finish()
            await asyncio.wait_for(task, 60)

    return make


async def told(spool: Any, kind: str) -> list[dict[str, Any]]:
    await spool.flush()
    return [row for _, batch in await spool.read(kind, 0, max_rows=100_000) for row in batch.to_pylist()]


@pytest.mark.parametrize("room", [32 << 20, 40])
async def test_the_runner_gives_the_scores_of_a_job_over_a_file(
    rig: Any, spool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Also where it cuts what it is given into parts, so that windows fill a bounded room: here of two rows of 16 bytes."""
    monkeypatch.setattr(runner_module, "_WINDOW_BYTES", room)
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
        assert runner.workers["watch"].unscored == 3
    scores = [row["score"] for row in await told(spool, "score") if row["model"] == "watch"]
    assert scores == [None, None, None]
    assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]  # of the limit


async def test_limits_do_not_wait_for_a_worker_that_never_starts(
    rig: Any, spool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: WorkerExecutor, child: object) -> str:
        starting.set()
        await asyncio.Event().wait()
        raise AssertionError

    starting = asyncio.Event()
    monkeypatch.setattr(WorkerExecutor, "_load", hang)
    made = await asyncio.to_thread(models, mean_graph(tmp_path / "m.onnx", window=1), tmp_path)
    async with rig(made, started=False) as (runner, feed):
        await starting.wait()
        await feed([50.0, 95.0])  # whoever waited for the start would wait for ever
        assert runner.suspended == {"watch": ""}
        assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]


async def test_limits_wait_for_one_budget_however_many_rows_a_model_is_asked_for(rig: Any, spool: Any, tmp_path: Path) -> None:
    """At more than half a millisecond a row the model would need some seconds, each 256 rows within the budget."""
    made = await asyncio.to_thread(models, slow_graph(tmp_path / "busy.onnx", 1), tmp_path, budget="1s")
    async with rig(made) as (runner, feed):
        await feed([50.0] * 5_000 + [95.0])
        assert runner.suspended == {"watch": ""}
        unscored = runner.workers["watch"].unscored
    assert 0 < unscored < 5_000
    scores = [row["score"] for row in await told(spool, "score") if row["model"] == "watch"]
    assert scores.count(None) == unscored
    assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]


async def test_what_comes_while_workers_are_asked_is_one_batch(rig: Any, spool: Any, tmp_path: Path) -> None:
    made = await asyncio.to_thread(models, mean_graph(tmp_path / "m.onnx", window=1), tmp_path)
    cuts: list[int] = []
    begin = made.begin

    def counted(batch: pa.RecordBatch, now: int) -> Begun:
        cuts.append(batch.num_rows)
        return begin(batch, now)

    made.begin = counted  # type: ignore[method-assign]
    async with rig(made) as (runner, feed):
        pid = runner.workers["watch"].pid
        os.kill(pid, signal.SIGSTOP)
        feeding = [asyncio.create_task(feed([50.0] * 3))]
        await until(lambda: runner.workers["watch"]._piece is not None)
        feeding += [asyncio.create_task(feed([50.0] * 3)) for _ in range(4)]
        await until(lambda: spool.end("telemetry") == 30 and len(runner._memory) == 4)
        os.kill(pid, signal.SIGCONT)
        await asyncio.gather(*feeding)
    assert [cut for cut in cuts if cut] == [6, 24]


async def test_models_may_be_replaced_while_a_worker_is_asked(rig: Any, spool: Any, tmp_path: Path) -> None:
    slow = slow_graph(tmp_path / "slow.onnx", 10**8)
    other = await asyncio.to_thread(models, slow, tmp_path, budget="200ms")
    async with rig(await asyncio.to_thread(models, slow, tmp_path, budget="5s")) as (runner, feed):
        feeding = asyncio.create_task(feed([95.0]))
        await until(lambda: runner._begun is not None, timeout_s=60)
        old = runner.workers["watch"]
        pid = old.pid
        runner.replace(other)
        await feeding
        assert runner.workers["watch"].unscored == 1
        await until(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=60)
        assert old.pid == 0
        await until(lambda: runner.workers["watch"].pid != 0, timeout_s=60)
        await feed([96.0])
    assert [row["transition"] for row in await told(spool, "alert")] == ["raised"]
    assert [row["score"] for row in await told(spool, "score") if row["model"] == "watch"] == [None, None]
