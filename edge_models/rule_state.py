"""The state of one rule over all the assets that it fits, and what its inputs were last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from schemas import quality as q
from schemas.errors import ConfigError
from schemas.tags import Tag

from .gate import COMPARE, Condition, parse, resolve
from .slots import HUGE, NEVER, Bools, Floats, Index, Readings, Slots, Times

if TYPE_CHECKING:
    from .rules import Rule

Found = tuple[Index, Times, Times, Floats, Floats, Floats, Floats, Times]
"""Rows of judgements: instance, time, seq, score, value, low, high, since."""
_BAD, _GOOD, _SHUT = 0, 1, 2
_NOT_ARMED: Final = np.iinfo(np.int64).max


def text_code(text: str) -> float:
    """A text as a whole number of 48 bits, which a float holds exactly: equal texts have equal codes."""
    return float(int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big"))


class Seen:
    """The newest row of each tag: its value (the last good one), when it was, and whether it can be used."""

    def __init__(self, tags: Sequence[Tag]) -> None:
        n = len(tags)
        self.value = np.full(n, np.nan)
        self.time = np.full(n, NEVER)
        self.seq = np.full(n, -1, dtype=np.int64)
        self.lag = np.zeros(n, dtype=np.int64)  # µs, gateway minus source
        self.moment = np.zeros(n, dtype=np.int64)
        self.status = np.zeros(n, dtype=np.int8)
        self._is_text = np.array([tag.value_type == "text" for tag in tags], dtype=bool)
        self._is_wave = np.array([tag.value_type == "samples" for tag in tags], dtype=bool)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is stored, by name."""
        return {
            "value": self.value, "time": self.time, "seq": self.seq, "lag": self.lag, "moment": self.moment, "status": self.status
        }  # fmt: skip

    def take(self, readings: Readings, rows: Index, slots: Index, moment: int, gateway: Times) -> None:
        """Rows of the moment of that number, no two of one slot."""
        value = readings.value[rows].copy()
        usable = np.abs(value) <= HUGE
        good = ~q.is_bad(readings.quality[rows])
        for at in np.flatnonzero(self._is_text[slots]):
            text = readings.batch.column("text")[int(rows[at])].as_py()
            value[at], usable[at] = (np.nan, False) if text is None else (text_code(text), good[at])
        usable |= self._is_wave[slots] & good
        status = np.where(usable, np.int8(_GOOD), np.int8(_BAD))
        if readings.active is not None:
            status[~readings.active[rows]] = _SHUT
        self.value[slots] = np.where(status == _GOOD, value, self.value[slots])
        self.status[slots], self.moment[slots] = status, moment
        self.time[slots], self.seq[slots] = readings.time[rows], readings.seq[rows]
        self.lag[slots] = gateway[rows] - readings.time[rows]


class _Expression:
    """A condition over m instances, in the logic of three values: true, false, and unknown where an input is."""

    def __init__(self, condition: Condition, tags: Sequence[Mapping[str, Tag]], slots: Slots, where: str) -> None:
        self._condition = condition
        self.inputs: Index = np.array(
            [[slots.of(np.array([of[c.tag].id], dtype=np.int32))[0] for c in condition.comparisons] for of in tags], dtype=np.intp
        ).reshape(len(tags), len(condition.comparisons))
        self._numbers: list[Floats] = []
        for index, comparison in enumerate(condition.comparisons):
            wanted: list[list[float]] = []
            for of in tags:
                found = resolve(0, index, comparison, of[comparison.tag], where)
                wanted.append(
                    sorted(found.codes)
                    if found.codes is not None
                    else [text_code(found.text)]
                    if found.text is not None
                    else [found.number]
                )
            width = max((len(one) for one in wanted), default=1)
            self._numbers.append(np.array([one + [np.nan] * (width - len(one)) for one in wanted]).reshape(len(tags), width))

    def bounds(self, seen: Seen, at: Index) -> tuple[Bools, Bools]:
        """(surely true, possibly true), each bool[len(at)]."""
        truth = np.zeros((len(at), len(self._condition.comparisons)), dtype=bool)
        known = seen.status[self.inputs[at]] == _GOOD
        for index, comparison in enumerate(self._condition.comparisons):
            value, wanted = seen.value[self.inputs[at, index]], self._numbers[index][at]
            if comparison.op in ("==", "!="):
                truth[:, index] = (value[:, None] == wanted).any(axis=1) == (comparison.op == "==")
            else:
                truth[:, index] = COMPARE[comparison.op](value, wanted[:, 0])  # type: ignore[arg-type]
        return self._condition.evaluate(truth & known), self._condition.evaluate(truth | ~known)

    def shares(self, paths: Sequence[Mapping[str, str]], at: int) -> str:
        """JSON {tag path: share}: each comparison counts alike."""
        names = [comparison.tag for comparison in self._condition.comparisons]
        return json.dumps({paths[at][name]: round(names.count(name) / len(names), 4) for name in dict.fromkeys(names)})


class RuleState:
    """One rule for m instances: one per tag that `tag` matches, or one per asset.

    Raises ConfigError where the rule fits no asset at all, a condition can never be fulfilled, or a timeout is shorter than
    two readings are apart.
    """

    def __init__(self, rule: Rule, tags: Sequence[Tag], slots: Slots, *, where: str) -> None:
        self._rule = rule
        conditions = [parse(text) for text in (rule.when, rule.until) if text is not None]
        subjects, places = _fitting(rule, conditions, tags, where)
        self.subject: Index = slots.of(np.array([tag.id for tag in subjects], dtype=np.int32))
        expressions = [_Expression(condition, places, slots, f"{where}.when") for condition in conditions]
        self._when = expressions[0] if rule.when is not None else None
        self._until = expressions[-1] if rule.until is not None else None
        self._inputs: Index = np.concatenate([self.subject[:, None], *(one.inputs for one in expressions)], axis=1)
        self.several = len({name for condition in conditions for name in condition.names} | {rule.tag or ""} - {""}) > 1
        self._touch = np.zeros(len(slots), dtype=bool)
        self._touch[self._inputs.ravel()] = True
        self._paths = [{name: tag.path for name, tag in of.items()} for of in places]
        self.timeout_us = int(rule.timeout or rule.heartbeat or 0)
        for tag in subjects if self.timeout_us else ():
            if self.timeout_us < 2 * tag.period_us:
                raise ConfigError(
                    f"{tag.path} is read every {tag.period_us / 1e6:g} s, too seldom for a timeout of {self.timeout_us / 1e6:g} s",
                    where=where, hint=f"write {2 * tag.period_us / 1e6:g}s or more, or read the tag more often",
                )  # fmt: skip
        m = len(self.subject)
        self._on = np.zeros(m, dtype=bool)
        self._told = np.zeros(m, dtype=bool)
        self._since = np.full(m, NEVER)
        self._due = np.full(m, _NOT_ARMED)
        self._judged = np.zeros(m, dtype=np.int64)
        self._more: dict[str, npt.NDArray[np.generic]] = {}
        self._anchor_time, self._anchor_value, self._rate = np.full(m, NEVER), np.full(m, np.nan), np.full(m, np.nan)
        if rule.rate_above is not None or rule.rate_below is not None:
            self._more = {"anchor_time": self._anchor_time, "anchor_value": self._anchor_value, "rate": self._rate}
        elif rule.heartbeat is not None:
            self._more = {"anchor_value": self._anchor_value}

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is stored, by name."""
        return {
            "on": self._on, "told": self._told, "since": self._since, "due": self._due, "judged": self._judged, **self._more
        }  # fmt: skip

    def touched(self, slots: Index) -> bool:
        """Whether any of these slots is an input."""
        return bool(self._touch[slots].any())

    def passed(self, seen: Seen, number: int, moment_clock: int, before: int, clock: int) -> Iterator[Found]:
        """The moment is over, the clock has gone from `before` to `clock`: what was waiting for that is judged."""
        if self.several and number:
            heard = (seen.moment[self._inputs] == number).any(axis=1) & (self._judged != number)
            if heard.any():
                yield self._take(seen, np.flatnonzero(heard), number, moment_clock)
        due = np.flatnonzero((self._due <= before) & ~self._told & (self._on if not self.timeout_us else True))
        if len(due):
            self._on[due] = self._told[due] = True
            when = self._due[due] - seen.lag[self.subject[due]]
            yield self._found(seen, due, when, seen.seq[self.subject[due]], np.ones(len(due)))
        if self.timeout_us and clock - before > self.timeout_us:  # nothing at all was seen for so long: nobody is to blame
            self._due[(self._due != _NOT_ARMED) & ~self._on] = clock + self.timeout_us

    def judge(self, seen: Seen, number: int, clock: int) -> Found | None:
        """Instances all inputs of which have come in the moment of that number, and that are not judged in it yet."""
        complete = (seen.moment[self._inputs] == number).all(axis=1) & (self._judged != number)
        at = np.flatnonzero(complete)
        return self._take(seen, at, number, clock) if len(at) else None

    def _take(self, seen: Seen, at: Index, number: int, clock: int) -> Found:
        self._judged[at] = number
        subject, was = self.subject[at], self._on[at]
        fresh = seen.moment[subject] == number
        good, shut = seen.status[subject] == _GOOD, seen.status[subject] == _SHUT
        surely, possibly = self._check(seen, at, was, fresh & good, clock)
        surely, possibly = surely & good, possibly | ~good
        if self._when is not None:
            when, maybe = self._when.bounds(seen, at)
            if self.timeout_us:
                self._arm(at, when, seen, clock)
                surely, possibly = surely & self._on[at], possibly & self._on[at]
            surely, possibly = surely & when, possibly & maybe
        if self._until is not None:
            over, maybe = self._until.bounds(seen, at)
            surely, possibly = np.where(was, ~maybe, surely & ~maybe), np.where(was, ~over, possibly & ~over)
        on = np.where(surely, True, np.where(possibly, was, False)) & ~shut
        unknown = (possibly & ~surely) | shut
        inputs = self._inputs[at]
        now = seen.moment[inputs] == number
        time = np.where(now, seen.time[inputs], NEVER).max(axis=1)
        seq = np.where(now, seen.seq[inputs], -1).max(axis=1)
        self._on[at] = on
        if self.timeout_us:
            self._due[at[shut]] = _NOT_ARMED
            lasting = on
        else:
            comes = on & ~was
            self._since[at[comes]], self._due[at[comes]] = time[comes], clock + self._rule.on_delay.us
            lasting = on & (self._due[at] <= clock)
        self._told[at] = on & (self._told[at] | lasting)
        score = np.where(unknown, np.nan, lasting.astype(np.float64))
        return self._found(seen, at, time, seq, score)

    def _check(self, seen: Seen, at: Index, was: Bools, news: Bools, clock: int) -> tuple[Bools, Bools]:
        """(surely, possibly) abnormal by the rule's own check, `news` marks instances with a new good reading."""
        rule, value, time = self._rule, seen.value[self.subject[at]], seen.time[self.subject[at]]
        with np.errstate(all="ignore"):
            if rule.rate_above is not None or rule.rate_below is not None:
                return self._check_rate(at, value, time, news)
            if self.timeout_us:
                if rule.heartbeat is not None:
                    news = news & ~(value == self._anchor_value[at])
                    self._anchor_value[at[news]] = value[news]
                alive = at[news]
                self._since[alive], self._due[alive] = time[news], clock + self.timeout_us
                self._on[alive] = self._told[alive] = False
                return self._on[at], self._on[at]
            if rule.tag is None:
                return np.ones(len(at), dtype=bool), np.ones(len(at), dtype=bool)
            beyond = np.zeros(len(at), dtype=bool)
            if rule.above is not None:
                beyond |= (value > rule.above) | (was & (value > rule.above - rule.hysteresis))
            if rule.below is not None:
                beyond |= (value < rule.below) | (was & (value < rule.below + rule.hysteresis))
            return beyond, beyond

    def _check_rate(self, at: Index, value: Floats, time: Times, news: Bools) -> tuple[Bools, Bools]:
        rule, anchor = self._rule, self._anchor_time[at]
        elapsed = time - np.where(anchor == NEVER, time, anchor)
        begins = news & ((anchor == NEVER) | (elapsed < 0))
        ends = news & ~begins & (elapsed > 0) & (elapsed >= rule.over.us)
        self._rate[at[ends]] = ((value - self._anchor_value[at]) / (elapsed / 1e6))[ends]
        moved = begins | ends
        self._anchor_time[at[moved]], self._anchor_value[at[moved]] = time[moved], value[moved]
        rate = self._rate[at]
        beyond = np.zeros(len(at), dtype=bool)
        if rule.rate_above is not None:
            beyond |= rate > rule.rate_above
        if rule.rate_below is not None:
            beyond |= rate < rule.rate_below
        return beyond, beyond | np.isnan(rate)

    def _arm(self, at: Index, when: Bools, seen: Seen, clock: int) -> None:
        """Silence counts only while the condition holds."""
        idle = at[~when]
        self._due[idle] = _NOT_ARMED
        self._on[idle] = self._told[idle] = False
        begins = at[when & (self._due[at] == _NOT_ARMED) & (seen.time[self.subject[at]] != NEVER)]
        self._due[begins], self._since[begins] = clock + self.timeout_us, seen.time[self.subject[begins]]

    def _found(self, seen: Seen, at: Index, time: Times, seq: Times, score: Floats) -> Found:
        rule, n = self._rule, len(at)
        low, high = (np.full(n, np.nan if one is None else one) for one in (rule.below, rule.above))
        subject = self.subject[at]
        value = np.where(seen.status[subject] == _GOOD, seen.value[subject], np.nan)
        since = np.where(self._on[at], self._since[at], NEVER)
        return at, time, seq, score, value, low, high, since

    def contributions(self, at: Index, score: Floats) -> list[str | None]:
        """JSON {tag path: share} of rows on which the rule holds."""
        expression = self._when
        if expression is None:
            return [None] * len(at)
        return [
            expression.shares(self._paths, int(one)) if abnormal else None
            for one, abnormal in zip(at, (score == 1.0).tolist(), strict=True)
        ]


def _fitting(
    rule: Rule, conditions: Sequence[Condition], tags: Sequence[Tag], where: str
) -> tuple[list[Tag], list[Mapping[str, Tag]]]:
    """The tag that each instance is about, and the tags of its asset by name."""
    assets: dict[str, dict[str, Tag]] = {}
    for tag in tags:
        assets.setdefault(tag.asset, {})[tag.name] = tag
    pattern = rule.tag or ""
    subjects: list[Tag] = []
    places: list[Mapping[str, Tag]] = []
    lacking: list[str] = []
    for asset, mine in assets.items():
        missing = [name for condition in conditions for name in condition.names if name not in mine]
        about = [conditions[0].names[0]] if rule.tag is None else [name for name in mine if fnmatchcase(name, pattern)]
        if missing or not about:
            names = ", ".join(sorted(mine)[:8])
            lacking.append(f"{asset} has no tag {[*missing, pattern][0]!r}; of the model's tags it has {names}")
            continue
        subjects += [mine[name] for name in about]
        places += [mine] * len(about)
    if not subjects and lacking:
        raise ConfigError(
            f"the rule fits no asset: {lacking[0]}", where=where, hint="`tags` must match every tag that the rules name"
        )
    return subjects, places
