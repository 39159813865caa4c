"""What a block of vibration samples says: levels, shape, bands, velocity, and lines of the envelope spectrum. numpy only.

Sources: ISO 13373-2 (features), ISO 20816-1 (velocity, 10 to 1000 Hz), Randall and Antoni, Rolling element bearing diagnostics,
MSSP 25 (2011) 485-520 (envelope spectrum, kinematic frequencies).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, radians
from typing import Final

import numpy as np

from .slots import Floats

VELOCITY_HZ: Final = (10.0, 1000.0)
LEAST_SECONDS: Final = 0.2
"""A shorter block has too coarse a spectrum for 10 Hz: it gives no velocity."""
_FIRST_LINE: Final = 3  # below it the window smears the mean over the spectrum
_AROUND: Final = 16  # lines to either side that are the floor under a line
_TINY: Final = 1e-300
LEVELS: Final = ("rms", "peak", "crest", "kurtosis", "velocity")


def bearing_orders(balls: int, ball_diameter: float, pitch_diameter: float, contact_angle: float) -> dict[str, float]:
    """BPFO, BPFI, BSF and FTF as multiples of the shaft speed, outer ring at rest. Diameters in one unit, the angle in degrees."""
    ratio = ball_diameter / pitch_diameter * cos(radians(contact_angle))
    return {
        "BPFO": balls / 2.0 * (1.0 - ratio),
        "BPFI": balls / 2.0 * (1.0 + ratio),
        "BSF": (1.0 - ratio**2) * pitch_diameter / (2.0 * ball_diameter),
        "FTF": (1.0 - ratio) / 2.0,
    }


@dataclass(frozen=True)
class Analysis:
    """What is computed of a block of samples taken at `rate` Hz: one column per name.

    `bands` in Hz; `envelope` is the band in which a damaged bearing rings; `orders` are multiples of the shaft speed, each with
    `harmonics` lines, looked for within `tolerance` of it. What lies beyond half the rate is cut off.
    """

    rate: float
    bands: Sequence[tuple[float, float]]
    envelope: tuple[float, float]
    orders: Mapping[str, float]
    harmonics: int
    tolerance: float

    @property
    def names(self) -> list[str]:
        """The features in order: levels, bands, then for each order the mean of its lines and the lines."""
        bands = [f"{low:g}-{high:g} Hz" for low, high in self.bands]
        lines = [[name, *(f"{name} {k}x" for k in range(1, self.harmonics + 1))] for name in self.orders]
        return [*LEVELS, *bands, *(name for names in lines for name in names)]

    @property
    def first_line(self) -> int:
        """Place of the first feature that is a line: a height over the floor, not a quantity."""
        return len(LEVELS) + len(self.bands)

    def __call__(self, samples: Floats, to_mm_s: Floats, integrate: bool, shaft_hz: float) -> Floats:
        """Features of m blocks at one shaft speed (NaN: unknown): float64[m,n] -> float64[m,len(names)], NaN where there is none.

        `to_mm_s` float64[m] is the factor to mm/s, or to mm/s² where `integrate` says that the samples are accelerations; NaN for
        what is neither. Each row is computed by itself, whatever stands beside it. No block may be constant.
        """
        n = samples.shape[1]
        x = samples - samples.mean(axis=1, keepdims=True)
        rms = np.sqrt((x * x).mean(axis=1))
        y = x / rms[:, None]
        square = y * y
        peak = np.sqrt(square.max(axis=1))
        window = _window(n)
        spectrum = np.fft.rfft(y * window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2) * (2.0 / (n * float((window * window).sum())))  # mean square per line
        hz = np.arange(power.shape[1]) * (self.rate / n)
        columns = [rms, peak * rms, peak, (square * square).mean(axis=1), self._velocity(power, hz, integrate) * rms * to_mm_s]
        for low, high in self.bands:
            columns.append(np.sqrt(_sum(power, hz, low, high)) * rms)
        if self.orders:
            columns += self._lines(y, shaft_hz)
        return np.stack(columns, axis=1)

    def _velocity(self, power: Floats, hz: Floats, integrate: bool) -> Floats:
        if len(hz) < 2 or hz[1] * LEAST_SECONDS > 1.0 + 1e-9:
            return np.full(len(power), np.nan)
        low, high = VELOCITY_HZ
        if integrate:
            with np.errstate(divide="ignore"):
                power = power / (2.0 * np.pi * hz) ** 2
        return np.sqrt(_sum(power, hz, low, high))

    def _lines(self, y: Floats, shaft_hz: float) -> list[Floats]:
        """Height of each line over the floor around it, in the spectrum of the envelope; NaN where the block cannot show it."""
        n = y.shape[1]
        per_hz = n / self.rate  # lines per Hz
        first, last = (min(max(round(f * per_hz), 1), n // 2) for f in self.envelope)
        ringing = np.fft.rfft(y, axis=1)[:, first : last + 1]
        # Moved down to zero the band has the same envelope, and needs fewer points: twice its width, for the square of it.
        size = 1 << int(2 * ringing.shape[1] - 1).bit_length()
        envelope = np.abs(np.fft.ifft(ringing, size, axis=1))
        envelope -= envelope.mean(axis=1, keepdims=True)
        height = np.abs(np.fft.rfft(envelope * _window(size), axis=1))
        found: list[Floats] = []
        for order in self.orders.values():
            lines = [self._line(height, shaft_hz * order * k * per_hz) for k in range(1, self.harmonics + 1)]
            shown = [line for line in lines if not np.isnan(line[0])]  # a block can show a line or not, whatever is in it
            found += [np.sum(shown, axis=0) / len(shown) if shown else lines[0], *lines]
        return found

    def _line(self, height: Floats, at: float) -> Floats:
        nothing = np.full(len(height), np.nan)
        if not _FIRST_LINE <= at < height.shape[1]:
            return nothing
        reach = max(1.0, at * self.tolerance)
        low, high = int(np.ceil(at - reach)), int(at + reach) + 1
        if high > height.shape[1] - 1:
            return nothing
        around = height[:, max(low - _AROUND, _FIRST_LINE - 1) : high + _AROUND]
        middle = around.shape[1] // 2
        floor = np.partition(around, middle, axis=1)[:, middle]
        found: Floats = height[:, low:high].max(axis=1) / np.maximum(floor, _TINY)
        return found


@lru_cache(maxsize=8)
def _window(n: int) -> Floats:
    made: Floats = np.hanning(n)
    made.flags.writeable = False
    return made


def _sum(power: Floats, hz: Floats, low: float, high: float) -> Floats:
    first, last = np.searchsorted(hz, (low, high))
    found: Floats = np.ascontiguousarray(power[:, first:last]).sum(axis=1)
    return found
