"""What a process held, looked at again and again, and the judgement whether it grows."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

SLOPE_MB_PER_H: Final = 1.0
TOGETHER: Final = 6
"""Samples of which the lowest counts: a minute of the release tier."""
MEMORY_EVERY_S: Final = 0.5
"""Between two looks at memory alone, which cost next to nothing."""
MORE: Final = 2
"""Descriptors or tasks that the median of the last third may be above that of the first: what is open just now varies."""
MORE_THREADS: Final = 6
"""The same of threads. Pools are bounded, and their last workers begin only when enough happens at once, which may be late."""


@dataclass(frozen=True)
class Sample:
    """One look. Seconds since the gateway was ready; MB are 10^6 bytes, of the whole resident set and of what is no file's in it.

    Of memory it is the lowest since the look before, and `rss_highest_mb` the highest: what is given back once a minute is needed again two or three
    seconds later, which one look in ten seconds meets by chance.
    """

    at_s: float
    rss_mb: float
    anonymous_mb: float
    descriptors: int
    threads: int
    tasks: int
    cpu_s: float = 0.0
    rss_highest_mb: float = 0.0


class Memory:
    """Of one process, read again and again."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._seen: list[tuple[float, float]] = []

    async def watch(self) -> None:
        """Until cancelled, or the process is gone."""
        with suppress(OSError, ValueError):  # there is nothing more to see: it is gone, or is ending and has no memory any more
            while True:
                self._seen.append(_resident_mb(self._status.read_text()))
                await asyncio.sleep(MEMORY_EVERY_S)

    def since_the_last_time(self, sample: Sample) -> Sample:
        """With the lowest and the highest since this was asked before; the sample itself counts."""
        seen, self._seen = [*self._seen, (sample.rss_mb, sample.anonymous_mb)], []
        rss, anonymous = zip(*seen, strict=True)
        return replace(sample, rss_mb=min(rss), anonymous_mb=min(anonymous), rss_highest_mb=max(rss))


def _resident_mb(status: str) -> tuple[float, float]:
    """The whole resident set, and what is no file's in it, from the text of /proc/PID/status. Raises ValueError where there is none."""
    found = [re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE) for name in ("VmRSS", "RssAnon")]
    rss, anonymous = (round(int(one[1]) * 1024 / 1e6, 3) for one in found if one is not None)
    return rss, anonymous


async def look(pid: int, listen: str, at_s: float) -> tuple[Sample, str]:
    """At a running gateway: the sample, and the text of /metrics. Raises OSError when it is not there."""
    return await asyncio.to_thread(_look, Path(f"/proc/{pid}"), listen, at_s)


def _look(process: Path, listen: str, at_s: float) -> tuple[Sample, str]:
    status = (process / "status").read_text()
    (rss, anonymous), running = _resident_mb(status), re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)
    descriptors = len(list((process / "fd").iterdir()))
    times = (process / "stat").read_text().rpartition(")")[2].split()
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=30) as answer:
        text = str(answer.read().decode())
    tasks = re.search(r"^genba_tasks (\S+)", text, re.MULTILINE)
    assert tasks is not None, text
    assert running is not None, status
    cpu_s = (int(times[11]) + int(times[12])) / 100
    sample = Sample(round(at_s, 2), rss, anonymous, descriptors, int(running[1]), int(float(tasks[1])), cpu_s, rss)
    return sample, text


def slope_per_h(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen: the median of the slopes between all pairs of samples, per hour. A third of the samples may be anything."""
    x, y = np.asarray(at_s), np.asarray(values)
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])) * 3600)


def floors(samples: Sequence[Sample], of: Callable[[Sample], float]) -> tuple[list[float], list[float]]:
    """When and what: the lowest of each `TOGETHER` samples. What a lake file in the making takes for a few seconds is no growth."""
    parts = [samples[at : at + TOGETHER] for at in range(0, len(samples) - TOGETHER + 1, TOGETHER)]
    lowest = [min(part, key=of) for part in parts]
    return [one.at_s for one in lowest], [of(one) for one in lowest]


def rss_slope(samples: Sequence[Sample]) -> float:
    """Of the resident set, MB per hour."""
    return slope_per_h(*floors(samples, lambda one: one.rss_mb))


def anonymous_slope(samples: Sequence[Sample]) -> float:
    """The same of what is no file's in it."""
    return slope_per_h(*floors(samples, lambda one: one.anonymous_mb))


def growth(values: Sequence[float]) -> float:
    """The median of the last third over that of the first."""
    third = max(1, len(values) // 3)
    return median(values[-third:]) - median(values[:third])


def judged(samples: Sequence[Sample], *, slope: bool = True, more: int = MORE) -> list[str]:
    """What grows, in words. `samples` are those after the warm-up; without `slope` they are too few to say it of memory."""
    wrong = []
    if slope and (found := rss_slope(samples)) >= SLOPE_MB_PER_H:
        wrong.append(f"memory grows by {found:.2f} MB/h, {SLOPE_MB_PER_H:g} are allowed")
    for what in ("descriptors", "threads", "tasks"):
        grown = growth([getattr(one, what) for one in samples])
        allowed = max(more, MORE_THREADS) if what == "threads" else more
        if grown > allowed:
            wrong.append(f"{what} grow: {grown:g} more in the last third than in the first, {allowed} are allowed")
    return wrong


def leaking(samples: Sequence[Sample], mb_per_h: float) -> list[Sample]:
    """The same noise, of a process that loses so much, a piece each minute, and otherwise neither grows nor shrinks."""
    own = rss_slope(samples) / 3600
    return [replace(one, rss_mb=one.rss_mb - own * one.at_s + mb_per_h * (one.at_s // 60) / 60) for one in samples]
