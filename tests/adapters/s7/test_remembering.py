"""Refused tags over restarts of the gateway: not asked for before their time, then ever more rarely, at least daily."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapters.s7 import simulator
from adapters.s7.scanning import LONGEST_S, RETRY_S
from schemas import quality as q
from tests.adapters.s7 import rig

SERVED = rig.configure({"zone1": ("DB10.DBD4", "real")})
ASKED = rig.configure({"zone1": ("DB10.DBD4", "real"), "late": ("DB50.DBW0", "int"), "later": ("DB51.DBW0", "int")})


class Plc:
    """A PLC without DB50 and DB51 until they are `loaded`; `asked` are the blocks that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: set[int] = set()
        self.asked: set[int] = set()
        read = simulator._Memory.read

        def instead(memory: Any, block: tuple[int, int], start: int, size: int) -> bytes | int:
            self.asked.add(block[1])
            return bytes(size) if block[1] in self.loaded else read(memory, block, start, size)

        monkeypatch.setattr(simulator._Memory, "read", instead)


@pytest.fixture
def plc(monkeypatch: pytest.MonkeyPatch) -> Plc:
    return Plc(monkeypatch)


@pytest.fixture
async def endpoint() -> AsyncIterator[str]:
    device = rig.make_simulator(SERVED)
    yield await device.start()
    await device.aclose()


async def polls(
    endpoint: str, plc: Plc, clock: rig.SetClock, *, config: Any = ASKED, count: int = 2
) -> tuple[dict[str, int], set[int]]:
    """A gateway that starts, polls and stops: quality by tag of the last poll, and the blocks that were asked for."""
    plc.asked.clear()
    async with rig.connected(config, endpoint, clock=clock) as adapter:
        *_, last = await rig.take(adapter, count)
    return {name: row["quality"] for name, row in rig.rows_of(config, last).items()}, set(plc.asked)


def pauses() -> dict[str, float]:
    """Hours between two tries by address, as they are in the file."""
    kept = json.loads(Path("refused.json").read_text())["refused"]
    return {key: found["pause_s"] / 3600 for key, found in kept.items()}


def damage(content: str) -> None:
    Path("refused.json").write_text(content)


async def test_a_restart_does_not_ask_for_what_was_refused_until_it_is_time(endpoint: str, plc: Plc) -> None:
    clock = rig.SetClock()
    bad = {"zone1": 0, "late": q.BAD_NODE_ID_UNKNOWN, "later": q.BAD_NODE_ID_UNKNOWN}
    assert await polls(endpoint, plc, clock) == (bad, {10, 50, 51})
    plc.loaded = {50}
    clock.now_s += RETRY_S - 1
    assert await polls(endpoint, plc, clock) == (bad, {10})
    clock.now_s += 2
    assert await polls(endpoint, plc, clock) == (bad | {"late": 0}, {10, 50, 51})
    assert await polls(endpoint, plc, clock) == (bad | {"late": 0}, {10, 50})
    assert list(pauses()) == ["DB51.DBW0 int"]


async def test_what_is_there_at_last_is_no_longer_remembered(endpoint: str, plc: Plc) -> None:
    clock = rig.SetClock()
    await polls(endpoint, plc, clock)
    plc.loaded = {50, 51}
    clock.now_s += RETRY_S
    good, _ = await polls(endpoint, plc, clock)
    assert set(good.values()) == {q.GOOD}
    assert pauses() == {}


async def test_the_pause_doubles_up_to_a_day_within_one_process_too(endpoint: str, plc: Plc) -> None:
    clock, seen = rig.SetClock(), []
    async with rig.connected(ASKED, endpoint, clock=clock) as adapter, aclosing(adapter.batches()) as stream:
        for _ in range(10):
            await anext(stream)
            await anext(stream)
            (pause,) = set(pauses().values())
            seen.append(pause)
            plc.asked.clear()
            clock.now_s += pause * 3600 - 1
            await anext(stream)
            assert plc.asked == {10}
            clock.now_s += 1
    assert seen == pytest.approx([1 / 6, 1 / 3, 2 / 3, 4 / 3, 8 / 3, 16 / 3, 32 / 3, 64 / 3, 24, 24])
    assert LONGEST_S == 24 * 3600


async def test_another_type_another_plc_and_a_clock_that_was_wrong_ask_again(endpoint: str, plc: Plc) -> None:
    clock = rig.SetClock()
    await polls(endpoint, plc, clock)
    other = rig.configure({"zone1": ("DB10.DBD4", "real"), "late": ("DB50.DBW0", "uint"), "later": ("DB51.DBW0", "int")})
    assert (await polls(endpoint, plc, clock, config=other))[1] == {10, 50}
    assert (await polls(endpoint, plc, clock, config=ASKED.model_copy(update={"slot": 2})))[1] == {10, 50, 51}
    clock.now_s -= 2 * LONGEST_S
    assert (await polls(endpoint, plc, clock, config=ASKED.model_copy(update={"slot": 2})))[1] == {10, 50, 51}


async def test_scan_classes_remember_side_by_side(endpoint: str, plc: Plc) -> None:
    clock = rig.SetClock()
    config = rig.configure(
        {
            "zone1": ("DB10.DBD4", "real"),
            "late": ("DB50.DBW0", "int"),
            "slow": {"address": "DB51.DBW0", "type": "int", "scan": "30ms"},
        }
    )
    await polls(endpoint, plc, clock, config=config, count=6)
    assert set(pauses()) == {"DB50.DBW0 int", "DB51.DBW0 int"}
    assert (await polls(endpoint, plc, clock, config=config, count=6))[1] == {10}


async def test_a_damaged_file_costs_one_round_of_questions(endpoint: str, plc: Plc) -> None:
    clock = rig.SetClock()
    await polls(endpoint, plc, clock)
    damage('{"version": 1, "dev')
    assert (await polls(endpoint, plc, clock))[1] == {10, 50, 51}
    assert (await polls(endpoint, plc, clock))[1] == {10}
