"""Waveforms in a telemetry batch: the samples of each row, and the speed and sample rate that other tags of the asset tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.tags import Tag

from .slots import NEVER, Bools, Floats, Index, Readings, Times

LEAST_SAMPLES: Final = 64
_HUGE: Final = 1e30  # its fourth power is still a number
_FLAT: Final = 1e-6  # of the largest sample: about the resolution of a 32-bit float
_SAME_RATE: Final = 1e-3
_FASTEST: Final = 1e9
"""A larger speed or sample rate is none."""


class Blocks:
    """The waveforms of a batch of n rows. `given` bool[n]: the row has one; `length` int32[n]."""

    def __init__(self, readings: Readings) -> None:
        column = readings.batch.column("samples")
        self._values = column.values.to_numpy(zero_copy_only=False)
        self._offsets = column.offsets.to_numpy()
        self.given: Bools = column.is_valid().to_numpy(zero_copy_only=False)
        self.length: npt.NDArray[np.int32] = np.diff(self._offsets)

    def of(self, row: int) -> Floats:
        """float64[length] of one row; a null is NaN."""
        found: Floats = self._values[self._offsets[row] : self._offsets[row + 1]].astype(np.float64)
        return found


@dataclass(frozen=True, slots=True)
class Expected:
    """What a usable waveform is: `length` samples (0: any), at least `least`, taken at `rate` Hz."""

    length: int
    least: int
    rate: float

    def why_not(self, samples: Floats, rate: float) -> str | None:
        """What is wrong with a waveform of that rate (NaN: not known), in a few words; None when nothing is."""
        if len(samples) < LEAST_SAMPLES:
            return "too short"
        size = np.abs(samples).max()
        if not size <= _HUGE:  # a NaN makes this true
            return "not all numbers"
        if samples.max() - samples.min() <= _FLAT * size:
            return "constant"
        if self.length and len(samples) != self.length:
            return "another length"
        if len(samples) < self.least:
            return "too short"
        if abs(rate - self.rate) > _SAME_RATE * self.rate:
            return "another sample rate"
        return None


class Companion:
    """A tag that says something about the waveforms of its asset: the last good value before the moment of each waveform.

    The moment itself does not count, so that it makes no difference which row of a poll comes first. State by slot of the
    waveform: `now` as of the moment `at`, and `before` it. A bad row makes it unknown.
    """

    def __init__(self, name: str, factors: Mapping[str, float], tags: Sequence[Tag], waves: Sequence[Tag]) -> None:
        """`factors` by unit: what makes the number one in Hz."""
        n = len(waves)
        self.now, self.before = np.full(n, np.nan), np.full(n, np.nan)
        self.at: Times = np.full(n, NEVER)
        self._about: dict[int, tuple[float, Index]] = {}
        for tag in tags:
            slots = np.array([slot for slot, wave in enumerate(waves) if wave.asset == tag.asset], dtype=np.intp)
            if tag.name == name and len(slots):
                self._about[tag.id] = (factors[tag.unit], slots)

    def see(self, tag: int, moment: int, value: float) -> None:
        """A row of any tag, as of the gateway's clock in µs."""
        factor, slots = self._about.get(tag, (0.0, None))
        if slots is None:
            return
        newer = slots[self.at[slots] != moment]
        self.before[newer], self.at[newer] = self.now[newer], moment
        self.now[slots] = abs(value) * factor if abs(value) <= _FASTEST else np.nan

    def of(self, slot: int, moment: int) -> float:
        """What holds for a waveform of this slot and moment; NaN where it is not known."""
        return float(self.before[slot] if self.at[slot] == moment else self.now[slot])
