"""From readings of many tags to rows of one asset: what models over several tags share.

Time is cut into steps of `every`. A row of a group has, for each of its tags, the last good reading, if that is not older than
`lateness`, else NaN. It is made as soon as every tag that had a reading in the step before has one in this step, and at the latest when a
reading of a later step comes. So it depends on the readings before it alone, whatever way they are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.errors import StateMismatch

from .per_tag import LATE_ROWS_UNTIL_ACCEPTED
from .slots import NEVER, Bools, Floats, Index, Readings, Slots, Times

Arrays = Mapping[str, npt.NDArray[np.generic]]
_ALL: Final = slice(None)
_WORTH_IT: Final = 32  # rows of a poll from which on it is cheaper than its rows one by one


@dataclass(frozen=True, slots=True)
class Aligned:
    """One row of each of k different groups. `at` is a slice where they are all groups in order."""

    at: slice | Index
    groups: Index  # the same as an index, intp[k]
    value: Floats  # [width, k], NaN where a group has no such tag or nothing of it
    time: Times  # [k] µs, of the newest reading of the step
    seq: Times  # [k] the row that made it
    complete: bool = False  # every group, and every tag of it, in this very poll


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the columns (groups) and cells (tags) of a stored state are now."""

    group: Index  # this column is
    from_group: Index  # that stored one
    place_of: Index  # this cell is
    group_of: Index
    from_place_of: Index  # that stored one
    from_group_of: Index
    same: bool  # nobody has come or left


@dataclass(slots=True)
class _Told:
    """Rows of different groups, collected one by one."""

    groups: list[int] = field(default_factory=list)
    value: list[Floats] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    seq: list[int] = field(default_factory=list)


class Aligner:
    """Aligns the tags of groups. Arrays have one column per group and one line per place of a tag in it. 34 bytes per tag."""

    def __init__(self, groups: Sequence[Sequence[int]], *, every_us: int, lateness_us: int) -> None:
        """`groups` of tag ids; a tag belongs to one group."""
        self.width = max((len(group) for group in groups), default=0)
        self.groups = [tuple(group) for group in groups]
        self._every, self._lateness = every_us, lateness_us
        self.slots = Slots([tag for group in groups for tag in group])
        shape = (self.width, len(groups))
        self.place = np.array([place for group in groups for place in range(len(group))], dtype=np.intp)  # by slot
        self.group = np.array([at for at, group in enumerate(groups) for _ in group], dtype=np.intp)
        self.exists: Bools = np.zeros(shape, dtype=bool)
        self.exists[self.place, self.group] = True
        self._even = bool(self.exists.all())  # all groups have as many tags
        self._everyone = np.arange(len(groups))
        self._value: Floats = np.full(shape, np.nan)
        self._seen: Times = np.full(shape, NEVER)
        self._late = np.zeros(shape, dtype=np.int64)
        self._here: Bools = np.zeros(shape, dtype=bool)  # had a reading in this step
        self._needed: Bools = self.exists.copy()  # had one in the step before
        self._step: Times = np.full(len(groups), NEVER)
        self._made: Bools = np.zeros(len(groups), dtype=bool)  # the row of this step
        self._newest: Times = np.full(len(groups), NEVER)
        # While every batch is a poll of all tags at one time, the arrays above are behind it; see `_catch_up`.
        self._whole_time, self._whole_value = NEVER, self._value
        self._tags: npt.NDArray[np.int32] | None = None  # a column of all tags in order

    def take(self, readings: Readings) -> list[Aligned]:
        """READING(n) -> rows, in the order in which they were made; those of one Aligned are of different groups."""
        whole = self._whole(readings)
        if whole is not None:
            return [whole]
        self._catch_up()
        slots = self.slots.of(readings.tag)
        mine = slots >= 0
        if readings.usable is not None:
            mine &= readings.usable
        rows: slice | Index = _ALL if mine.all() else np.flatnonzero(mine)
        slots = slots[rows]
        if not len(slots):
            return []
        place, group, time = self.place[slots], self.group[slots], readings.time[rows]
        seq, value = readings.seq[rows], readings.value[rows]
        step = time // self._every

        def live(part: slice, rest: Index) -> list[bool]:
            found: list[bool] = (~readings.backfilled()[rows][part][rest]).tolist()
            return found

        found: list[Aligned] = []
        for part in self._stretches(slots):
            columns = slots[part], place[part], group[part], time[part], step[part], seq[part], value[part]
            found += self._part(*columns, partial(live, part))
        return found

    def _stretches(self, slots: Index) -> list[slice]:
        """Stretches of rows in which no tag comes twice, where they are long enough to be worth it; else all rows as one.

        However rows are cut, what comes of them is the same; whole polls are faster than rows one by one.
        """
        n = len(slots)
        if np.bincount(slots, minlength=1).max() == 1:
            return [_ALL]
        order = np.argsort(slots, kind="stable")
        again = np.full(n, n)  # the next row of the same tag
        same = np.flatnonzero(slots[order[1:]] == slots[order[:-1]])
        again[order[same]] = order[same + 1]
        ends = np.minimum.accumulate(again[::-1])[::-1]  # of the stretch that begins here
        found: list[slice] = []
        at = 0
        while at < n:
            found.append(slice(at, int(ends[at])))
            at = found[-1].stop
            if len(found) * _WORTH_IT > n:
                return [_ALL]
        return found

    def _part(
        self, slots: Index, place: Index, group: Index, time: Times, step: Times, seq: Times, value: Floats,
        live: Callable[[Index], list[bool]],
    ) -> list[Aligned]:  # fmt: skip
        odd = self._odd(slots, place, group, time, step)
        found: list[Aligned] = []
        if odd is None:
            found += self._polls(place, group, time, step, seq, value)
        else:
            plain = np.flatnonzero(~odd)
            if len(plain):
                found += self._polls(place[plain], group[plain], time[plain], step[plain], seq[plain], value[plain])
            rest = np.flatnonzero(odd)
            found += self._one_by_one(
                place[rest].tolist(), group[rest].tolist(), time[rest].tolist(), step[rest].tolist(), seq[rest].tolist(),
                value[rest].tolist(), live(rest),
            )  # fmt: skip
        return found

    def _whole(self, readings: Readings) -> Aligned | None:
        """The usual case, a poll of all tags in order, of one time: no index, no copies. None when it is not that case."""
        n, tag = len(self.groups), readings.tag
        if not self._even or readings.usable is not None or len(tag) != len(self.slots) or not n:
            return None
        time = readings.newest
        if time != readings.oldest:
            return None
        if tag is not self._tags:
            if not np.array_equal(tag, self.slots.ids):
                return None
            self._tags = tag if tag.base is None else None
        step = time // self._every
        if self._whole_time != NEVER:
            if step <= self._whole_time // self._every:
                return None
        elif not (
            step > int(self._step.max())
            and self._made.all()
            and self._here.all()
            and time > int(self._newest.max())
            and not self._late.any()
        ):
            return None
        self._whole_time, self._whole_value = time, np.ascontiguousarray(readings.value.reshape(n, self.width).T)
        return Aligned(
            _ALL, self._everyone, self._whole_value, np.full(n, time), readings.seq[self.width - 1 :: self.width], complete=True
        )

    def _catch_up(self) -> None:
        """Write down the newest whole poll; those before it have left nothing behind."""
        if self._whole_time != NEVER:
            self._value[:] = self._whole_value
            self._seen[:] = self._newest[:] = self._whole_time
            self._step[:] = self._whole_time // self._every
            self._needed[:] = True
        self._whole_time = NEVER

    def _odd(self, slots: Index, place: Index, group: Index, time: Times, step: Times) -> Bools | None:
        """True for the rows of groups whose rows here are more than one poll: they are taken one by one. None when there are none."""
        n = len(self.groups)
        strange = (time <= self._seen[place, group]) | (step < self._step[group]) | (self._late[place, group] > 0)
        first = np.full(n, NEVER)
        first[group[::-1]] = step[::-1]  # what is written last stays: the first row of the group
        strange |= step != first[group]
        repeated = np.bincount(slots, minlength=len(self.slots)) > 1
        if repeated.any():
            strange |= repeated[slots]
        if not strange.any():
            return None
        marked = np.zeros(n, dtype=bool)
        marked[group[strange]] = True
        return marked[group]

    def _polls(self, place: Index, group: Index, time: Times, step: Times, seq: Times, value: Floats) -> list[Aligned]:
        """Each group's rows are of one step, each of another tag and newer than what is known of it."""
        found: list[Aligned] = []
        n = len(group)
        first = np.full(len(self.groups), -1)
        first[group[::-1]] = np.arange(n)[::-1]
        groups = np.flatnonzero(first >= 0)
        begins = groups[step[first[groups]] > self._step[groups]]
        if len(begins):
            owed = begins[~self._made[begins] & (self._step[begins] != NEVER)]
            if len(owed):
                found.append(self._row(owed, seq[first[owed]]))
            self._begin(begins, step[first[begins]])
        # The last row that is still waited for makes the row; those behind it are for the next one.
        wanted = self._needed[place, group] & ~self._here[place, group]
        last = np.full(len(self.groups), -1)
        last[group[wanted]] = np.flatnonzero(wanted)
        early = np.arange(n) <= last[group]
        if early.all():
            self._put(place, group, time, value)
        else:
            self._put(place[early], group[early], time[early], value[early])
        complete = groups[~self._made[groups] & ~(self._needed[:, groups] & ~self._here[:, groups]).any(axis=0)]
        if len(complete):
            found.append(self._row(complete, seq[last[complete]]))
            self._made[complete] = True
        if not early.all():
            late = ~early
            self._put(place[late], group[late], time[late], value[late])
        return found

    def _put(self, place: Index, group: Index, time: Times, value: Floats) -> None:
        self._value[place, group] = value
        self._seen[place, group] = time
        self._here[place, group] = True
        np.maximum.at(self._newest, group, time)

    def _begin(self, groups: Index, step: Times) -> None:
        self._step[groups] = step
        here = self._here[:, groups]
        nobody = ~here.any(axis=0)
        here[:, nobody] = self._needed[:, groups[nobody]]
        self._needed[:, groups] = here
        self._here[:, groups] = False
        self._made[groups] = False

    def _row(self, groups: Index, seq: Times) -> Aligned:
        everything = len(groups) == len(self.groups)
        at: slice | Index = _ALL if everything else groups
        value, seen, newest = self._value[:, at], self._seen[:, at], self._newest[at]
        return Aligned(at, groups, np.where(seen >= newest - self._lateness, value, np.nan), newest.copy(), seq)

    def _one_by_one(
        self, place: list[int], group: list[int], time: list[int], step: list[int], seq: list[int], value: list[float], live: list[bool]
    ) -> list[Aligned]:  # fmt: skip
        told: list[_Told] = []  # the n-th row of each group
        count: dict[int, int] = {}

        def tell(g: int, s: int) -> None:
            nth = count[g] = count.get(g, -1) + 1
            if nth == len(told):
                told.append(_Told())
            newest = int(self._newest[g])
            told[nth].groups.append(g)
            told[nth].value.append(np.where(self._seen[:, g] >= newest - self._lateness, self._value[:, g], np.nan))
            told[nth].time.append(newest)
            told[nth].seq.append(s)

        for p, g, t, k, s, v, is_live in zip(place, group, time, step, seq, value, live, strict=True):
            if t <= self._seen[p, g]:
                self._late[p, g] += is_live
                if self._late[p, g] < LATE_ROWS_UNTIL_ACCEPTED:
                    continue
                # The clock has been set back: what the whole group knows is of another time.
                self._seen[:, g] = NEVER
                self._newest[g] = self._step[g] = NEVER
                self._late[:, g] = 0
            self._late[p, g] = 0
            if k > self._step[g]:
                if not self._made[g] and self._step[g] != NEVER:
                    tell(g, s)
                self._begin(np.array([g]), np.array([k]))
            before = bool(self._made[g])
            self._value[p, g], self._seen[p, g] = v, t
            self._here[p, g] |= k == self._step[g]
            self._newest[g] = max(int(self._newest[g]), t)
            if not before and not (self._needed[:, g] & ~self._here[:, g]).any():
                tell(g, s)
                self._made[g] = True
        return [
            Aligned(
                np.array(one.groups), np.array(one.groups), np.stack(one.value, axis=1), np.array(one.time), np.array(one.seq)
            )
            for one in told
        ]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, to be stored."""
        self._catch_up()
        return {
            "ids": self.slots.ids, "group": self.group.astype(np.int64), "value": self._value, "seen": self._seen, "late": self._late,
            "here": self._here, "needed": self._needed, "step": self._step, "made": self._made, "newest": self._newest,
        }  # fmt: skip

    def restore(self, stored: Arrays) -> Moved:
        """Take over a state from `arrays` and say where everything has gone: tags and groups may have come, left or moved.

        A tag that has moved to another group is new there. Raises StateMismatch, and then nothing has changed.
        """
        moved = self._moved(stored)
        for name, array in self.arrays().items():
            if name in ("ids", "group"):
                continue
            given = stored[name].astype(array.dtype)
            if array.ndim == 1:
                array[moved.group] = given[moved.from_group]
            else:
                array[moved.place_of, moved.group_of] = given[moved.from_place_of, moved.from_group_of]
        # Whoever is gone is not waited for; whoever is new is waited for once at most.
        alone = ~self._needed.any(axis=0)
        self._needed[:, alone] = self.exists[:, alone]
        return moved

    def _moved(self, stored: Arrays) -> Moved:
        mine = self.arrays()
        if not mine.keys() <= stored.keys() or stored["ids"].shape != stored["group"].shape or stored["ids"].ndim != 1:
            raise StateMismatch("the stored state holds other arrays than this version writes")
        ids, group = stored["ids"].astype(np.int64), stored["group"].astype(np.intp)
        n, width = int(group.max(initial=-1)) + 1, int(np.bincount(group).max(initial=0)) if len(group) else 0
        if any(
            stored[name].shape != ((n,) if array.ndim == 1 else (width, n))
            for name, array in mine.items()
            if name not in ("ids", "group")
        ):
            raise StateMismatch("the stored state holds arrays of other shapes than this version writes")
        place = np.zeros(len(ids), dtype=np.intp)
        for one in range(n):
            place[group == one] = np.arange(int((group == one).sum()))
        slots = self.slots.of(np.clip(ids, -1, 2**31 - 1).astype(np.int32))
        came: dict[int, int] = {}  # new group -> old group
        taken: set[int] = set()
        for slot, old in zip(slots.tolist(), group.tolist(), strict=True):
            if slot >= 0 and old not in taken and int(self.group[slot]) not in came:
                came[int(self.group[slot])] = old
                taken.add(old)
        kept = [at for at, slot in enumerate(slots.tolist()) if slot >= 0 and came.get(int(self.group[slot])) == group[at]]
        into = slots[kept]
        return Moved(
            group=np.array(list(came), dtype=np.intp), from_group=np.array(list(came.values()), dtype=np.intp),
            place_of=self.place[into], group_of=self.group[into], from_place_of=place[kept], from_group_of=group[kept],
            same=len(kept) == len(ids) == len(self.slots.ids),
        )  # fmt: skip
