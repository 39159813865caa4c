"""Where in the day, the week or the shift a moment lies, by the clock that people at the plant work by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final, Self
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import Field, field_validator, model_validator

from schemas.values import Duration

from .base import ModelConfig
from .slots import Floats, Index, Times

DAY_US: Final = 86_400_000_000
_QUARTER_S: Final = 900  # no zone of today changes its offset between quarters of an hour
_MONDAY_US: Final = 4 * DAY_US  # 1970-01-05
_LATEST_S: Final = 253_000_000_000  # year 9987; what a broken clock says beyond it has the offset of then
_EPOCH: Final = date(1970, 1, 1).toordinal()
_MOST_SLOTS: Final = 2016
_KEPT: Final = 1024
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SHIFT: Final = re.compile(r"\s*(?:([a-z,-]+)\s+)?([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-4]):([0-5]\d)\s*")
_WEEK_MIN: Final = 7 * 1440


class CalendarConfig(ModelConfig):
    """What models that go by the time of day have in common."""

    time_zone: str | None = Field(
        None,
        description="IANA name of the clock that people work by; by default the plant's `time_zone`.",
        examples=["Asia/Tokyo", "Etc/GMT-9"],
    )
    cycle: Duration = Field(
        Duration("1d"),
        description="After which time things repeat: `1d`, `7d`, other whole days, or a part of a day such as `1h`.",
    )
    slot: Duration = Field(Duration("15m"), description="Length of the slots of a cycle; each has a usual value of its own.")
    shifts: Mapping[str, str] = Field(
        {},
        description="Shifts of a week by name. A shift is the same on all its days, and so is each time of day without a shift.",
        examples=[{"early": "mon-fri 06:00-14:00", "late": "mon-thu 14:00-22:00"}],
    )
    holidays: Sequence[str] = Field(
        (), description="Dates on which nothing is scored or learnt.", examples=[["2026-12-24", "2026-12-25"]]
    )

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (ValueError, OSError, KeyError) as error:
                raise ValueError("unknown time zone; write an IANA name such as Asia/Tokyo or Europe/Berlin") from error
        return name

    @field_validator("holidays")
    @classmethod
    def _dates(cls, holidays: Sequence[str]) -> Sequence[str]:
        for day in holidays:
            try:
                date.fromisoformat(day)
            except ValueError as error:
                raise ValueError(f"{day!r} is no date; write it like 2026-12-25") from error
        return holidays

    @model_validator(mode="after")
    def _fits(self) -> Self:
        cycle, slot = self.cycle.us, self.slot.us
        if cycle <= 0 or (cycle % DAY_US and DAY_US % cycle):
            raise ValueError(
                f"a cycle of {self.cycle} is neither whole days nor goes into a day without rest; write 1d, 7d or 1h"
            )
        if self.shifts:
            if cycle not in (DAY_US, 7 * DAY_US):
                raise ValueError("shifts repeat every week; leave `cycle` out")
            cycle = 7 * DAY_US
        if slot <= 0 or cycle % slot or (DAY_US % slot and cycle >= DAY_US):
            raise ValueError(f"slots of {self.slot} do not fill the cycle without rest; write 5m, 15m or 1h")
        if not 2 <= cycle // slot <= _MOST_SLOTS:
            raise ValueError(f"a cycle has 2 to {_MOST_SLOTS} slots, not {cycle // slot}; choose another `slot`")
        _minutes(self.shifts)
        return self


class Calendar:
    """Cuts the plant's time into positions (slots of the cycle), and says which slot of the profile each position uses.

    A position is a stretch of the wall clock. In the night in which the clock is put back an hour comes twice, and both times it is
    the same position; the hour that is left out in spring has none. `slot_at` intp[positions].
    """

    def __init__(self, config: CalendarConfig, time_zone: str) -> None:
        """`time_zone` is the plant's, for a configuration without one."""
        self.zone = config.time_zone or time_zone
        self.slot_us = config.slot.us
        self._cycle_us = 7 * DAY_US if config.shifts else config.cycle.us
        self._tz = None if self.zone == "UTC" else ZoneInfo(self.zone)
        self._known: dict[int, int] = {}
        self.holidays = np.array(
            sorted({date.fromisoformat(day).toordinal() - _EPOCH for day in config.holidays}), dtype=np.int64
        )
        self.positions = self._cycle_us // self.slot_us
        self.slot_at: Index = _profile_slots(config, self.positions)
        self.slots = int(self.slot_at.max()) + 1

    def place(self, time: Times) -> tuple[Index, Floats]:
        """The position of each moment (µs UTC), −1 on holidays, and how far within it the moment lies, 0 to 1."""
        if len(time) > 1 and time[0] == time[-1] and (time == time[0]).all():  # a poll
            one, fraction = self.place(time[:1])
            return np.broadcast_to(one, time.shape), np.broadcast_to(fraction, time.shape)
        local = time + self._offset(time)
        within = (local - _MONDAY_US) % self._cycle_us
        position: Index = (within // self.slot_us).astype(np.intp)
        if len(self.holidays):
            position = np.where(np.isin(local // DAY_US, self.holidays), -1, position)
        return position, (within % self.slot_us) / self.slot_us

    def local(self, time_us: int) -> datetime:
        """A moment by the plant's clock."""
        return datetime.fromtimestamp(min(max(time_us // 1_000_000, 0), _LATEST_S), self._tz or UTC)

    def _offset(self, time: Times) -> Times:
        """How far the plant's clock is ahead of UTC, µs."""
        if self._tz is None:
            return np.zeros(len(time), dtype=np.int64)
        quarters, which = np.unique(np.clip(time // 1_000_000, 0, _LATEST_S) // _QUARTER_S, return_inverse=True)
        found = np.array([self._of_quarter(quarter) for quarter in quarters.tolist()], dtype=np.int64)
        offsets: Times = found[which]
        return offsets

    def _of_quarter(self, quarter: int) -> int:
        found = self._known.get(quarter)
        if found is None:
            ahead = datetime.fromtimestamp(quarter * _QUARTER_S, self._tz).utcoffset()
            found = 0 if ahead is None else round(ahead.total_seconds() * 1e6)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[quarter] = found
        return found


def _profile_slots(config: CalendarConfig, positions: int) -> Index:
    """intp[positions]: the slot of the profile at each position of the cycle, dense from 0."""
    if not config.shifts:
        return np.arange(positions)
    slot_min = config.slot.us / 60e6
    per_day = DAY_US // config.slot.us
    found = [(0, at % per_day) for at in range(positions)]  # (0, time of day) where nobody works
    shift_at = _minutes(config.shifts)
    for at in range(positions):
        shift = shift_at.get(int((at + 0.5) * slot_min))
        if shift is not None:
            number, since = shift
            found[at] = number + 1, int(since // slot_min)
    numbers = {slot: number for number, slot in enumerate(sorted(set(found)))}
    return np.array([numbers[slot] for slot in found], dtype=np.intp)


def _minutes(shifts: Mapping[str, str]) -> dict[int, tuple[int, int]]:
    """Minute of the week -> number of the shift and minutes since it began. Raises ValueError with the way to write one."""
    found: dict[int, tuple[int, int]] = {}
    names = list(shifts)
    for number, (name, text) in enumerate(shifts.items()):
        match = _SHIFT.fullmatch(text.lower())
        if match is None:
            raise ValueError(f"shift {name}: {text!r} cannot be read; write it like mon-fri 06:00-14:00")
        begin, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
        length = (end - begin) % 1440 or 1440
        for day in _weekdays(match[1], name):
            for minute in range(length):
                at = (day * 1440 + begin + minute) % _WEEK_MIN
                other, _ = found.setdefault(at, (number, minute))
                if other != number:
                    raise ValueError(
                        f"the shifts {names[other]} and {name} overlap on {_DAYS[at // 1440]}; a moment has one shift"
                    )
    return found


def _weekdays(text: str | None, shift: str) -> list[int]:
    if text is None:
        return list(range(7))
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if first not in _DAYS or last not in _DAYS:
            raise ValueError(f"shift {shift}: {part!r} are no days; write mon-fri or sat,sun")
        begin = _DAYS.index(first)
        found += [(begin + day) % 7 for day in range((_DAYS.index(last) - begin) % 7 + 1)]
    return list(dict.fromkeys(found))
