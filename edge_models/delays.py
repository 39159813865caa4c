"""From scores to the rows at which an alarm comes or goes, for many subjects at once: N of M, delays, hysteresis, peak-first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .base import AlarmConfig, votes
from .slots import Bools, Floats, Index, Times

IDLE: Final = 0  # normal
PENDING: Final = 1  # abnormal for less than on_delay
ACTIVE: Final = 2  # in alarm
LEAVING: Final = 3  # in alarm, normal for less than off_delay
What = Literal["comes", "held", "peaks", "due", "goes"]
Waits = tuple[int, int, int, int, int, bool, float, float, int]
"""state, t0, onset_seq, onset_time, bits, held, bar, peak, rest_until of one subject."""
_FEW: Final = 32  # rows that are sooner followed one by one than sifted
_CLEARLY: Final = 10.0  # a peak is clearly higher when it is so many times less likely


@dataclass(frozen=True, slots=True)
class Turn:
    """At this row of the batch something happens to the alarm of this subject.

    `comes`: it is there. `held`: it is there, soon after the one before and not clearly higher. `due`: one that was held is no longer
    soon after. `peaks`: its score is clearly higher than at the last turn. `goes`: it is over.
    """

    row: int
    subject: int
    what: What
    onset_seq: int
    onset_time: int


class Delays:
    """The state of one alarm for subjects 0 … size-1. Waiting is measured in the time of the rows.

    A score at or above its limit is abnormal, one below the limit less the hysteresis is normal, one between keeps what was, and
    NaN says nothing. With `count: n of m` it is abnormal while n of the last m scores are, and normal when fewer are and the last
    is. A time that runs backwards (a clock was set) begins a wait anew. 26 bytes a subject, 8 more with `count`, 25 more with
    `peaks`, and 8 for each setting in which tags differ.
    """

    def __init__(
        self, size: int, config: AlarmConfig, *, of: Callable[[int], AlarmConfig] | None = None, peaks: bool = False
    ) -> None:
        """`of` gives the settings of a subject where they differ. With `peaks` turns of peaks are told and `peak_first` holds back."""
        self._config, self._of, self._peaks = config, of, peaks
        self.state = np.zeros(0, dtype=np.int8)
        self.busy: Bools = np.zeros(0, dtype=bool)  # not idle, or an abnormal score among the last m
        self.t0 = np.zeros(0, dtype=np.int64)  # since when it has been pending or leaving
        self.onset_seq = np.zeros(0, dtype=np.int64)
        self.onset_time = np.zeros(0, dtype=np.int64)
        self.bits = np.zeros(0, dtype=np.uint64)  # of the last 64 scores, the newest lowest: was it abnormal?
        self.held: Bools = np.zeros(0, dtype=bool)
        self.bar = np.zeros(0)  # a score from here on is a peak
        self.peak = np.zeros(0)  # highest score of the occurrence, or of the one that has gone
        self.rest_until = np.zeros(0, dtype=np.int64)
        self._settings: dict[str, npt.NDArray[np.int64] | Floats | int | float] = _settings(config)
        self._busy = 0
        self._counting = False
        self.grow(size)

    def grow(self, size: int) -> None:
        """Room for at least `size` subjects."""
        old, more = len(self.state), size - len(self.state)
        if more <= 0:
            return
        names = ["state", "busy", "t0", "onset_seq", "onset_time"]
        self._settings = self._settled(old, size)
        counting = bool(np.any(np.asarray(self._settings["many"]) > 1))
        if counting and not self._counting:
            self.bits, self._counting = np.zeros(old, dtype=np.uint64), True
        names += ["bits"] * self._counting + ["held", "bar", "peak", "rest_until"] * self._peaks
        for name in names:
            array = getattr(self, name)
            setattr(self, name, np.append(array, np.zeros(more, dtype=array.dtype)))

    def _settled(self, old: int, size: int) -> dict[str, npt.NDArray[np.int64] | Floats | int | float]:
        plain = _settings(self._config)
        if self._of is None:
            return plain
        each = [_settings(self._of(subject)) for subject in range(old, size)]
        found: dict[str, npt.NDArray[np.int64] | Floats | int | float] = {}
        for name, usual in plain.items():
            new = np.array([one[name] for one in each])
            before = self._settings[name]
            if isinstance(before, np.ndarray) or (new != usual).any():
                whole = before if isinstance(before, np.ndarray) else np.full(old, usual)
                found[name] = np.append(whole, new)
            else:
                found[name] = usual
        return found

    def _for(self, name: str, subject: Index) -> npt.NDArray[np.int64] | Floats | int | float:
        setting = self._settings[name]
        return setting[subject] if isinstance(setting, np.ndarray) else setting

    def _one(self, name: str, at: int) -> float:
        setting = self._settings[name]
        return setting[at].item() if isinstance(setting, np.ndarray) else setting

    def is_quiet(self, score: Floats, least: float) -> bool:
        """True when nothing is waiting and no score reaches the `least` of the limits: then there is nothing to do."""
        if self._busy:
            return False
        return bool(score.max(initial=-np.inf) < least) or not (score >= least).any()  # a NaN is neither

    def turns(
        self, subject: Index, seq: npt.NDArray[np.int64], time: Times, score: Floats, limit: Floats, shut: Bools | None
    ) -> list[Turn]:
        """Take n rows in order. `shut` marks rows whose gate is shut: there an alarm goes at once and none comes."""
        above = score >= limit
        concerned = self.busy.copy()
        concerned[subject[above]] = True
        rows = np.flatnonzero(concerned[subject])  # the other subjects are normal and were
        if not len(rows):
            return []
        subject, seq, time, score, limit, above = subject[rows], seq[rows], time[rows], score[rows], limit[rows], above[rows]
        known = ~np.isnan(score)
        normal = score < limit - self._for("hysteresis", subject)
        shut = np.zeros(len(score), dtype=bool) if shut is None else shut[rows]
        above, normal = above & ~shut, normal & ~shut
        if self._counting:
            above, normal = self._count(subject, above, normal, known, shut)
        chosen = np.ones(len(rows), dtype=bool)
        if len(rows) > _FEW:
            moving = np.zeros(len(self.state), dtype=bool)
            moving[subject[self._moves(subject, time, score, above, normal, known, shut)]] = True
            chosen = moving[subject]
        if self._peaks and len(rows) > _FEW:
            stays = ~chosen & known & (self.state[subject] >= ACTIVE)
            np.maximum.at(self.peak, subject[stays], score[stays])
        # Whoever moves is followed row by row; no row of this batch changes anything for the others.
        turns = []
        for row, at, t, s, value, is_above, is_normal, is_shut, is_known in zip(
            rows[chosen].tolist(), subject[chosen].tolist(), time[chosen].tolist(), seq[chosen].tolist(), score[chosen].tolist(),
            above[chosen].tolist(), normal[chosen].tolist(), shut[chosen].tolist(), known[chosen].tolist(), strict=True,
        ):  # fmt: skip
            what = self._shut(at, t) if is_shut else self._step(at, t, s, value, is_above, is_normal) if is_known else None
            if what is not None:
                turns.append(Turn(row, at, what, int(self.onset_seq[at]), int(self.onset_time[at])))
        return turns

    def _moves(self, subject: Index, time: Times, score: Floats, above: Bools, normal: Bools, known: Bools, shut: Bools) -> Bools:
        """Rows that would change the state that is there before the batch."""
        state, waited = self.state[subject], time - self.t0[subject]
        moves: Bools = (
            ((state == IDLE) & above)
            | ((state == PENDING) & (normal | shut | (waited < 0) | (above & (waited >= self._for("on_us", subject)))))
            | ((state == ACTIVE) & (normal | shut))
            | (
                (state == LEAVING)
                & (shut | (waited < 0) | (normal & (waited >= self._for("off_us", subject))) | (known & ~normal))
            )
        )
        if self._peaks:
            rests = self._resting(subject, time)
            moves |= (state >= ACTIVE) & ((score >= self.bar[subject]) | (known & self.held[subject] & ~rests))
        return moves

    def _resting(self, subject: Index, time: Times) -> Bools:
        until = self.rest_until[subject]
        rests: Bools = (time < until) & (time >= until - self._for("rest_us", subject))
        return rests

    def _count(self, subject: Index, above: Bools, normal: Bools, known: Bools, shut: Bools) -> tuple[Bools, Bools]:
        """N of M: whether each row's subject is abnormal, and whether it may be normal, once the row is counted."""
        few, many = (np.broadcast_to(np.asarray(self._for(name, subject)), len(subject)) for name in ("few", "many"))
        mask = (np.uint64(1) << many.astype(np.uint64)) - np.uint64(1)
        mask[many == 64] = ~np.uint64(0)
        one, fresh = np.uint64(1), above & known
        if len(np.unique(subject)) == len(subject):
            bits = self.bits[subject]
            bits = np.where(shut, np.uint64(0), np.where(known, ((bits << one) | fresh) & mask, bits))
            self.bits[subject] = bits
        else:
            bits = np.zeros(len(subject), dtype=np.uint64)
            held: dict[int, int] = {}
            for row, (at, is_fresh, is_known, is_shut, whole) in enumerate(
                zip(subject.tolist(), fresh.tolist(), known.tolist(), shut.tolist(), mask.tolist(), strict=True)
            ):
                was = held.get(at)
                was = int(self.bits[at]) if was is None else was
                held[at] = 0 if is_shut else ((was << 1 | is_fresh) & whole) if is_known else was
                bits[row] = held[at]
            self.bits[list(held)] = np.array(list(held.values()), dtype=np.uint64)
        enough = np.bitwise_count(bits) >= few
        self._note_busy(subject)
        return enough & known & ~shut, normal & ~enough

    def _note_busy(self, subject: Index) -> None:
        was = self.busy[np.unique(subject)]
        self.busy[subject] = (self.state[subject] != IDLE) | (self.bits[subject] != 0)
        self._busy += int(np.count_nonzero(self.busy[np.unique(subject)])) - int(np.count_nonzero(was))

    def _shut(self, at: int, time: int) -> What | None:
        was = self.state[at]
        if was in (ACTIVE, LEAVING):
            self._rest(at, time)
        self.put(at, IDLE)
        return "goes" if was in (ACTIVE, LEAVING) else None

    def _step(self, at: int, time: int, seq: int, score: float, above: bool, normal: bool) -> What | None:
        """One row that says something."""
        state = int(self.state[at])
        if state == IDLE:
            if not above:
                return None
            self.t0[at] = self.onset_time[at] = time
            self.onset_seq[at] = seq
            state = PENDING
        elif state == ACTIVE and normal:
            self.t0[at] = time
            state = LEAVING
        if state in (PENDING, LEAVING):
            self.t0[at] = min(time, int(self.t0[at]))
        waited = time - int(self.t0[at])
        turn: What | None = None
        if state == PENDING:
            if normal:
                state = IDLE
            elif above and waited >= self._one("on_us", at):
                state, turn = ACTIVE, self._comes(at, time, score) if self._peaks else "comes"
        elif state == LEAVING and normal:
            if waited >= self._one("off_us", at):
                state, turn = IDLE, "goes"
                self._rest(at, time)
        else:
            state = ACTIVE
        if self._peaks and turn is None and state >= ACTIVE:
            self.peak[at] = max(score, float(self.peak[at]))
            if score >= self.bar[at]:
                self.held[at], self.bar[at], turn = False, _bar(score), "peaks"
            elif self.held[at] and not self._resting(np.array([at]), np.array([time]))[0]:
                self.held[at], turn = False, "due"
        self.put(at, state)
        return turn

    def _comes(self, at: int, time: int, score: float) -> What:
        before = _bar(float(self.peak[at]))  # of the occurrence that has gone
        self.held[at] = score < before and bool(self._resting(np.array([at]), np.array([time]))[0])
        self.bar[at] = before if self.held[at] else _bar(score)
        self.peak[at] = max(score, float(self.peak[at])) if self.held[at] else score
        return "held" if self.held[at] else "comes"

    def _rest(self, at: int, time: int) -> None:
        """An occurrence is over. Only one that was told begins a rest: one that was held does not make the next one wait longer."""
        if self._peaks and not self.held[at]:
            self.rest_until[at] = time + int(self._one("rest_us", at))

    def put(self, at: int, state: int) -> None:
        """Set the state of one subject."""
        self.state[at] = state
        busy = state != IDLE or bool(self._counting and self.bits[at])
        self._busy += int(busy) - int(self.busy[at])
        self.busy[at] = busy

    def is_busy_from(self, first: int) -> bool:
        """Whether a subject from `first` on is not idle."""
        return bool(self._busy and self.busy[first:].any())

    def waiting(self, rested_us: int) -> list[tuple[int, Waits]]:
        """Everything that is not idle, or rests until later than `rested_us`, with its subject; for `put_back`."""
        wanted = self.busy if not self._peaks else self.busy | (self.rest_until > rested_us)
        found = []
        for at in np.flatnonzero(wanted).tolist():
            bits = int(self.bits[at]) if self._counting else 0
            peaks = (bool(self.held[at]), float(self.bar[at]), float(self.peak[at]), int(self.rest_until[at])) if self._peaks else (
                False, 0.0, 0.0, 0
            )  # fmt: skip
            waits = (int(self.state[at]), int(self.t0[at]), int(self.onset_seq[at]), int(self.onset_time[at]), bits, *peaks)
            found.append((at, waits))
        return found

    def put_back(self, at: int, waits: Waits) -> None:
        """Restore one subject."""
        state, t0, onset_seq, onset_time, bits, held, bar, peak, rest_until = waits
        if self._counting:
            self.bits[at] = bits
        self.put(at, state)
        self.t0[at], self.onset_seq[at], self.onset_time[at] = t0, onset_seq, onset_time
        if self._peaks:
            self.held[at], self.bar[at], self.peak[at], self.rest_until[at] = held, bar, peak, rest_until


def _bar(score: float) -> float:
    """The least score that is clearly higher than this one; none is when this one is 1 already."""
    return 1.0 - (1.0 - score) / _CLEARLY if score < 1.0 else float("inf")


def _settings(config: AlarmConfig) -> dict[str, npt.NDArray[np.int64] | Floats | int | float]:
    few, many = votes(config.count)
    return {
        "on_us": config.on_delay.us, "off_us": config.off_delay.us, "rest_us": config.peak_first.us,
        "hysteresis": config.hysteresis, "few": few, "many": many,
    }  # fmt: skip
