"""What is configured of `vibration`, and what of it can be told to be wrong before a waveform has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from schemas.errors import ConfigError
from schemas.tags import Tag
from schemas.units import display
from schemas.values import Duration, Strict

from .base import ModelConfig
from .waveform import VELOCITY_HZ, Analysis, bearing_orders
from .waveform_rows import LEAST_SAMPLES

MACHINES: Final[Mapping[str, tuple[float, float, float]]] = {
    "large-rigid": (2.3, 4.5, 7.1),
    "large-flexible": (3.5, 7.1, 11.0),
    "medium-rigid": (1.4, 2.8, 4.5),
    "medium-flexible": (2.3, 4.5, 7.1),
}
"""Zone boundaries A/B, B/C, C/D in mm/s RMS of ISO 10816-3:2009, annex A, groups 1 and 2; the plant's copy of the standard decides."""
_ACCELERATION: Final[Mapping[str, float]] = {"m/s2": 1000.0, "mm/s2": 1.0, "[g]": 9806.65}  # to mm/s²
_VELOCITY: Final[Mapping[str, float]] = {"mm/s": 1.0, "m/s": 1000.0, "cm/s": 10.0, "um/s": 0.001, "[in_i]/s": 25.4}  # to mm/s
RATES: Final[Mapping[str, float]] = {"Hz": 1.0, "/s": 1.0, "1": 1.0}
_BANDS: Final = ((10.0, 1000.0), (1000.0, 5000.0), (5000.0, 10000.0))
HZ: Final[Mapping[str, float]] = {"{rev}/min": 1 / 60, "/min": 1 / 60, "Hz": 1.0, "/s": 1.0, "{rev}/s": 1.0}


class Bearing(Strict):
    """Geometry of a rolling bearing whose inner ring turns with the shaft."""

    balls: int = Field(ge=3, le=200, description="Number of rolling elements.", examples=[9])
    ball_diameter: float = Field(gt=0, description="Diameter of a rolling element; any unit.", examples=[7.94])
    pitch_diameter: float = Field(
        gt=0, description="Diameter of the circle on which their centres run; same unit.", examples=[39.04]
    )
    contact_angle: float = Field(0.0, ge=0, lt=90, description="Contact angle in degrees.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ball_diameter >= self.pitch_diameter:
            raise ValueError("the rolling elements are as wide as the pitch circle; are the diameters swapped?")
        return self


class VibrationConfig(ModelConfig):
    """Judges waveforms (tags of an array type such as `array of float32`) of a rotating machine by their features."""

    warm_up: Duration = Field(Duration("1h"), description="Time from the first good reading of a tag until it may raise alarms.")
    sample_rate: float = Field(gt=0, description="Samples per second within a waveform, Hz.", examples=[25600])
    samples: int | None = Field(
        None, ge=LEAST_SAMPLES, description="Length of a waveform; by default that of the first good one of each tag."
    )
    rate_tag: str | None = Field(
        None,
        description="Name of a tag of the same asset that bears the sample rate in Hz: a waveform taken at another is refused.",
    )
    rpm: float | None = Field(None, gt=0, description="Shaft speed in 1/min, where it is fixed.", examples=[1480])
    speed: str | None = Field(
        None,
        description="Name of a tag of the same asset that bears the shaft speed; `tags` must match it too.",
        examples=["speed"],
    )
    min_speed: float = Field(0.0, ge=0, description="Waveforms taken below this speed in 1/min are neither scored nor learnt.")
    bearing: Bearing | None = Field(None, description="Geometry of the bearing, for its lines in the envelope spectrum.")
    orders: Mapping[str, float] = Field(
        {}, description="Further lines of the envelope spectrum as multiples of the shaft speed.", examples=[{"BPFO": 3.585}]
    )
    harmonics: int = Field(3, ge=1, le=10, description="Multiples of each line that are looked at.")
    tolerance: float = Field(0.02, ge=0, le=0.1, description="How far a line may lie beside its place, as a share: slip.")
    envelope_low: float | None = Field(None, gt=0, description="Lower edge, in Hz, of where a damaged bearing rings; by default a tenth of the sample rate.")  # fmt: skip
    envelope_high: float | None = Field(None, gt=0, description="Upper edge, in Hz; by default 0.4 of the sample rate.")
    bands: Sequence[Sequence[float]] | None = Field(
        None, description="Bands in Hz whose energy is watched; by default 10-1000, 1000-5000 and 5000-10000.",
        examples=[[[10, 1000], [1000, 5000]]],
    )  # fmt: skip
    machine: Literal["large-rigid", "large-flexible", "medium-rigid", "medium-flexible"] | None = Field(
        None, description="Class of the machine, for the zones of its velocity; see the page on models."
    )
    zones: Sequence[float] | None = Field(
        None,
        description="Zone boundaries A/B, B/C and C/D in mm/s RMS instead of those of `machine`.",
        examples=[[2.3, 4.5, 7.1]],
    )
    hysteresis: float = Field(0.05, ge=0, lt=1, description="Share by which the velocity must fall below a boundary to be out of the zone.")  # fmt: skip
    report: Duration = Field(Duration("10m"), description="How often the features are written as `health` rows; 0s is never.")
    limit: float = Field(0.999999, gt=0, lt=1, description="A score at or above it is abnormal.")
    memory: int = Field(
        10_000, ge=50, description="Waveforms over which the features' levels and spreads are learnt.", examples=[10_000]
    )
    min_samples: int = Field(50, ge=20, description="Waveforms of a tag before its first score.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.rpm is not None and self.speed is not None:
            raise ValueError("`rpm` and `speed`; write one of them")
        if (self.bearing is not None or self.orders) and self.rpm is None and self.speed is None:
            raise ValueError("bearing lines need the shaft speed: `rpm`, or `speed` with the name of its tag")
        if self.min_speed and self.speed is None:
            raise ValueError("`min_speed` needs `speed`: the name of the tag that bears it")
        taken = {*(bearing_orders(3, 1, 2, 0) if self.bearing else ())} & {*self.orders}
        if taken:
            raise ValueError(f"{sorted(taken)[0]} is in `orders` and follows from `bearing`; write one of them")
        if any(order <= 0 for order in self.orders.values()):
            raise ValueError("an order is a positive multiple of the shaft speed")
        if any(len(band) != 2 or not 0 < band[0] < band[1] for band in self.bands or ()):
            raise ValueError("a band goes from a lower to a higher frequency: [10, 1000]")
        if not self.envelope()[0] < self.envelope()[1]:
            raise ValueError(f"the envelope is taken from {self.envelope()[0]:g} to {self.envelope()[1]:g} Hz: that is no band")
        zones = self.boundaries()
        if zones is not None:
            if len(zones) != 3 or not 0 < zones[0] < zones[1] < zones[2]:
                raise ValueError("zone boundaries are three and rise: [2.3, 4.5, 7.1]")
            if self.sample_rate <= 2 * VELOCITY_HZ[1]:
                raise ValueError(f"zones are about 10 to 1000 Hz, and {self.sample_rate:g} samples a second show less than that")
        return self

    def envelope(self) -> tuple[float, float]:
        """Edges of the band of the envelope, Hz."""
        nyquist = self.sample_rate / 2
        low = self.envelope_low or self.sample_rate * 0.1
        return low, min(self.envelope_high or self.sample_rate * 0.4, nyquist)

    def boundaries(self) -> Sequence[float] | None:
        """Zone boundaries A/B, B/C, C/D in mm/s RMS."""
        return self.zones or (MACHINES[self.machine] if self.machine is not None else None)

    def analysis(self) -> Analysis:
        """What is computed of each waveform."""
        orders: dict[str, float] = {}
        if self.bearing is not None:
            orders = bearing_orders(
                self.bearing.balls, self.bearing.ball_diameter, self.bearing.pitch_diameter, self.bearing.contact_angle
            )
        bands = [
            (low, min(high, self.sample_rate / 2))
            for low, high in (_BANDS if self.bands is None else self.bands)
            if low < self.sample_rate / 2
        ]
        return Analysis(self.sample_rate, bands, self.envelope(), {**orders, **self.orders}, self.harmonics, self.tolerance)


def unit_of(unit: str) -> tuple[float, bool]:
    """(factor to mm/s² or mm/s, whether it is an acceleration); NaN for neither."""
    if unit in _ACCELERATION:
        return _ACCELERATION[unit], True
    return _VELOCITY.get(unit, float("nan")), False


def check(config: VibrationConfig, waves: Sequence[Tag], tags: Sequence[Tag], where: str) -> None:
    """Raises ConfigError for a tag without waveforms, a speed or rate that is not there, or a unit with which nothing can be done."""
    for tag in waves:
        if tag.value_type != "samples":
            raise ConfigError(
                f"{tag.path} bears no waveforms: vibration takes tags with an array type such as `array of float32`", where=f"{where}.tags",
                hint="name only waveform tags, and those of `speed` and `rate_tag`",
            )  # fmt: skip
        if config.boundaries() is not None and np.isnan(unit_of(tag.unit)[0]):
            known = ", ".join(display(unit) for unit in (*_ACCELERATION, *_VELOCITY))
            raise ConfigError(
                f"{tag.path} is in {display(tag.unit)}; zones are about velocity, which follows from one of {known}",
                where=f"{where}.tags", hint="give the tag its `unit`, or leave `machine` and `zones` away",
            )  # fmt: skip
        for key, name, units in (("speed", config.speed, HZ), ("rate_tag", config.rate_tag, RATES)):
            mate = next((one for one in tags if one.asset == tag.asset and one.name == name), None)
            if name is not None and mate is None:
                raise ConfigError(
                    f"{tag.asset} has no tag {name!r} among those of the model", where=f"{where}.{key}",
                    hint="`tags` must match it too",
                )  # fmt: skip
            if mate is not None and (mate.value_type not in ("number", "integer") or mate.unit not in units):
                raise ConfigError(
                    f"{mate.path} is {mate.value_type} in {display(mate.unit)}; {key} takes a number in one of "
                    f"{', '.join(display(unit) for unit in units)}", where=f"{where}.{key}", hint="give the tag its `unit`",
                )  # fmt: skip
