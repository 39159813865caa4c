"""What simulated devices show: a signal per tag, scripted faults, and recorded data replayed value by value.

A simulator of any protocol asks `Signals.value(tag)` when its tag is read; nothing here knows a protocol. Pure apart from
reading the replayed files once, when `Signals` is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, Literal

from pydantic import Field, field_validator

from schemas.asset import matches_any
from schemas.errors import ConfigError
from schemas.tags import Tag
from schemas.values import Duration, Strict

from .recording import Recording, Replay, parse_replay, read_recording

__all__ = ["Fault", "Replay", "Scenario", "SignalConfig", "Signals", "parse_replay"]

_WEAR_LIMIT: Final = 5.0  # exp(5) is 148 times the healthy value; nothing measurable lies beyond


class Fault(Strict):
    """A fault that comes at a known time, so that a demo or a test can tell a true alarm from a false one."""

    kind: Literal["wear", "drift", "stuck", "spike"] = Field(
        description="wear: grows exponentially; drift: leaves at a constant rate; stuck: repeats its last value exactly; spike: jumps."
    )
    at: Duration = Field(description="When it begins, after the start of the simulation.")
    rate: float = Field(0.0, description="wear: growth per second (0.06 doubles in 12 s); drift: units per second; spike: units.")
    alarm: str = Field("", description="Name of the alarm that must follow.")


class SignalConfig(Strict):
    """How one simulated tag behaves while nothing is wrong: mean + amplitude*sin(2*pi*t/period) + noise."""

    mean: float | None = Field(None, description="Middle of the signal; by default well inside the tag's limits, else 20.")
    amplitude: float = Field(0.0, description="Half the height of the sine, in the unit of the tag.")
    period: Duration = Field(Duration("60s"), description="Period of the sine; of a boolean nobody described, on and off.")
    noise: float = Field(0.0, ge=0, description="Standard deviation of the noise, drawn anew for each read.")
    constant: bool | float | str | None = Field(None, description="Always this value; of an enum tag its number or its name.")
    counter: float | None = Field(None, description="Counts up from 0 by this much per second, in whole numbers.")
    fault: Fault | None = Field(None, description="What goes wrong, and when.")

    @field_validator("period", mode="after")
    @classmethod
    def _positive(cls, period: Duration) -> Duration:
        if period <= 0:
            raise ValueError("a period is longer than 0s")
        return period


class Scenario(Strict):
    """The file behind `genba simulate --scenario`. A tag takes the signal of its own path, else the first pattern that fits."""

    seed: int = Field(1, description="Another seed gives other noise; the same one always the same.")
    signals: Mapping[str, SignalConfig] = Field(
        default_factory=dict, description="Signals by tag path (with or without enterprise/site) or pattern."
    )


class Signals:
    """The values of a simulated plant. One instance serves all simulators of a process.

    `clock` gives seconds that only grow (the event loop's `time`). What a tag shows depends on the seed, its path, the time and
    how often it was read; never on which other tags are read. Raises ConfigError for a recording that cannot be read.
    """

    def __init__(self, scenario: Scenario, clock: Callable[[], float], replays: Sequence[Replay] = ()) -> None:
        self._scenario, self._clock = scenario, clock
        self._t0 = clock()
        self._recordings = [(replay, read_recording(replay.file, replay.column)) for replay in replays]
        self._sources: dict[str, _Replayed | _Simulated] = {}

    def restart(self) -> None:
        """Time 0 of the scenario is now, and recordings begin with their first row."""
        self._t0 = self._clock()
        self._sources.clear()

    def value(self, tag: Tag, *, step: bool = True, boolean: bool = False) -> float | str:
        """What `tag` shows when it is read now, in its unit: the simulator undoes scale and offset for the wire.

        `boolean` says that the wire holds one bit: 0.0 or 1.0. An integer tag shows whole numbers, an enum tag the numbers of its
        enum. `step` says that this read moves a replayed series on by one row, so that it comes out value for value; without it
        the series follows its own time. A missing value of a recording is NaN; a tag that has no NaN keeps the value before.
        """
        source = self._source(tag)
        t = self._clock() - self._t0
        if tag.value_type == "text" and not isinstance(source, _Replayed):
            return source.text(t)
        whole = tag.value_type == "integer"
        if isinstance(source, _Replayed):
            value = source.value(t, step=step, real=whole or boolean or bool(tag.enum))
        else:
            value = source.value(t, boolean=boolean)
        if boolean:
            return 1.0 if value >= 0.5 else 0.0
        if tag.enum and not source.literal:
            return min(tag.enum, key=lambda number: abs(number - value))
        if whole:
            return round(value) if math.isfinite(value) else 0
        return value

    def upcoming(self, tag: Tag) -> float | None:
        """The row of its recording that the next step will show, NaN where it is missing; None for a tag that is not replayed."""
        source = self._source(tag)
        return source.upcoming() if isinstance(source, _Replayed) else None

    def _source(self, tag: Tag) -> _Replayed | _Simulated:
        source = self._sources.get(tag.path)
        if source is None:
            source = self._sources[tag.path] = self._source_of(tag)
        return source

    def _source_of(self, tag: Tag) -> _Replayed | _Simulated:
        names = (f"{tag.adapter}/{tag.name}", f"{tag.device}/{tag.name}")
        for replay, recording in self._recordings:
            if replay.tag in names or matches_any(tag.path, [replay.tag]):
                return _Replayed(recording, replay.speed)
        signals = self._scenario.signals
        found = signals.get(tag.path) or signals.get(tag.path.split("/", 2)[-1])
        if found is None:
            found = next((signal for pattern, signal in signals.items() if matches_any(tag.path, [pattern])), None)
        return _Simulated(tag, found, self._scenario.seed)


class _Replayed:
    """A recording and how far one tag has come in it."""

    literal = True  # a recorded state is shown as it was recorded

    def __init__(self, recording: Recording, speed: float) -> None:
        self._recording, self._speed = recording, speed
        self._next = 0

    def upcoming(self) -> float:
        return self._recording.values[self._row()]

    def _row(self) -> int:
        return min(self._next, len(self._recording.values) - 1)

    def value(self, t: float, *, step: bool, real: bool) -> float:
        if step:
            row = self._row()
            self._next += 1
        else:
            row = self._recording.row_at(t * self._speed)
        return self._recording.real(row) if real else self._recording.values[row]


class _Simulated:
    """One tag's signal, its own stream of noise, and what it showed last before a fault."""

    def __init__(self, tag: Tag, signal: SignalConfig | None, seed: int) -> None:
        self._tag, self._described = tag, signal is not None
        self._signal = signal or SignalConfig(amplitude=0.0 if tag.enum else 1.0, noise=0.0 if tag.enum else 0.1)
        self._stream = blake2b(f"{seed}:{tag.path}".encode(), digest_size=16)
        self._reads = 0
        self._held: float | None = None
        self._constant = self._number_of(self._signal.constant) if tag.value_type != "text" else None
        self.literal = self._constant is not None  # a state outside of the enum may be wanted

    def text(self, t: float) -> str:
        constant = self._signal.constant
        return f"{self._tag.name}-{int(t) // 10}" if constant is None else str(constant)

    def value(self, t: float, *, boolean: bool) -> float:
        fault = self._signal.fault
        if fault is None or t < fault.at.s:
            self._held = self._healthy(t, boolean)
            return self._held
        since = t - fault.at.s
        match fault.kind:
            case "stuck":
                if self._held is None:
                    self._held = self._healthy(t, boolean)
                return self._held
            case "wear":
                return self._healthy(t, boolean) * math.exp(min(fault.rate * since, _WEAR_LIMIT))
            case "drift":
                return self._healthy(t, boolean) + fault.rate * since
            case "spike":
                return self._healthy(t, boolean) + fault.rate

    def _healthy(self, t: float, boolean: bool) -> float:
        signal = self._signal
        if self._constant is not None:
            return self._constant
        if signal.counter is not None:
            return math.floor(t * signal.counter)
        if not self._described and boolean:
            return 1.0 if t % signal.period.s < signal.period.s / 2 else 0.0
        if not self._described and self._tag.enum:
            return 1 if 1 in self._tag.enum else min(self._tag.enum)
        mean = signal.mean if signal.mean is not None else _middle(self._tag)
        wave = signal.amplitude * math.sin(2 * math.pi * t / signal.period.s) if signal.amplitude else 0.0
        return mean + wave + (signal.noise * self._gauss() if signal.noise else 0.0)

    def _gauss(self) -> float:
        """The next number of this tag's stream, normally distributed (Box and Muller 1958)."""
        stream = self._stream.copy()
        stream.update(self._reads.to_bytes(8))
        self._reads += 1
        drawn = stream.digest()
        u, v = (int.from_bytes(part) / 2**64 for part in (drawn[:8], drawn[8:]))
        return math.sqrt(-2 * math.log(1 - u if u < 1 else 2**-64)) * math.cos(2 * math.pi * v)

    def _number_of(self, constant: bool | float | str | None) -> float | None:
        if not isinstance(constant, str):
            return None if constant is None else float(constant)
        for number, name in self._tag.enum.items():
            if name == constant:
                return number
        try:
            return float(constant)
        except ValueError as error:
            known = f"its states are {', '.join(self._tag.enum.values())}" if self._tag.enum else "the tag shows numbers"
            raise ConfigError(f"signal of {self._tag.path}: {constant!r} is no value of it", hint=known) from error


def _middle(tag: Tag) -> float:
    """A plausible mean for a tag nobody described: well inside its limits, else 20."""
    limits = tag.limits
    if limits is None:
        return 20.0
    low = limits.low if limits.low is not None else limits.low_low
    high = limits.high if limits.high is not None else limits.high_high
    if low is not None and high is not None:
        return (low + high) / 2
    if high is not None:
        return high - 0.4 * abs(high)
    if low is not None:
        return low + 0.6 * abs(low)
    return 20.0
