"""`stuck`: has a sensor stopped telling the truth: frozen value, no readings, only bad readings, an impossible jump?"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from schemas import quality as q
from schemas.errors import StateMismatch
from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .base import EdgeModel, ModelConfig, ModelContext, ScoreRow
from .scores import ScoreRows
from .sentences import quantity, span
from .slots import NEVER, Bools, Floats, Index, Readings, Round, Slots, Times, decode
from .state import pack, unpack

_LIMIT: Final = 0.999999  # the score of a silence as long as is allowed
_DECAY: Final = log(1.0 - _LIMIT)
_FORGET: Final = 0.999  # of the longest hold or gap, per change or reading
_NONE: Final = np.zeros(0, dtype=np.intp)
_ALL_ZERO: Final = np.zeros(0)
_FOREVER: Final = np.iinfo(np.int64).max // 4
_PERIODS: Final = 10
_AWAY: Final = np.array(
    [
        q.BAD_NOT_CONNECTED, q.BAD_NO_COMMUNICATION, q.BAD_COMMUNICATION_ERROR, q.BAD_TIMEOUT, q.BAD_WAITING_FOR_INITIAL_DATA,
        q.BAD_OUT_OF_SERVICE,
    ],
    dtype=np.uint32,
)  # fmt: skip
"""The device is away, which the gateway itself raises once; an alarm per tag would only bury it."""


class StuckConfig(ModelConfig):
    """Watches the sensors themselves. Learns how long each tag normally holds a value and how often it reports."""

    warm_up: Duration = Field(Duration("10m"), description="Time from the first good reading of a tag until it may raise alarms.")
    factor: float = Field(
        10.0, ge=2, description="A value may hold, or a tag be silent, this many times longer than it normally is."
    )
    at_least: Duration = Field(Duration("5s"), description="Nothing shorter than this is ever taken for stuck.")
    min_changes: int = Field(
        10, ge=2, description="Changes, or readings, of a tag before it is scored; a tag that never changes is never stuck."
    )
    missing: bool = Field(
        True,
        description="Also raise when a tag that reports at the pace of its scan class falls silent while others go on. "
        "A tag that reports now and then, such as a set-point that is subscribed to, is never missed.",
    )
    max_rate: float | None = Field(
        None, gt=0, description="Fastest possible change, in units of the tag per second.", examples=[5.0]
    )


@dataclass(slots=True)
class _Pace:
    """That the last batch was a poll of all tags, each of them well."""

    arrived: int  # gateway time of that poll
    newest: int  # the newest time of a reading in it
    few: Index  # slots that have changed too seldom to be scored
    rest: Index | slice  # all others
    even: bool = False  # every tag of the rest changed in it, at one time, and none of the few
    one: bool = False  # the longest holds are one number for all of the rest, and so are the longest gaps
    # While polls are even and differ in nothing but values and row numbers, they are only counted here:
    polls: int = 0
    hold: float = 0.0
    gap: float = 0.0
    blank: Floats = field(default_factory=lambda: np.zeros(0))  # the scores where nothing is held
    value: Floats = field(default_factory=lambda: np.zeros(0))
    seq: Times = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class Stuck:
    """Flatline, silence, lasting bad quality and impossible jumps, scored per tag.

    The score of a state that has lasted t where T is allowed is 1 − 10^(−6 t/T); T is `factor` times the longest that the tag
    has normally held a value (or been silent), slowly forgotten, and at least `at_least`. READING(n) -> one SCORE batch with a
    row per reading of the model's tags, plus, while a tag is silent, one row each time T has passed again (its `seq` is that of
    the tag's last reading, its value null). A tag whose pauses were longer than `at_least` and ten periods of its scan class
    before it was judged reports by exception, and its silence says nothing. Silence is measured on the gateway's clock as it
    shows in the rows, and time in which no tag at all was seen does not count; empty batches move it to `now`. A device that is
    away, or a gated tag, pauses the watch. 112 bytes of state per tag.
    """

    kind: ClassVar[str] = "stuck"
    version: ClassVar[int] = 1

    def __init__(self, config: StuckConfig, context: ModelContext) -> None:
        self._config = config
        self.slots = Slots([tag.id for tag in context.tags])
        n = len(self.slots)
        least = np.maximum(float(config.at_least), np.array([tag.period_us for tag in context.tags], dtype=np.float64) * _PERIODS)
        self._least = least
        self._jump_us = int(least.min(initial=float(config.at_least) if n == 0 else np.inf)) // 2  # no shorter step matters
        self._rows = ScoreRows(context.name, config.alarm.name or context.name, _LIMIT)
        self._value = np.full(n, np.nan)  # last good one
        self._hold = np.zeros(n)  # µs, longest normal time between changes
        self._changes = np.zeros(n)
        self._gap = np.zeros(n)  # µs, longest normal time between readings
        self._arrivals = np.zeros(n)
        self._warm = np.full(n, np.nan)  # 0 once warm
        self._any_bad = False
        self._pace: _Pace | None = None
        self._due_is_old = False  # `_due` is that of a poll before the last one
        self._first = np.full(n, NEVER)  # time of the first good reading
        self._last = np.full(n, NEVER)  # time of the newest reading
        self._changed = np.full(n, NEVER)  # time since when the value is what it is; NEVER: begins with the next good reading
        self._bad = np.full(n, NEVER)  # time since when there have been only bad readings
        self._arrived = np.full(n, NEVER)  # gateway time of the newest reading
        self._due = np.full(n, _FOREVER)  # gateway time from which the next reading is overdue
        self._seq = np.full(n, -1, dtype=np.int64)  # of the newest reading
        # Gateway time as seen in the rows, never decreasing, and the one seen before it: rows of one poll bear the same time,
        # and whether a tag is overdue must not hang on which of them comes first.
        self._clock = np.full(2, NEVER)

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        return self.take(decode(batch)) if batch.num_rows else self._tick(now)

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        gateway = readings.gateway_time()
        start = int(self._clock[0])
        with np.errstate(all="ignore"):
            if self._pace is not None:
                steady = self._steady(readings, gateway, self._pace)
                if steady is not None:
                    return [self._rows.quiet(readings, None if steady is _ALL_ZERO else steady)]
                self._leave_pace()
            if start != NEVER and int(gateway.max()) - start <= self._jump_us:
                return self._segment(readings, gateway)
            running = np.maximum.accumulate(np.append(start, gateway))
            steps = np.diff(running) if start != NEVER else np.append(0, np.diff(running[1:]))
            cuts = np.flatnonzero(steps > self._jump_us).tolist()
            found = []
            for first, last in zip([0, *cuts], [*cuts, len(readings)], strict=True):
                if first in cuts[:1] or first > 0:
                    self._skip(int(steps[first]))
                if last > first:
                    part = readings if last - first == len(readings) else decode(readings.batch.slice(first, last - first))
                    found += self._segment(part, gateway[first:last])
            return found

    def _tick(self, now: int) -> list[pa.RecordBatch]:
        """Time passes without a reading."""
        step = now - int(self._clock[0])
        if self._clock[0] == NEVER or step <= 0:
            return []
        self._leave_pace()
        if step > self._jump_us:
            self._skip(step)
        self._clock[:] = now
        slots = np.flatnonzero(self._due <= now)
        if len(slots) == 0:
            return []
        with np.errstate(all="ignore"):
            return [self._overdue(slots, slots, np.full(len(slots), now))[1]]

    def _skip(self, step: int) -> None:
        """Nothing at all was seen for `step` µs: whoever may be silent for less than twice that long is not to blame."""
        self._due[(self._allowed_gap() < 2 * step) & (self._due < _FOREVER)] += step

    def _segment(self, readings: Readings, gateway: Times) -> list[pa.RecordBatch]:
        """Rows among which the gateway's clock never jumps."""
        plan = self.slots.plan(readings.tag)
        n = plan.count
        score, low, high = (np.full(n, np.nan) for _ in range(3))
        since = np.full(n, NEVER)
        overdue: list[tuple[Index, pa.RecordBatch]] = []
        seen = self._seen(gateway)
        end = int(self._clock[1])
        quiet = len(plan.rounds) == 1 and not (self._due <= end).any()
        usable = readings.usable
        for part in plan.rounds:
            if not quiet:
                late = np.flatnonzero(self._due[part.at] <= (end if seen is None else seen[part.rows]))
                if len(late):
                    rows = np.arange(len(readings))[part.rows][late]
                    clock = np.full(len(rows), end) if seen is None else seen[rows]
                    overdue.append(self._overdue(rows, part.slots[late], clock))
            self._round(readings, gateway, part, usable, score, low, high, since)
        silent = np.flatnonzero(self._due <= end)
        if len(silent):
            overdue.append(self._overdue(np.full(len(silent), len(readings)), silent, np.full(len(silent), end)))
        if seen is None and usable is None and plan.rows is None and n == len(self.slots) and len(plan.rounds) == 1:
            self._find_pace(plan.rounds[0].at, readings)
        own = [] if n == 0 else [self._reading_rows(readings, plan.rows, score, low, high, since)]
        if not overdue:
            return own
        rows = np.arange(n) if plan.rows is None else plan.rows
        # An overdue row stands before the batch row that it precedes: -0.5 sorts it there.
        order = np.argsort(np.concatenate([rows.astype(np.float64), *(before - 0.5 for before, _ in overdue)]), kind="stable")
        return [
            pa.Table.from_batches([*own, *(made for _, made in overdue)]).combine_chunks().to_batches()[0].take(pa.array(order))
        ]

    def _find_pace(self, at: slice | Index, readings: Readings) -> None:
        """After a poll of all tags: are they all warm and well, so that the next poll can go the short way?"""
        config = self._config
        if config.max_rate is not None or not isinstance(at, slice) or self._any_bad:
            return
        well = (
            bool((self._warm == 0.0).all())
            and bool((self._changed != NEVER).all())
            and self._arrivals.min() >= config.min_changes
            and bool((self._last - self._first >= config.warm_up.us).all())
            and self._arrived.min() == self._arrived.max() == self._clock[0]
            and bool((self._due < _FOREVER).all() or not config.missing)
        )
        if well:
            few = self._changes < config.min_changes
            rest = np.flatnonzero(~few) if few.any() else slice(None)
            self._pace = _Pace(int(self._clock[0]), readings.newest, np.flatnonzero(few), rest)

    def _leave_pace(self) -> None:
        """Bring up to date what the short way leaves undone."""
        if self._pace is not None:
            self._catch_up(self._pace)
        self._pace = None
        if self._due_is_old:
            self._due = self._arrived + self._allowed_gap().astype(np.int64)
            self._due_is_old = False

    def _catch_up(self, pace: _Pace) -> None:
        """Write down the polls that were only counted."""
        if pace.polls:
            self._changes[pace.rest] += float(pace.polls)
            self._hold[pace.rest] = pace.hold
            self._changed[pace.rest] = pace.newest
            self._arrivals += float(pace.polls)
            self._gap.fill(pace.gap)
            self._last.fill(pace.newest)
            self._arrived.fill(pace.arrived)
            np.copyto(self._value, pace.value)
            np.copyto(self._seq, pace.seq)
            pace.polls = 0

    def _steady(self, readings: Readings, gateway: Times, pace: _Pace) -> Floats | None:
        """The short way: a poll of all tags in which nothing is bad, late, overdue or stuck. None, and nothing done, for any other.

        Returns the scores, `_ALL_ZERO` where every value has changed. The state afterwards is bit for bit what the long way leaves.
        """
        plan = self.slots.plan(readings.tag)
        if (
            readings.usable is not None
            or readings.active is not None
            or plan.rows is not None
            or plan.count != len(self.slots)
            or len(plan.rounds) != 1
            or not isinstance(plan.rounds[0].at, slice)
            or readings.oldest <= pace.newest
        ):
            return None
        now = int(gateway[0])
        alike = readings.oldest == readings.newest if gateway is readings.time else bool((gateway == now).all())
        if not alike or not 0 < now - pace.arrived <= self._jump_us:
            return None
        time, value = readings.time, readings.value
        same = value == (pace.value if pace.polls else self._value)
        if len(pace.few) and not same[pace.few].all():
            return None  # one that never changed does
        held_still = np.count_nonzero(same)
        even = readings.oldest == readings.newest and held_still == len(pace.few)
        if even and pace.even and pace.one:
            if pace.polls == 0:
                pace.hold, pace.gap = float(self._hold[pace.rest][0]), float(self._gap[0])
            held, seen = float(readings.newest - pace.newest), float(now - pace.arrived)
            pace.hold = max(pace.hold * _FORGET, min(held, 2.0 * pace.hold))
            pace.gap = max(pace.gap * _FORGET, min(seen, 2.0 * pace.gap))
            pace.polls += 1
            pace.value, pace.seq, pace.arrived, pace.newest = value, readings.seq, now, readings.newest
            self._clock[:] = now, self._clock[0]
            self._due_is_old = self._config.missing
            return self._none_held(pace)
        self._catch_up(pace)
        flat = np.flatnonzero(same) if held_still else _NONE
        score = self._none_held(pace)
        if held_still > len(pace.few):
            score = np.zeros(len(value))
            lasted = (time[flat] - self._changed[flat]).astype(np.float64)
            score[flat] = 1.0 - np.exp(_DECAY * lasted / np.maximum(self._least[flat], self._config.factor * self._hold[flat]))
            score[pace.few] = np.nan
            if (score >= _LIMIT).any():
                return None
        kept = self._hold[flat], self._changes[flat], self._changed[flat]
        if pace.even and readings.oldest == readings.newest:
            since: Floats | float = float(readings.newest - pace.newest)
        else:
            since = (time - self._changed).astype(np.float64)
        _stretch(self._hold, since)
        self._changes += 1.0
        np.copyto(self._changed, time)
        self._hold[flat], self._changes[flat], self._changed[flat] = kept
        np.copyto(self._value, value)

        _stretch(self._gap, float(now - pace.arrived))
        self._arrivals += 1.0
        self._arrived.fill(now)
        np.copyto(self._last, time)
        np.copyto(self._seq, readings.seq)
        self._due_is_old = self._config.missing
        self._clock[:] = now, self._clock[0]
        pace.arrived, pace.newest, pace.even = now, readings.newest, even
        pace.one = even and _is_one(self._hold[pace.rest]) and _is_one(self._gap)
        return score

    def _none_held(self, pace: _Pace) -> Floats:
        """The scores of a poll in which every value has changed but those that never do."""
        if len(pace.few) == 0:
            return _ALL_ZERO
        if len(pace.blank) == 0:
            pace.blank = np.zeros(len(self.slots))
            pace.blank[pace.few] = np.nan
        return pace.blank

    def _seen(self, gateway: Times) -> Times | None:
        """The time before the newest one at each row, int64[n]; None when the rows share one time: then it is `clock[1]`.

        The clock is moved on behind the last row.
        """
        newest, oldest = int(gateway.max()), int(gateway.min())
        if newest == oldest:  # a poll
            if newest > self._clock[0]:
                self._clock[:] = newest, max(self._clock)
            return None
        running = np.maximum.accumulate(np.append(self._clock[0], gateway))
        before = np.where(np.diff(running) > 0, running[:-1], NEVER)
        before[0] = max(before[0], self._clock[1])
        seen: Times = np.maximum.accumulate(before)
        self._clock[:] = running[-1], seen[-1]
        return seen

    def _round(
        self, readings: Readings, gateway: Times, part: Round, usable: Bools | None, score: Floats, low: Floats, high: Floats, since: Times
    ) -> None:  # fmt: skip
        at, rows = part.at, part.rows
        time, arrived = readings.time[rows], gateway[rows]
        fresh = time > self._last[at]
        if usable is None and bool(fresh.all()):
            self._take(part.slots, time, readings.value[rows], part.out, score, low, high, since, at)
            self._arrive(part.slots, at, arrived, time, readings.seq[rows])
            return
        back = (time < self._last[at]) & ~readings.backfilled()[rows]
        if back.any():
            self._set_back(part.slots[back], time[back])
        good = fresh if usable is None else fresh & usable[rows]
        quality = readings.quality[rows]
        bad = q.is_bad(quality)
        paused = bad & np.isin(quality & np.uint32(0xFFFF_0000), _AWAY)
        if readings.active is not None:
            paused |= ~readings.active[rows]
        bad &= ~paused
        out = np.arange(len(score))[part.out]
        taken = np.flatnonzero(good)
        if len(taken):
            slots = part.slots[taken]
            self._take(slots, time[taken], readings.value[rows][taken], out[taken], score, low, high, since, slots)
        worse = np.flatnonzero(bad)
        if len(worse):
            self._take_bad(part.slots[worse], time[worse], out[worse], score, since)
        self._changed[part.slots[bad | paused]] = NEVER
        self._bad[part.slots[paused]] = NEVER
        self._arrive(part.slots, at, arrived, np.maximum(time, self._last[at]), readings.seq[rows])
        self._due[part.slots[paused]] = _FOREVER

    def _set_back(self, slots: Index, time: Times) -> None:
        """Live rows older than what was seen: the source's clock was set back, or they are late. The watch begins anew there."""
        shift = time - self._last[slots]
        self._first[slots] = np.where(self._first[slots] == NEVER, NEVER, self._first[slots] + shift)
        self._last[slots] = time
        self._changed[slots] = NEVER
        self._bad[slots] = NEVER

    def _take(
        self, slots: Index, time: Times, value: Floats, out: slice | Index, score: Floats, low: Floats, high: Floats, since: Times, at: slice | Index
    ) -> None:  # fmt: skip
        """Good readings in order, one per slot."""
        config = self._config
        before, changed_at, hold, changes = self._value[at], self._changed[at], self._hold[at], self._changes[at]
        unknown = changed_at == NEVER  # first reading, or the first one behind a pause: nothing to compare with
        resumed = bool(unknown.any())
        same = value == before
        if resumed:
            same &= ~unknown
        flat = np.flatnonzero(same)
        held = (time - changed_at).astype(np.float64)
        few = np.flatnonzero(changes < config.min_changes)
        found = self._floor(at, slots, time)
        found[few] = np.nan
        if len(flat):
            allowed = np.maximum(self._least[slots[flat]], config.factor * hold[flat])
            found[flat] += 1.0 - np.exp(_DECAY * held[flat] / allowed)
        if config.max_rate is not None:
            reach = config.max_rate * (time - self._last[at]) / 1e6
            jumped = ~unknown & (np.abs(value - before) > reach) & ~np.isnan(self._warm[at])
            found[jumped] = 1.0
            low[out], high[out] = np.where(jumped, before - reach, np.nan), np.where(jumped, before + reach, np.nan)
        score[out] = found
        if len(flat):
            since[out] = np.where((found >= _LIMIT) & same, changed_at, NEVER)

        longest = np.minimum(held, 2.0 * hold)  # one fault must not blind it
        longest[few] = held[few]
        np.maximum(hold * _FORGET, longest, out=longest)
        if resumed or len(flat):
            moved = ~(same | unknown)
            self._hold[at] = np.where(moved, longest, hold)
            self._changes[at] = changes + moved
            self._changed[at] = np.where(same, changed_at, time)
        else:
            self._hold[at], self._changed[at] = longest, time
            self._changes[at] = changes + 1.0
        self._value[at] = value
        if self._any_bad:
            self._bad[slots] = NEVER
            self._any_bad = bool((self._bad != NEVER).any())

    def _floor(self, at: slice | Index, slots: Index, time: Times) -> Floats:
        """A copy of `_warm`: 0 where a slot is warm at its `time`, else NaN."""
        warm: Floats = self._warm[at].copy()
        cold = np.flatnonzero(np.isnan(warm))
        if len(cold):
            which = slots[cold]
            first = self._first[which]
            first = np.where(first == NEVER, time[cold], first)
            self._first[which] = first
            warm[cold] = self._warm[which] = np.where(time[cold] - first >= self._config.warm_up.us, 0.0, np.nan)
        return warm

    def _take_bad(self, slots: Index, time: Times, out: Index, score: Floats, since: Times) -> None:
        """Bad readings of a device that is there."""
        began = self._bad[slots]
        began = np.where(began == NEVER, time, began)
        self._bad[slots] = began
        self._any_bad = True
        first = self._first[slots]
        warm = (first != NEVER) & (time - first >= self._config.warm_up.us)
        found = 1.0 - np.exp(_DECAY * (time - began) / self._least[slots])
        score[out] = np.where(warm, found, np.nan)
        since[out] = np.where(warm & (found >= _LIMIT), began, NEVER)

    def _arrive(self, slots: Index, at: slice | Index, arrived: Times, time: Times, seq: Times) -> None:
        config = self._config
        before, arrivals, gap, due = self._arrived[at], self._arrivals[at], self._gap[at], self._due[at]
        if not arrived.min() >= before.max():
            arrived = np.maximum(arrived, before)
        seen = (arrived - before).astype(np.float64)
        if due.max(initial=0) >= _FOREVER:  # paused until now: that was no gap
            seen[due >= _FOREVER] = 0.0
        # A judged tag is not blinded by one long fault; pauses before that are how the tag is.
        judged = (arrivals >= config.min_changes) & (self._last[at] - self._first[at] >= config.warm_up.us)
        usual = np.minimum(seen, np.where(judged, 2.0 * gap, np.inf))
        gap = np.maximum(gap * _FORGET, usual)
        self._arrived[at], self._gap[at], self._arrivals[at] = arrived, gap, arrivals + 1.0
        self._last[at], self._seq[at] = time, seq
        if config.missing:
            self._due[at] = arrived + np.maximum(self._least[at], config.factor * gap).astype(np.int64)

    def _allowed_gap(self) -> Floats:
        return np.maximum(self._least, self._config.factor * self._gap)

    def _overdue(self, before: Index, slots: Index, clock: Times) -> tuple[Index, pa.RecordBatch]:
        """Rows for readings that did not come: one per allowed time that has passed at `clock` and was not told yet.

        `before` are the batch rows that they precede; it comes back beside the rows, repeated alike.
        """
        limit = self._allowed_gap()[slots]
        allowed = limit.astype(np.int64)
        first_due = self._due[slots]
        number = (clock - first_due) // allowed + 1
        self._due[slots] = first_due + number * allowed
        nth = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
        due = np.repeat(first_due, number) + nth * np.repeat(allowed, number)
        first = self._first[slots]
        warm = (first != NEVER) & (self._last[slots] - first >= self._config.warm_up.us)
        steady = self._gap[slots] <= self._least[slots]
        known = np.repeat(steady & warm & (self._arrivals[slots] >= self._config.min_changes), number)
        slots, before, due, limit = (
            each[known] for each in (*(np.repeat(a, number) for a in (slots, before)), due, np.repeat(limit, number))
        )
        lasted, last = due - self._arrived[slots], self._last[slots]
        score = np.maximum(1.0 - np.exp(_DECAY * lasted / limit), _LIMIT)
        nothing = np.full(len(slots), np.nan)
        made = self._rows.at(
            last + lasted, self._seq[slots], self.slots.ids[slots], nothing, score, nothing, nothing, last
        )  # fmt: skip
        return before, made

    def _reading_rows(
        self, readings: Readings, rows: Index | None, score: Floats, low: Floats, high: Floats, since: Times
    ) -> pa.RecordBatch:
        if not (since != NEVER).any():
            return self._rows.of(readings, rows, score, low, high)
        at = slice(None) if rows is None else rows
        return self._rows.at(
            readings.time[at], readings.seq[at], readings.tag[at].astype(np.intp), readings.value[at], score, low, high, since
        )  # fmt: skip

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        lasted = span(row.time_us - row.since_us) if row.since_us is not None else ""
        if np.isfinite(row.low):
            return f"{tag.display} jumped to {quantity(row.value, tag)}, faster than it can change"
        if np.isfinite(row.value):
            return f"{tag.display} has not changed for {lasted}, it stays at {quantity(row.value, tag)}"
        return f"{tag.display} has sent no new good value for {lasted}"

    def _arrays(self) -> dict[str, Floats | Times]:
        return {
            "value": self._value, "hold": self._hold, "changes": self._changes, "gap": self._gap, "arrivals": self._arrivals,
            "warm": self._warm, "first": self._first, "last": self._last, "changed": self._changed, "bad": self._bad, "arrived": self._arrived,
            "due": self._due, "seq": self._seq,
        }  # fmt: skip

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        self._leave_pace()
        return pack(self.kind, self.version, "", {"ids": self.slots.ids, "clock": self._clock, **self._arrays()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel."""
        self._leave_pace()
        stored = unpack(state, self.kind, self.version, "")
        clock, ids = stored.pop("clock", None), stored.get("ids")
        mine = self._arrays()
        if clock is None or ids is None or stored.keys() != {"ids", *mine} or any(a.shape != ids.shape for a in stored.values()):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        slots = self.slots.of(np.clip(ids, -1, 2**31 - 1).astype(np.int32))
        known = slots >= 0
        for name, array in mine.items():
            array[slots[known]] = stored[name][known]
        self._clock[:] = clock
        self._any_bad = bool((self._bad != NEVER).any())


def _is_one(numbers: Floats) -> bool:
    return len(numbers) > 0 and bool(numbers.min() == numbers.max())


def _stretch(longest: Floats, seen: Floats | float) -> None:
    """max(longest · forget, min(seen, 2 · longest)) in place: one fault must not blind it."""
    if isinstance(seen, float) and seen <= 2.0 * longest.min() and longest.max() * _FORGET <= seen:
        longest.fill(seen)
        return
    most = np.minimum(seen, 2.0 * longest)
    longest *= _FORGET
    np.maximum(longest, most, out=longest)


PLUGIN: Plugin[StuckConfig, EdgeModel] = Plugin(StuckConfig, Stuck)
