"""What simulated devices show: a signal per tag, scripted faults, and recorded data replayed value by value.

Pure apart from reading the replay files once. A simulator of any protocol asks `Signals.value(path)` when its tag is read;
nothing here knows a protocol.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from schemas.asset import matches_any
from schemas.errors import ConfigError
from schemas.tags import Tag
from schemas.values import Duration, Strict


class Fault(Strict):
    """A fault that comes at a known time, so that a demo or a test can tell a true alarm from a false one."""

    kind: Literal["wear", "drift", "stuck", "spike"] = Field(description="What goes wrong.")
    at: Duration = Field(description="When it begins, after the start of the simulation.")
    rate: float = Field(0.0, description="wear: exponential growth per second; drift: units per second; spike: units.")
    alarm: str = Field("", description="Name of the alarm that must follow.")


class SignalConfig(Strict):
    """How one simulated tag behaves while nothing is wrong: mean + amplitude*sin(2*pi*t/period) + noise."""

    mean: float | None = None
    amplitude: float = 0.0
    period: Duration = Duration("60s")
    noise: float = 0.0
    constant: float | str | bool | None = None
    counter: float | None = Field(None, description="Counts up by this much per second.")
    fault: Fault | None = None


class Scenario(Strict):
    """The file behind `genba simulate --scenario`: signals by tag path (below enterprise/site) or pattern."""

    seed: int = 1
    signals: Mapping[str, SignalConfig] = Field(default_factory=dict)


class Replay(Strict):
    """`--replay TAG=FILE.csv[:COLUMN] --speed N`: the recorded column is the tag's value, one row per read.

    A float64 tag that is polled steps by one row on each read, so that the series comes out value for value; behind its last
    row the tag keeps the last value. Subscribed and other tags step by the file's own time times `speed`.
    """

    tag: str
    file: Path
    column: str | None = None
    speed: float = 1.0


class Signals:
    """The values of a simulated plant. One instance serves all simulators of a process; `now_s` counts from its start.

    `clock` gives seconds that only grow (the event loop's `time`); values are reproducible for a seed and a sequence of reads.
    """

    def __init__(self, scenario: Scenario, clock: Callable[[], float], replays: Sequence[Replay] = ()) -> None:
        self._scenario, self._clock = scenario, clock
        self._t0 = clock()
        self._random = random.Random(scenario.seed)
        self._found: dict[str, SignalConfig] = {}
        self._held: dict[str, float] = {}
        self._replays = {replay.tag: _Recording(replay) for replay in replays}

    def restart(self) -> None:
        """Time 0 of the scenario is now."""
        self._t0 = self._clock()

    def value(self, tag: Tag, *, step: bool = True) -> float | str:
        """What `tag` (any value type; a boolean is 0.0 or 1.0) shows when it is read now.

        `step` says that this is one read of the tag's scan class, so that a replayed float64 series moves on by one row. The
        result is in the unit of the tag; the simulator undoes scale and offset for the wire.
        """
        recording = self._replay_of(tag)
        if recording is not None:
            return recording.next() if step else recording.at(self._clock() - self._t0)
        signal = self._signal_of(tag)
        t = self._clock() - self._t0
        if tag.value_type == "text":
            return str(signal.constant) if signal.constant is not None else f"{tag.name}-{int(t) // 10}"
        if signal.constant is not None:
            plain = float(signal.constant) if not isinstance(signal.constant, str) else 0.0
        elif signal.counter is not None:
            plain = math.floor(t * signal.counter)
        else:
            mean = signal.mean if signal.mean is not None else _middle(tag)
            plain = (
                mean + signal.amplitude * math.sin(2 * math.pi * t / signal.period.s) + self._random.gauss(0, 1) * signal.noise
            )
        return self._faulty(tag, signal.fault, plain, t)

    def _faulty(self, tag: Tag, fault: Fault | None, plain: float, t: float) -> float:
        if fault is None or t < fault.at.s:
            self._held[tag.path] = plain
            return plain
        since = t - fault.at.s
        if fault.kind == "wear":
            return plain * math.exp(min(fault.rate * since, 5.0))
        if fault.kind == "drift":
            return plain + fault.rate * since
        if fault.kind == "spike":
            return plain + fault.rate
        return self._held.setdefault(tag.path, plain)

    def _replay_of(self, tag: Tag) -> _Recording | None:
        if not self._replays:
            return None
        return (
            self._replays.get(tag.path)
            or self._replays.get(tag.path.split("/", 2)[-1])
            or self._replays.get(f"{tag.adapter}/{tag.name}")
        )

    def _signal_of(self, tag: Tag) -> SignalConfig:
        found = self._found.get(tag.path)
        if found is None:
            fits = (signal for pattern, signal in self._scenario.signals.items() if matches_any(tag.path, [pattern]))
            found = self._found[tag.path] = next(
                fits, SignalConfig(amplitude=1.0, noise=0.1) if not tag.enum else SignalConfig(constant=1)
            )
        return found


def _middle(tag: Tag) -> float:
    """A plausible mean for a tag nobody described: well inside its limits, else 20."""
    limits = tag.limits
    if limits is not None:
        low = limits.low if limits.low is not None else limits.low_low
        high = limits.high if limits.high is not None else limits.high_high
        if low is not None and high is not None:
            return (low + high) / 2
        if high is not None:
            return high * 0.6
        if low is not None:
            return low * 1.6
    return 20.0


class _Recording:
    """One column of a CSV file, as floats; the cursor moves by one row per read and stays on the last."""

    def __init__(self, replay: Replay) -> None:
        self._values, self._step_s = read_column(replay.file, replay.column)
        self._speed = replay.speed
        self._next = 0

    def next(self) -> float:
        value = self._values[min(self._next, len(self._values) - 1)]
        self._next += 1
        return value

    def at(self, t: float) -> float:
        return self._values[min(int(t * self._speed / self._step_s), len(self._values) - 1)]


def read_column(file: Path, column: str | None) -> tuple[list[float], float]:
    """The numbers of one column and the seconds between its rows (1.0 when the file has no time column).

    Takes the last column when none is named; the separator is found out. Raises ConfigError naming file, line and the columns there are.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", hint="--replay TAG=FILE.csv[:COLUMN]") from error
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    if len(rows) < 2:
        raise ConfigError(f"{file} has no rows below its header")
    header = [name.strip() for name in rows[0]]
    if column is not None and column not in header:
        raise ConfigError(f"{file} has no column {column!r}", hint=f"it has {', '.join(header)}")
    at = header.index(column) if column is not None else len(header) - 1
    values = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            values.append(float(row[at]))
        except (ValueError, IndexError) as error:
            raise ConfigError(
                f"{file}:{number}: {header[at]} is not a number", hint="choose a numeric column with FILE.csv:COLUMN"
            ) from error
    return values, _step_s(rows)


def _step_s(rows: list[list[str]]) -> float:
    try:
        first, last = datetime.fromisoformat(rows[1][0]), datetime.fromisoformat(rows[-1][0])
    except (ValueError, IndexError):
        return 1.0
    return max((last - first).total_seconds() / max(len(rows) - 2, 1), 1e-3)
