"""Seeded days of a plant with two shifts, a break and a weekend, read every fifteen minutes."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

STEP_US = 900_000_000
PER_DAY = 96
Numbers = npt.NDArray[np.float64]


def moments(first: str, days: int, zone: str = "Europe/Berlin") -> npt.NDArray[np.int64]:
    """µs UTC of all readings from midnight of `first` by the clock of `zone`; all days have 24 hours."""
    begin = int(datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000
    return begin + np.arange(days * PER_DAY) * STEP_US


def load(time: npt.NDArray[np.int64], tags: int, seed: int = 1, zone: str = "Europe/Berlin") -> Numbers:
    """kW [readings, tags]: about 100 from 6 to 22 h on workdays, 60 in the break, else 20. People come and go some minutes
    early or late, and no two days are as busy."""
    rng = np.random.default_rng(seed)
    local = [datetime.fromtimestamp(at / 1e6, ZoneInfo(zone)) for at in time.tolist()]
    hour = np.array([one.hour + one.minute / 60 for one in local])[:, None]
    day = np.array([one.toordinal() for one in local]) - local[0].toordinal()
    workday = np.array([one.weekday() < 5 for one in local])[:, None]
    busy = rng.normal(1.0, 0.03, (day.max() + 1, tags))[day]
    late = rng.normal(0.0, 0.04, (day.max() + 1, tags))[day]  # hours
    shift = workday & (hour + late >= 6) & (hour + late < 22)
    rest = (hour + late >= 12) & (hour + late < 12.5)
    return np.asarray(np.where(shift, np.where(rest, 60, 100 * busy), 20) + rng.normal(0, 1.5, (len(time), tags)))
