"""The judgement of the soak over series with and without leaks, and a few seconds of the soak itself. See docs/reliability.md."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.soak import judge, run
from tests.conftest import missing


def _hour(seed: int, *, rss_mb_per_h: float = 0.0, fds_per_h: float = 0.0) -> list[judge.Sample]:
    """300 samples of 50 minutes: files of the lake come and go, outages add connections, some looks meet a peak."""
    rng = random.Random(seed)
    samples = []
    for number in range(300):
        at_s = 10.0 * number
        rss = 240 + 4 * (number % 6) / 6 + rng.gauss(0, 0.3) + (25 if rng.random() < 0.1 else 0) + rss_mb_per_h * at_s / 3600
        outage = rng.random() < 0.15
        fds = round(60 + (rng.randrange(-4, 6) if outage else 0) + fds_per_h * at_s / 3600)
        samples.append(judge.Sample(at_s, rss, rss - 100, fds, 22, 180 + rng.randrange(-3, 4)))
    return samples


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_and_goes_is_no_leak(seed: int) -> None:
    assert judge.judged(_hour(seed)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_small_leak_in_the_same_noise_is_found(seed: int) -> None:
    assert judge.judged(_hour(seed, rss_mb_per_h=2.0))[0].startswith("memory grows by")
    assert judge.judged(judge.leaking(_hour(seed), 2.0))[0].startswith("memory grows by")
    assert judge.judged(_hour(seed, fds_per_h=6.0))[0].startswith("descriptors grow")


def test_memory_that_falls_is_well_and_a_few_samples_say_nothing_of_it() -> None:
    assert judge.judged(_hour(1, rss_mb_per_h=-20.0)) == []
    assert judge.judged(_hour(1, rss_mb_per_h=50.0), slope=False) == []


def test_the_slope_is_that_of_the_line_whatever_a_quarter_of_the_samples_are() -> None:
    at_s: Sequence[float] = range(0, 3600, 10)
    values = [100 + 3.0 * at / 3600 + (500 if number % 4 == 0 else 0) for number, at in enumerate(at_s)]
    assert judge.slope_per_h(at_s, values) == pytest.approx(3.0, abs=1.0)
    assert judge.slope_per_h([0.0, 1800.0, 3600.0], [1.0, 2.0, 3.0]) == 2.0


async def test_of_memory_the_lowest_and_the_highest_since_the_look_before_count() -> None:
    """What is given back once a minute is needed again a little later: a look in ten seconds rarely meets it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys\nfor _ in sys.stdin: held = b'x' * 60_000_000; print(flush=True); input(); del held; print(flush=True)",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    memory = judge.Memory(child.pid)
    watching = asyncio.create_task(memory.watch())
    try:
        for _ in range(2):  # it takes 60 MB, and lets them go
            child.stdin.write(b"\n")
            await child.stdout.readline()
            await asyncio.sleep(3 * judge.MEMORY_EVERY_S)
        between = judge.Sample(1.0, 30.0, 20.0, 5, 1, 1)
        found = memory.since_the_last_time(between)
        assert found.rss_highest_mb > 60
        assert found.rss_mb <= 30
        assert found.anonymous_mb <= 20
        assert found.descriptors == 5
        assert memory.since_the_last_time(replace(between, rss_mb=90.0)).rss_highest_mb == 90.0
    finally:
        child.stdin.close()
        await child.wait()
    await asyncio.wait_for(watching, 5 * judge.MEMORY_EVERY_S)  # it ends with the process


@pytest.mark.e2e
@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_few_seconds_of_the_soak_lose_nothing(tmp_path: Path) -> None:
    from tests.chaos.day.stands import small_disks

    if not small_disks():
        missing("no user namespaces here, so no stand-ins of the day")
    proof = await run.soak(tmp_path, 7, run.SHORT, control=False)
    assert proof.complaints() == []
    assert proof.figures["faults"] > 0
    assert proof.figures["rows_acknowledged"] > 100
