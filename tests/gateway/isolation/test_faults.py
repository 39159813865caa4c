"""What an isolated adapter does wrong costs only itself: it dies, takes all memory, hangs, writes nonsense, and is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from adapters.base import Certified
from gateway.isolation import errors, process
from gateway.isolation.adapter import AHEAD
from gateway.isolation.errors import AdapterCrashed
from gateway.isolation.frames import Frame, Garbled, Say
from schemas.errors import ConfigError, EndOfStream, NotConnected
from tests.gateway.samples import until

pytestmark = pytest.mark.timeout(90)


def alive(pid):
    """Whether the process is there and no zombie."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    return False


async def numbers(adapter, enough):
    """The first value of each batch, until there are `enough`."""
    found = []
    async with aclosing(adapter.batches()) as stream:
        async for batch in stream:
            found.append(batch.column("value")[0].as_py())
            if len(found) == enough:
                return found
    raise AssertionError("the stream ended")


async def loss(adapter, within_s=30.0):
    """How reading ends."""
    with pytest.raises(NotConnected) as raised:
        async with asyncio.timeout(within_s):
            await numbers(adapter, 10_000_000)
    return raised.value


async def test_batches_come_as_the_adapter_makes_them(odd):
    async with odd("steady") as it:
        await it.adapter.connect()
        assert await numbers(it.adapter, 20) == [float(n) for n in range(1, 21)]
        pid = it.adapter.pid
        assert await numbers(it.adapter, 3) == [1.0, 2.0, 3.0], "a new reader begins anew, in the same process"
        assert it.adapter.pid == pid
        assert it.adapter.resident > 30e6
    assert not alive(pid)
    assert it.ends() == []


async def test_killed_it_is_not_connected_and_the_next_connect_starts_another(odd):
    async with odd("steady") as it:
        for times in (1, 2, 3):
            await it.adapter.connect()
            await numbers(it.adapter, 3)
            pid = it.adapter.pid
            asyncio.get_running_loop().call_later(0.1, os.kill, pid, signal.SIGKILL)
            error = await loss(it.adapter)
            assert str(error) == "odd://steady: the process of the adapter was killed by SIGKILL"
            assert it.adapter.ends == {"killed": times}
        assert [entry["reason"] for entry in it.ends()] == ["killed"] * 3, "each time, as values had come in between"


async def test_a_process_that_dies_at_every_attempt_is_named_once_and_counted(odd):
    async with odd("dies in connect") as it:
        for _ in range(3):
            with pytest.raises(NotConnected, match="ended with status 3"):
                await it.adapter.connect()
        assert it.adapter.ends == {"exited": 3}
        assert len(it.ends()) == 1
        assert len(it.adapter._inbox) <= 1, "nothing is kept of a former attempt"


async def test_more_than_was_asked_for_is_nonsense_and_not_kept(odd):
    async with odd("steady") as it:
        ended = Frame(Say.ENDED, errors.to_json(None))
        for _ in range(AHEAD + 1):
            it.adapter._take(ended)
        with pytest.raises(Garbled):
            it.adapter._take(ended)
        assert len(it.adapter._inbox) == AHEAD + 1


@pytest.mark.parametrize("does", ["hog", "hog at once"])
async def test_memory_above_the_limit_ends_it_with_the_reason(odd, does):
    async with odd(does, memory_limit="200 MB") as it:
        await it.adapter.connect()
        error = await loss(it.adapter)
        assert "memory_limit is 200 MB" in str(error)
        assert it.adapter.ends == {"memory": 1}
        assert [entry["reason"] for entry in it.ends()] == ["memory"]
        await it.adapter.connect()
        assert await numbers(it.adapter, 1) == [1.0]


async def test_control_within_a_higher_limit_the_same_adapter_goes_on(odd):
    async with odd("hog", memory_limit="4 GB") as it:
        await it.adapter.connect()
        await numbers(it.adapter, 20)  # 320 MB
        await asyncio.sleep(2 * process.BEAT_S)
        assert it.adapter.ends == {}


async def test_a_stopped_process_is_noticed_and_replaced(odd, monkeypatch):
    monkeypatch.setattr(process, "HUNG_S", 1.5)
    async with odd("steady") as it:
        await it.adapter.connect()
        await numbers(it.adapter, 3)
        pid = it.adapter.pid
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert "showed no sign of life for 1.5 s" in str(await loss(it.adapter))
        assert time.monotonic() - began < 6
        assert not alive(pid)
        await it.adapter.connect()
        assert await numbers(it.adapter, 1) == [1.0]


@pytest.mark.parametrize("does", ["spin", "hangs in connect"])
async def test_one_that_blocks_its_loop_is_noticed(odd, monkeypatch, does):
    monkeypatch.setattr(process, "HUNG_S", 1.5)
    async with odd(does) as it:
        with pytest.raises(NotConnected, match="no sign of life"):  # noqa: PT012 (one of them in connect, one later)
            await it.adapter.connect()
            await numbers(it.adapter, 1000)
        assert it.adapter.ends == {"hung": 1}


async def test_nonsense_on_the_pipe_ends_the_process_that_wrote_it(odd):
    async with odd("spew") as it:
        await it.adapter.connect()
        assert "wrote nonsense to its pipe" in str(await loss(it.adapter))
        assert it.adapter.ends == {"garbled": 1}


async def test_a_segmentation_fault_is_named(odd):
    async with odd("segfault") as it:
        await it.adapter.connect()
        assert "was killed by SIGSEGV" in str(await loss(it.adapter))


async def test_one_that_does_not_let_go_is_killed_in_time(odd):
    async with odd("does not close") as it:
        await it.adapter.connect()
        pid = it.adapter.pid
        began = time.monotonic()
        await it.adapter.aclose()
        assert time.monotonic() - began < 2.0
        assert not alive(pid)


async def test_what_the_adapter_raises_is_raised(odd):
    async with odd("not connected") as it:
        with pytest.raises(NotConnected, match="nobody there") as lost:
            await it.adapter.connect()
        assert lost.value.quality == 0x80AB0000
        pid = it.adapter.pid
        with pytest.raises(NotConnected):
            await it.adapter.connect()
        assert it.adapter.pid == pid, "a device that is not there costs no new process"
    for does in ("config", "refuses to be built"):
        async with odd(does) as it:
            with pytest.raises(ConfigError) as refused:
                await it.adapter.connect()
            assert refused.value.where == "plant.yaml:7:3"
            assert refused.value.hint.startswith("write it")
    async with odd("end of stream") as it:
        await it.adapter.connect()
        with pytest.raises(EndOfStream):
            await numbers(it.adapter, 10)
    async with odd("lost") as it:
        await it.adapter.connect()
        assert (await loss(it.adapter)).quality == 0x80050000
    async with odd("crash") as it:
        await it.adapter.connect()
        with pytest.raises(AdapterCrashed, match="a bug in the adapter") as crashed:
            await numbers(it.adapter, 10)
        assert "odd.py" in str(crashed.value), "with the traceback of where it happened"
    async with odd("ends") as it:
        await it.adapter.connect()
        assert [batch.num_rows async for batch in it.adapter.batches()] == [2]


async def test_the_log_comes_with_its_fields_and_what_is_printed_disturbs_nothing(odd, tmp_path):
    async with odd("speaks") as it:
        await it.adapter.connect()
        await numbers(it.adapter, 2)
    said = [entry for entry in it.log if entry["event"] == "something odd"]
    assert said == [
        {"event": "something odd", "log_level": "warning", "depth": 2, "n": 7, "what": {"a": [1, 2]}, "path": f"{tmp_path}/state"}
    ]
    failed = next(entry for entry in it.log if entry["event"] == "it failed")
    assert failed["log_level"] == "error"
    assert "ZeroDivisionError: oops" in failed["exception"]


async def test_not_asked_for_more_it_does_not_poll(odd, tmp_path):
    async with odd("counts", pace="1ms") as it:
        await it.adapter.connect()
        count = tmp_path / "state" / "count"
        async with aclosing(it.adapter.batches()) as stream:
            for taken in range(1, 4):
                assert (await anext(stream)).column("value")[0].as_py() == taken
                await asyncio.sleep(0.3)  # the spool is full
                assert int(count.read_text()) <= taken + AHEAD


async def test_a_cancelled_connect_ends_the_process(odd, monkeypatch):
    async with odd("hangs in connect") as it:
        task = asyncio.create_task(it.adapter.connect())
        await until(lambda: bool(it.adapter.pid), 5)
        pid = it.adapter.pid
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await it.adapter.aclose()
        assert not alive(pid)


async def test_certificates_of_its_connection_are_known_to_the_gateway(odd):
    async with odd("certified") as it:
        await it.adapter.connect()
        assert isinstance(it.adapter, Certified)
        await until(lambda: bool(it.adapter.certificates()), 5)
        (fact,) = it.adapter.certificates()
        assert (fact.owner, fact.subject, fact.expires_us) == ("server", "CN=odd", 1_800_000_000_000_000)


async def test_secrets_arrive_and_stand_nowhere_else(odd, monkeypatch):
    monkeypatch.setenv("PLANT_PASSWORD", "s3cret-from-env")
    async with odd("tells its secret", password="s3cret-from-env") as it:
        await it.adapter.connect()
        async with aclosing(it.adapter.batches()) as stream:
            assert (await anext(stream)).column("text")[0].as_py() == "s3cret-from-env"
        for name in ("cmdline", "environ"):
            listing = await asyncio.to_thread(Path(f"/proc/{it.adapter.pid}/{name}").read_bytes)
            assert listing
            assert b"s3cret" not in listing
    assert "s3cret" not in str(it.log)
