"""`stuck`: has a sensor stopped telling the truth: frozen value, no readings, only bad readings, an impossible jump?"""

from __future__ import annotations

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
from .stuck_pace import ALL_ZERO, Pace
from .stuck_state import DECAY, FOREVER, FORGET, LIMIT, State

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
        self._s = State(
            least, factor=config.factor, warm_up_us=config.warm_up.us, min_changes=config.min_changes, missing=config.missing
        )
        self._jump_us = int(least.min(initial=float(config.at_least) if n == 0 else np.inf)) // 2  # no shorter step matters
        self._rows = ScoreRows(context.name, config.alarm.name or context.name, LIMIT)
        self._any_bad = False
        self._pace: Pace | None = None

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        return self.take(decode(batch)) if batch.num_rows else self._tick(now)

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        gateway = readings.gateway_time()
        start = int(self._s.clock[0])
        with np.errstate(all="ignore"):
            if self._pace is not None:
                steady = self._steady(readings, gateway, self._pace)
                if steady is not None:
                    return [steady]
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
        step = now - int(self._s.clock[0])
        if self._s.clock[0] == NEVER or step <= 0:
            return []
        self._leave_pace()
        if step > self._jump_us:
            self._skip(step)
        self._s.clock[:] = now
        slots = np.flatnonzero(self._s.due <= now)
        if len(slots) == 0:
            return []
        with np.errstate(all="ignore"):
            return [self._overdue(slots, slots, np.full(len(slots), now))[1]]

    def _skip(self, step: int) -> None:
        """Nothing at all was seen for `step` µs: whoever may be silent for less than twice that long is not to blame."""
        self._s.due[(self._s.allowed_gap() < 2 * step) & (self._s.due < FOREVER)] += step

    def _segment(self, readings: Readings, gateway: Times) -> list[pa.RecordBatch]:
        """Rows among which the gateway's clock never jumps."""
        plan = self.slots.plan(readings.tag)
        n = plan.count
        score, low, high = (np.full(n, np.nan) for _ in range(3))
        since = np.full(n, NEVER)
        overdue: list[tuple[Index, pa.RecordBatch]] = []
        seen = self._seen(gateway)
        end = int(self._s.clock[1])
        quiet = len(plan.rounds) == 1 and not (self._s.due <= end).any()
        usable = readings.usable
        for part in plan.rounds:
            if not quiet:
                late = np.flatnonzero(self._s.due[part.at] <= (end if seen is None else seen[part.rows]))
                if len(late):
                    rows = np.arange(len(readings))[part.rows][late]
                    clock = np.full(len(rows), end) if seen is None else seen[rows]
                    overdue.append(self._overdue(rows, part.slots[late], clock))
            self._round(readings, gateway, part, usable, score, low, high, since)
        silent = np.flatnonzero(self._s.due <= end)
        if len(silent):
            overdue.append(self._overdue(np.full(len(silent), len(readings)), silent, np.full(len(silent), end)))
        if seen is None and plan.rows is None and n == len(self.slots) and len(plan.rounds) == 1:
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
        """After a poll of all tags: can the next one go the short way?"""
        if self._config.max_rate is None and isinstance(at, slice):
            self._pace = Pace.of(self._s, readings.newest)

    def _leave_pace(self) -> None:
        """Bring up to date what the short way leaves undone."""
        if self._pace is not None:
            self._pace.leave()
        self._pace = None

    def _steady(self, readings: Readings, gateway: Times, pace: Pace) -> pa.RecordBatch | None:
        """The short way. None, and nothing done, for a batch that cannot go it."""
        plan = self.slots.plan(readings.tag)
        apart = pace.stand_apart(readings, gateway, plan, self._jump_us)
        score = None if apart is None else pace.take(readings, int(gateway[0]), apart)
        if apart is None or score is None:
            return None
        if len(apart) == 0:
            return self._rows.quiet(readings, None if score is ALL_ZERO else score)
        since = np.full(len(score), NEVER)
        no_band = np.zeros(0)  # only `max_rate` gives one
        self._round(readings, gateway, Round(apart, apart, apart, apart), readings.usable, score, no_band, no_band, since)
        pace.rejoin(apart)
        return self._reading_rows(readings, None, score, no_band, no_band, since)

    def _seen(self, gateway: Times) -> Times | None:
        """The time before the newest one at each row, int64[n]; None when the rows share one time: then it is `clock[1]`.

        The clock is moved on behind the last row.
        """
        newest, oldest = int(gateway.max()), int(gateway.min())
        if newest == oldest:  # a poll
            if newest > self._s.clock[0]:
                self._s.clock[:] = newest, max(self._s.clock)
            return None
        running = np.maximum.accumulate(np.append(self._s.clock[0], gateway))
        before = np.where(np.diff(running) > 0, running[:-1], NEVER)
        before[0] = max(before[0], self._s.clock[1])
        seen: Times = np.maximum.accumulate(before)
        self._s.clock[:] = running[-1], seen[-1]
        return seen

    def _round(
        self, readings: Readings, gateway: Times, part: Round, usable: Bools | None, score: Floats, low: Floats, high: Floats, since: Times
    ) -> None:  # fmt: skip
        at, rows = part.at, part.rows
        time, arrived = readings.time[rows], gateway[rows]
        fresh = time > self._s.last[at]
        if usable is None and bool(fresh.all()):
            self._take(part.slots, time, readings.value[rows], part.out, score, low, high, since, at)
            self._arrive(part.slots, at, arrived, time, readings.seq[rows])
            return
        back = time < self._s.last[at]
        if back.any() and (back := back & ~readings.backfilled()[rows]).any():
            self._set_back(part.slots[back], time[back])
        good = fresh if usable is None else fresh & usable[rows]
        quality = readings.quality[rows]
        bad = q.is_bad(quality)
        paused = np.zeros(len(bad), dtype=bool)
        paused[bad] = ((quality[bad] & np.uint32(0xFFFF_0000))[:, None] == _AWAY).any(axis=1)
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
        self._s.changed[part.slots[bad | paused]] = NEVER
        self._s.bad[part.slots[paused]] = NEVER
        self._arrive(part.slots, at, arrived, np.maximum(time, self._s.last[at]), readings.seq[rows])
        self._s.due[part.slots[paused]] = FOREVER

    def _set_back(self, slots: Index, time: Times) -> None:
        """Live rows older than what was seen: the source's clock was set back, or they are late. The watch begins anew there."""
        shift = time - self._s.last[slots]
        self._s.first[slots] = np.where(self._s.first[slots] == NEVER, NEVER, self._s.first[slots] + shift)
        self._s.last[slots] = time
        self._s.changed[slots] = NEVER
        self._s.bad[slots] = NEVER

    def _take(
        self, slots: Index, time: Times, value: Floats, out: slice | Index, score: Floats, low: Floats, high: Floats, since: Times, at: slice | Index
    ) -> None:  # fmt: skip
        """Good readings in order, one per slot."""
        config = self._config
        before, changed_at, hold, changes = self._s.value[at], self._s.changed[at], self._s.hold[at], self._s.changes[at]
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
            found[flat] += 1.0 - np.exp(DECAY * held[flat] / self._s.allowed_hold(slots[flat]))
        if config.max_rate is not None:
            reach = config.max_rate * (time - self._s.last[at]) / 1e6
            jumped = ~unknown & (np.abs(value - before) > reach) & ~np.isnan(self._s.warm[at])
            found[jumped] = 1.0
            low[out], high[out] = np.where(jumped, before - reach, np.nan), np.where(jumped, before + reach, np.nan)
        score[out] = found
        if len(flat):
            since[out] = np.where((found >= LIMIT) & same, changed_at, NEVER)

        longest = np.minimum(held, 2.0 * hold)  # one fault must not blind it
        longest[few] = held[few]
        np.maximum(hold * FORGET, longest, out=longest)
        if resumed or len(flat):
            moved = ~(same | unknown)
            self._s.hold[at] = np.where(moved, longest, hold)
            self._s.changes[at] = changes + moved
            self._s.changed[at] = np.where(same, changed_at, time)
        else:
            self._s.hold[at], self._s.changed[at] = longest, time
            self._s.changes[at] = changes + 1.0
        self._s.value[at] = value
        if self._any_bad:
            self._s.bad[slots] = NEVER
            self._any_bad = bool((self._s.bad != NEVER).any())

    def _floor(self, at: slice | Index, slots: Index, time: Times) -> Floats:
        """A copy of `_warm`: 0 where a slot is warm at its `time`, else NaN."""
        warm: Floats = self._s.warm[at].copy()
        cold = np.flatnonzero(np.isnan(warm))
        if len(cold):
            which = slots[cold]
            first = self._s.first[which]
            first = np.where(first == NEVER, time[cold], first)
            self._s.first[which] = first
            warm[cold] = self._s.warm[which] = np.where(time[cold] - first >= self._config.warm_up.us, 0.0, np.nan)
        return warm

    def _take_bad(self, slots: Index, time: Times, out: Index, score: Floats, since: Times) -> None:
        """Bad readings of a device that is there."""
        began = self._s.bad[slots]
        began = np.where(began == NEVER, time, began)
        self._s.bad[slots] = began
        self._any_bad = True
        first = self._s.first[slots]
        warm = (first != NEVER) & (time - first >= self._config.warm_up.us)
        found = 1.0 - np.exp(DECAY * (time - began) / self._s.least[slots])
        score[out] = np.where(warm, found, np.nan)
        since[out] = np.where(warm & (found >= LIMIT), began, NEVER)

    def _arrive(self, slots: Index, at: slice | Index, arrived: Times, time: Times, seq: Times) -> None:
        config = self._config
        before, arrivals, gap, due = self._s.arrived[at], self._s.arrivals[at], self._s.gap[at], self._s.due[at]
        if not arrived.min() >= before.max():
            arrived = np.maximum(arrived, before)
        seen = (arrived - before).astype(np.float64)
        if due.max(initial=0) >= FOREVER:  # paused until now: that was no gap
            seen[due >= FOREVER] = 0.0
        # A judged tag is not blinded by one long fault; pauses before that are how the tag is.
        usual = np.minimum(seen, np.where(self._s.judged(at), 2.0 * gap, np.inf))
        gap = np.maximum(gap * FORGET, usual)
        self._s.arrived[at], self._s.gap[at], self._s.arrivals[at] = arrived, gap, arrivals + 1.0
        self._s.last[at], self._s.seq[at] = time, seq
        if config.missing:
            self._s.due[at] = arrived + self._s.allowed_gap(at).astype(np.int64)

    def _overdue(self, before: Index, slots: Index, clock: Times) -> tuple[Index, pa.RecordBatch]:
        """Rows for readings that did not come: one per allowed time that has passed at `clock` and was not told yet.

        `before` are the batch rows that they precede; it comes back beside the rows, repeated alike.
        """
        limit = self._s.allowed_gap(slots)
        allowed = limit.astype(np.int64)
        first_due = self._s.due[slots]
        number = (clock - first_due) // allowed + 1
        self._s.due[slots] = first_due + number * allowed
        nth = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
        due = np.repeat(first_due, number) + nth * np.repeat(allowed, number)
        steady = self._s.gap[slots] <= self._s.least[slots]
        known = np.repeat(steady & self._s.judged(slots), number)
        slots, before, due, limit = (
            each[known] for each in (*(np.repeat(a, number) for a in (slots, before)), due, np.repeat(limit, number))
        )
        lasted, last = due - self._s.arrived[slots], self._s.last[slots]
        score = np.maximum(1.0 - np.exp(DECAY * lasted / limit), LIMIT)
        nothing = np.full(len(slots), np.nan)
        made = self._rows.at(
            last + lasted, self._s.seq[slots], self.slots.ids[slots], nothing, score, nothing, nothing, last
        )  # fmt: skip
        return before, made

    def _reading_rows(
        self, readings: Readings, rows: Index | None, score: Floats, low: Floats, high: Floats, since: Times
    ) -> pa.RecordBatch:
        if not (since != NEVER).any():
            if rows is None and self._config.max_rate is None:
                return self._rows.quiet(readings, score)
            return self._rows.of(readings, rows, score, low, high)
        if len(low) == 0:
            low = high = np.full(len(score), np.nan)
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

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        self._leave_pace()
        return pack(self.kind, self.version, "", {"ids": self.slots.ids, "clock": self._s.clock, **self._s.arrays()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel."""
        self._leave_pace()
        stored = unpack(state, self.kind, self.version, "")
        clock, ids = stored.pop("clock", None), stored.get("ids")
        mine = self._s.arrays()
        if clock is None or ids is None or stored.keys() != {"ids", *mine} or any(a.shape != ids.shape for a in stored.values()):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        slots = self.slots.of(np.clip(ids, -1, 2**31 - 1).astype(np.int32))
        known = slots >= 0
        for name, array in mine.items():
            array[slots[known]] = stored[name][known]
        self._s.clock[:] = clock
        self._any_bad = bool((self._s.bad != NEVER).any())


PLUGIN: Plugin[StuckConfig, EdgeModel] = Plugin(StuckConfig, Stuck)
