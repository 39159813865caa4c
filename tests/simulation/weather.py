"""What befalls a simulated month: outages of every device and sink, reboots, bursts and steps of the clock, all drawn from one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

DAY_S: Final = 86_400.0
Manner = Literal["refused", "silent"]
"""How somebody is away: says so at once, or says nothing until the deadline."""

TIMEOUT_S: Final = 30.0
Reboot = Literal["stop", "kill", "power"]
"""A clean stop, the end of the process, the end of the power."""


@dataclass(slots=True)
class Outage:
    """From `begin` to `end`, by the loop's time; `attempts` counts who tried meanwhile."""

    begin: float
    end: float
    manner: Manner
    attempts: int = 0


class Link:
    """Whether somebody can be reached. Asked with times that only rise."""

    def __init__(self, outages: Sequence[Outage]) -> None:
        self.outages = outages
        self._at = 0
        self.up_since = 0.0

    def away(self, now: float) -> Outage | None:
        """The outage that there is now."""
        while self._at < len(self.outages) and now >= self.outages[self._at].end:
            self.up_since = self.outages[self._at].end
            self._at += 1
        if self._at < len(self.outages) and now >= self.outages[self._at].begin:
            return self.outages[self._at]
        return None

    def next_outage(self, now: float) -> float:
        """When the next one begins."""
        self.away(now)
        return self.outages[self._at].begin if self._at < len(self.outages) else math.inf


@dataclass(frozen=True, slots=True)
class Weather:
    """A month. Times are seconds of the loop; everything is over at `end`."""

    begin: float
    end: float
    links: dict[str, Link]
    reboots: list[tuple[float, float, Reboot]]  # when, for how long, how
    bursts: Link  # "away" is a burst
    steps: list[tuple[float, float]]  # when, by how many seconds
    budget: int = 0
    commit_every_s: float = 0.0
    when_full: Literal["downsample", "drop_oldest"] = "drop_oldest"
    faults: dict[str, float] = field(default_factory=dict)  # chance of each fault of a write, by its name


def draw(rng: random.Random, devices: Sequence[str], sinks: Sequence[str], begin: float, days: float) -> Weather:
    """A month, or so many days of one, and these no calmer than a week. In half of them some sink is away for longer than a budget lasts."""
    end, often = begin + days * DAY_S, max(1.0, 7 / days)
    longest_s = min(12 * 3600, days * DAY_S / 10)
    links = {name: Link(_outages(rng, begin, end, often * rng.uniform(5, 20), longest_s / 2)) for name in devices}
    links |= {name: Link(_outages(rng, begin, end, often * rng.uniform(3, 12), longest_s)) for name in sinks}
    if rng.random() < 0.5:
        name = rng.choice(list(sinks))
        length = min(rng.uniform(2, 8), days / 2) * DAY_S
        at = rng.uniform(begin, end - length)
        apart = [one for one in links[name].outages if one.end < at or one.begin > at + length]
        links[name] = Link(sorted([*apart, Outage(at, at + length, "silent")], key=lambda one: one.begin))
    reboots: list[tuple[float, float, Reboot]] = []
    for at in _moments(rng, begin, end, often * rng.uniform(10, 40)):
        manner: Reboot = rng.choice(("stop", "kill", "power"))
        reboots.append((at, _length(rng, 5, longest_s / 3 if rng.random() < 0.2 else 300), manner))
    moments = _moments(rng, begin, end, often * rng.uniform(2, 8))
    steps = [(at, rng.choice((-3600.0, 30 * DAY_S, -30 * DAY_S))) for at in moments]
    return Weather(
        begin, end, links, reboots, Link(_outages(rng, begin, end, 4 * often, longest_s / 2)), steps,
        budget=rng.choice((1 << 20, 2 << 20, 4 << 20)), commit_every_s=rng.choice((60.0, 300.0, 300.0, 600.0, 600.0)),
        when_full=rng.choice(("downsample", "drop_oldest")),
        faults={"busy": rng.uniform(0, 0.05), "taken and not said": rng.uniform(0, 0.02), "rejected": rng.uniform(0, 0.005)},
    )  # fmt: skip


def _moments(rng: random.Random, begin: float, end: float, a_month: float) -> list[float]:
    """Moments, so many in thirty days on average."""
    found, at = [], begin
    while (at := at + rng.expovariate(a_month / (30 * DAY_S))) < end:
        found.append(at)
    return found


def _length(rng: random.Random, least: float, most: float) -> float:
    """Short ones are as likely as long ones by orders of magnitude."""
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def _outages(rng: random.Random, begin: float, end: float, a_month: float, most_s: float) -> list[Outage]:
    found: list[Outage] = []
    for at in _moments(rng, begin, end, a_month):
        if not found or at > found[-1].end:
            found.append(Outage(at, min(end, at + _length(rng, 5, most_s)), rng.choice(("refused", "silent", "silent"))))
    return found
