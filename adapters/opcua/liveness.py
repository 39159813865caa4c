"""Which tags are quiet, whether that is right, and what is to be done about those for which it is not. Pure: arrays, no I/O.

OPC UA reports by exception, so a tag whose value stands still and a tag whose subscription has died look the same. A quiet tag is
therefore read now and then: what the server shows must be what the subscription delivered last. Where it is not, and the
subscription does not bring it within the time that it may take, an update was lost: the read value is kept, and recovery goes one step further
each time it happens again. A tag of which people know that it must change (`expect_update_within`) is silent after that time, whatever a read says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from asyncua import ua

from .decode import FLOAT, Changes
from .plan import Plan

Floats = npt.NDArray[np.float64]
Handles = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

NOBODY: Final = 0xFFFF_FFFF
"""A client handle that no tag has: `Rows` leaves its value out."""
_NUMBERS: Final = FLOAT + 1  # built-in types 1 … 11 are booleans and numbers
_ODD: Final = np.int64(0x9E37_79B9_7F4A_7C15 - 2**64)
_SALT: Final = np.int64(0x5851_F42D_4C95_7F2D)
_TELLS_NOTHING: Final = np.array(
    [
        ua.StatusCodes.BadNotReadable,
        ua.StatusCodes.BadUserAccessDenied,
        ua.StatusCodes.BadAttributeIdInvalid,
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadWaitingForInitialData,
        ua.StatusCodes.UncertainInitialValue,
    ],
    np.uint32,
)
"""What a read may answer although the subscription is well."""


class Step(IntEnum):
    """How far recovery of a tag has gone. A step is taken once; the next one follows when that did not help."""

    WELL = 0
    READ = 1
    RESUBSCRIBED = 2
    NEW_SESSION = 3
    NEW_CLIENT = 4
    POLLED = 5
    """Nothing helped: the tag is read instead, until its subscription delivers again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds. The defaults are what the documentation promises; tests go faster."""

    tick_s: float = 1.0
    first_value_s: float = 10.0  # a new item has delivered its first value by then
    grace_s: float = 2.0  # what a notification may take on its way, besides two samplings
    polled_s: float = 5.0  # how often a tag is read whose subscription could not be brought back
    new_session_s: float = 300.0  # the least time between two new sessions (or clients) for the sake of single tags


@dataclass(frozen=True, slots=True)
class Contract:
    """What is expected of the tags by position: `within_s` of an update (inf: nothing), `verify_s` of a sign of life (inf: never
    looked at), the server's `deadband` (inf: in percent of a range that is not known here), and whether a newer source time alone
    is a change (`timestamps`) or only the status is one (`status_only`)."""

    within_s: Floats
    verify_s: Floats
    period_s: Floats
    deadband: Floats
    timestamps: Bools
    status_only: Bools


@dataclass(slots=True)
class Verdict:
    """What a round of reads showed, as positions. `lost`: emit what was read. `silent`: to be told. `steps`: to be taken now."""

    lost: Handles
    silent: Handles
    steps: dict[Step, Handles] = field(default_factory=dict)


class Liveness:
    """The book about the tags of one adapter over all of its sessions; position i is client handle i. Times are the loop's."""

    def __init__(self, contract: Contract, pace: Pace) -> None:
        n = len(contract.within_s)
        self.contract, self.pace = contract, pace
        self._expected = np.isfinite(contract.within_s)
        self._filtered = bool((contract.deadband > 0).any())
        self._dated = bool(contract.timestamps.any())
        self._masked = bool(contract.status_only.any())
        self._sampled_s = contract.period_s.copy()
        self._heard = np.zeros(n)
        self._checked = np.zeros(n)
        self._suspect = np.zeros(n)  # since when reads differ; 0: they do not
        self._watched = np.zeros(n, bool)
        self._fresh = np.zeros(n, bool)  # a new item whose first value has not come
        self._polled = np.zeros(n, bool)  # read every scan
        self._print = np.zeros(n, np.int64)  # of the value delivered last
        self._read = np.zeros(n, np.int64)  # source time of the value that a read brought last, until the subscription delivers
        self._step = np.zeros(n, np.uint8)
        self._silent = np.zeros(n, bool)
        self._value = np.full(n, np.nan) if self._filtered else None  # only where a deadband asks for it
        self._code = np.zeros(n, np.uint32)
        self._special = False  # any fresh, silent or recovering tag: the rare path of `note`
        self._back: list[int] = []
        self._session_at = self._client_at = -np.inf

    # Sessions and items

    def begin(self, now: float, *, keep: bool = False) -> None:
        """A new session without items yet. `keep`: it was made for the sake of recovery, which goes on."""
        self._watched[:] = self._fresh[:] = self._polled[:] = False
        self._suspect[:] = self._read[:] = 0
        if not keep:
            self._heard[:] = now
            self._silent[:] = False
            self._step[:] = Step.WELL
        self._checked[:] = now
        self._look()

    def expect(self, positions: Sequence[int], now: float) -> None:
        """Items for these are being made: their first values may be here before the server says so."""
        at = np.array(positions, np.intp)
        self._watched[at] = self._fresh[at] = True
        self._suspect[at] = 0
        self._checked[at] = now
        self._look()

    def sampled(self, positions: Sequence[int], sampled_s: Sequence[float]) -> None:
        """How often the server samples these at best."""
        at = np.array(positions, np.intp)
        self._sampled_s[at] = np.maximum(self.contract.period_s[at], np.array(sampled_s, np.float64))

    def refused(self, positions: Sequence[int]) -> None:
        """There are no items for these now; somebody else asks for them again."""
        at = np.array(positions, np.intp)
        self._watched[at] = self._fresh[at] = self._silent[at] = False
        self._step[at] = Step.WELL
        self._look()

    # What the subscription delivers

    def note(self, changes: Changes, now: float) -> None:
        """Notifications of tags: signs of life. Call before rows are made of them: the value with which a new
        item begins gets the handle NOBODY where it is the old one of a silent tag, or has been read just before."""
        where = changes.handle.astype(np.intp)
        prints = self._prints(changes, where)
        if self._special:
            self._note_special(changes, where, prints, now)
        else:
            self._heard[where] = now
        self._keep(changes, where, prints)

    def _keep(self, changes: Changes, where: Handles, prints: npt.NDArray[np.int64]) -> None:
        self._print[where] = prints
        if self._value is not None:
            self._value[where] = _numbers(changes)
            self._code[where] = changes.status >> np.uint32(16)

    def _note_special(self, changes: Changes, where: Handles, prints: npt.NDArray[np.int64], now: float) -> None:
        first = self._fresh[where]
        repeated = first & self._expected[where] & (prints == self._print[where])
        news = ~repeated
        self._heard[where[news]] = now
        self._checked[where] = now
        self._suspect[where] = 0
        self._fresh[where] = False
        muted = repeated & self._silent[where]
        muted |= first & (prints == self._print[where]) & (changes.source > 0) & (changes.source == self._read[where])
        self._read[where] = 0
        if muted.any():
            changes.handle[muted] = NOBODY
        cured = np.unique(where[news & ~first | news & self._silent[where]])
        cured = cured[(self._step[cured] > Step.WELL) | self._silent[cured]]
        if len(cured):
            self._step[cured] = Step.WELL
            self._back += cured.tolist()
        self._look()

    def polled(self, changes: Changes, now: float) -> None:
        """A cyclic read of these positions: an update is another value or status. For a server without subscriptions."""
        where = changes.handle.astype(np.intp)
        prints = self._prints(changes, where)
        moved = where[prints != self._print[where]]
        self._heard[moved] = now
        self._print[where] = prints
        self._watched[where] = self._polled[where] = True
        cured = moved[self._silent[moved]]
        if len(cured):
            self._step[cured] = Step.WELL
            self._back += cured.tolist()

    def back(self) -> tuple[Handles, Handles]:
        """(all that deliver again after a loss or a silence, those of them that were silent), each once."""
        at = np.array(sorted(set(self._back)), np.intp)
        self._back = []
        silent = at[self._silent[at]]
        self._silent[silent] = False
        self._look()
        return at, silent

    # What a look at quiet tags shows

    def due(self, now: float, at_most: int) -> Handles:
        """Tags to be read now, those longest without a look first."""
        pace = self.pace
        last = np.maximum(self._heard, self._checked)
        wait = np.minimum(np.maximum(self.contract.verify_s, 3 * self._sampled_s), self.contract.within_s)
        if self._special:
            wait = np.where(self._step >= Step.POLLED, np.maximum(pace.polled_s, self._sampled_s), wait)
            wait = np.where(self._fresh, np.maximum(pace.first_value_s, 3 * self._sampled_s), wait)
            wait = np.where(self._suspect > 0, pace.grace_s + 2 * self._sampled_s, wait)
        wait = np.where(np.isfinite(self.contract.verify_s) | self._expected, wait, np.inf)
        ready = np.flatnonzero(self._watched & ~self._polled & (now - last >= wait))
        if len(ready) > at_most:
            ready = ready[np.argsort(last[ready], kind="stable")[:at_most]]
        return ready

    def skip(self, where: Handles, now: float) -> None:
        """They could not be looked at; others come first."""
        self._checked[where] = now

    def quota(self) -> int:
        """How many tags one tick may read: twice what keeps up with all of them being quiet, at least 50."""
        wait = np.minimum(self.contract.verify_s, self.contract.within_s)[self._watched & ~self._polled]
        wait = wait[np.isfinite(wait)]
        return 50 if not len(wait) else max(50, int(2 * self.pace.tick_s * float((1 / np.maximum(wait, 1e-3)).sum())) + 1)

    def judge(self, read: Changes, now: float) -> Verdict:
        """What reads of the positions `read.handle` say of them."""
        where = read.handle.astype(np.intp)
        prints = self._prints(read, where)
        differs = (prints != self._print[where]) & ~self._within_deadband(read, where)
        differs |= self._fresh[where]  # whatever it is: the first value is overdue
        differs &= ~np.isin(read.status & np.uint32(0xFFFF_0000), _TELLS_NOTHING)
        waited = (self._suspect[where] > 0) & (self._heard[where] <= self._suspect[where])
        sure = differs & (waited | (self._step[where] >= Step.POLLED))
        self._suspect[where] = np.where(differs & ~sure, now, 0.0)
        self._checked[where] = now
        lost = where[sure]
        self._keep(read.only(np.flatnonzero(sure)), lost, prints[sure])
        self._read[lost] = read.source[sure]
        overdue = self._overdue(where[~differs], now)
        silent = overdue[~self._silent[overdue]]
        self._silent[silent] = True
        still = overdue[self._silent[overdue] & ~np.isin(overdue, silent)]
        self._step[silent] = np.maximum(self._step[silent], Step.READ)
        self._step[lost] = np.maximum(self._step[lost], Step.READ)
        verdict = Verdict(lost, silent, self._next_steps(np.concatenate([lost, still]), now))
        self._look()
        return verdict

    def breaches(self, now: float) -> Verdict:
        """The same for a server that is read cyclically: no reads are needed."""
        overdue = self._overdue(np.flatnonzero(self._polled & self._expected), now)
        silent = overdue[~self._silent[overdue]]
        waited = now - self._checked >= self.contract.within_s
        still = overdue[self._silent[overdue] & waited[overdue]]
        self._silent[silent] = True
        self._step[silent] = Step.RESUBSCRIBED  # there is nothing to re-read and no subscription
        self._checked[np.concatenate([silent, still])] = now
        return Verdict(silent[:0], silent, self._next_steps(still, now))

    def _overdue(self, where: Handles, now: float) -> Handles:
        late: Handles = where[self._expected[where] & (now - self._heard[where] >= self.contract.within_s[where])]
        return late

    def _next_steps(self, where: Handles, now: float) -> dict[Step, Handles]:
        """One step further for each; a new session that was made for another tag meanwhile counts for all."""
        steps: dict[Step, list[int]] = {}
        for position in where.tolist():
            step = self._step[position]
            if step >= Step.POLLED:
                continue
            following = Step(step + 1)
            if following in (Step.NEW_SESSION, Step.NEW_CLIENT) and following not in steps:
                if (self._session_at if following is Step.NEW_SESSION else self._client_at) > self._heard[position]:
                    self._step[position] = following  # made for another tag, and it did not help this one
                    continue
                if now - max(self._session_at, self._client_at) < self.pace.new_session_s:
                    continue  # not yet: the others would be disturbed too often
            self._step[position] = following
            steps.setdefault(following, []).append(position)
        for step in (Step.NEW_SESSION, Step.NEW_CLIENT):
            if step in steps:
                self._session_at = now if step is Step.NEW_SESSION else self._session_at
                self._client_at = now if step is Step.NEW_CLIENT else self._client_at
        return {step: np.array(found, np.intp) for step, found in steps.items()}

    def _within_deadband(self, read: Changes, where: Handles) -> Bools:
        """Where the server rightly kept a change of a number to itself."""
        if self._value is None:
            return np.zeros(len(where), bool)
        with np.errstate(invalid="ignore"):
            near = np.abs(_numbers(read) - self._value[where]) <= self.contract.deadband[where]
        small: Bools = near & (self.contract.deadband[where] > 0) & (self._code[where] == read.status >> np.uint32(16))
        return small

    def _prints(self, changes: Changes, where: Handles) -> npt.NDArray[np.int64]:
        """One number per value that tells it from another: value, type and status code, not its info bits."""
        code = (changes.status >> np.uint32(16)).astype(np.int64)
        with np.errstate(over="ignore"):
            body = (changes.value + 0.0).view(np.int64) + changes.integer * _ODD + changes.kind.astype(np.int64) * _SALT
            for k, text in changes.texts.items():
                body[k] ^= hash(text)
            for k, variant in changes.variants.items():
                body[k] ^= hash(variant)
            if self._dated:
                body = np.where(self.contract.timestamps[where], body ^ (changes.source * _ODD), body)
            if self._masked:
                body = np.where(self.contract.status_only[where], np.int64(0), body)
            prints: npt.NDArray[np.int64] = (body ^ (code * _SALT)) | np.int64(1)  # never 0: nothing was delivered
        return prints

    def _look(self) -> None:
        self._special = bool(self._fresh.any() or self._silent.any() or self._step.any() or self._suspect.any())


def contract_of(plan: Plan, periods_us: Sequence[int], within_us: Mapping[int, int], verify_us: int) -> Contract:
    """The contract of the variables of `plan`; `periods_us` are the scans, `within_us` what tags expect, by position.

    Of several tags that are parts of one variable the least time counts for all. `verify_us` 0: quiet tags are left alone.
    """
    n = len(periods_us)
    within, bands = np.full(n, np.inf), np.zeros(n)
    whole = {tag: variable for variable, tag in plan.tags_of(plan.parts)}
    for position, us in within_us.items():
        variable = whole.get(position, position)
        within[variable] = min(within[variable], us / 1e6)
    for position, how in enumerate(plan.sampling):
        if how.deadband is not None:
            bands[position] = np.inf if how.deadband.percent else how.deadband.value
    dated = np.array([how.trigger == "timestamp" for how in plan.sampling], bool)
    masked = np.array([how.trigger == "status" for how in plan.sampling], bool)
    verify = np.full(n, verify_us / 1e6 if verify_us else np.inf)
    return Contract(within, verify, np.array(periods_us, np.float64) / 1e6, bands, dated, masked)


def _numbers(changes: Changes) -> Floats:
    """float64[n]: the numbers of good and uncertain values, NaN for everything else."""
    number = (changes.kind > 0) & (changes.kind <= _NUMBERS) & (changes.status < np.uint32(0x8000_0000))
    return np.where(number, changes.value, np.nan)
