"""In which regime each asset works, as a few state tags say it (a recipe, a product), and which of its regimes are known by now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.errors import ConfigError, StateMismatch
from schemas.kinds import make_batch
from schemas.tags import Tag

from .aligned import Aligned, Moved
from .sentences import span
from .slots import HUGE, NEVER, Bools, Index, Readings, Times
from .state import array_text, text_array

MOST_REGIMES: Final = 32
_UNKNOWN: Final = -1
_BETWEEN: Final = "\x1f"  # the values of several state tags
Arrays = Mapping[str, npt.NDArray[np.generic]]


class Place(NamedTuple):
    """Where the k assets of a row stand. bool[k] each."""

    changed: Bools  # in another regime than at their last row
    waiting: Bools  # in one that is not learnt yet, or nobody knows in which
    learning: Bools  # in one that is known by name and not learnt yet
    learnt: Bools  # it has been learnt with this row


class Stored(NamedTuple):
    """A state as it was read back: the regimes by number, what the state tags of each group said last, and the arrays."""

    names: Sequence[str]
    said: Sequence[list[str | None]]
    arrays: Arrays


class Regimes:
    """Follows the state tags of groups in row order and adds up how long each group has been in each regime.

    A regime is one value of the state tags together; a bad reading of one makes it unknown. A model tells the first `MOST_REGIMES` of them
    apart; what comes beyond stays unknown. 312 bytes a group.
    """

    def __init__(self, groups: Mapping[str, Sequence[Tag]], *, learn_us: int, most_us: int) -> None:
        """State tags by asset, the same names for each in the same order. Rows farther apart than `most_us` are no time spent in a regime."""
        self._assets = list(groups)
        self._tags = [list(tags) for tags in groups.values()]
        self._place = {tag.id: (at, nth) for at, tags in enumerate(self._tags) for nth, tag in enumerate(tags)}
        self._is_state: Bools = np.zeros(max(self._place, default=-1) + 2, dtype=bool)
        self._is_state[list(self._place)] = True
        self._learn_us, self._most_us = learn_us, most_us
        n = len(self._assets)
        self._now = np.full(n, _UNKNOWN, dtype=np.int64)
        self._before = np.full(n, _UNKNOWN, dtype=np.int64)  # regime at the last row that was made of the group
        self._last: Times = np.full(n, NEVER)
        self._spent: Times = np.zeros((MOST_REGIMES, n), dtype=np.int64)
        self._told: Bools = np.zeros((MOST_REGIMES, n), dtype=bool)
        self._names: list[str] = []
        self._said: list[list[str | None]] = [[None] * len(tags) for tags in self._tags]
        self._news: list[tuple[int, int, int, str]] = []  # row, time, group, regime for people
        self._turns: dict[int, list[tuple[int, int]]] = {}  # by group: rows at which its regime becomes another, and which one

    def see(self, readings: Readings) -> None:
        """Take note of the state tags in these rows; `enter` and `leave` make it so."""
        ids = np.minimum(readings.tag, len(self._is_state) - 1)
        rows = np.flatnonzero(self._is_state[ids])
        if not len(rows):
            return
        texts = readings.batch.column("text").take(pa.array(rows)).to_pylist()
        values = readings.value[rows]
        values = np.where(np.abs(values) <= HUGE, values, np.nan)  # bad ones are NaN
        bad = q.is_bad(readings.quality[rows])
        for tag, seq, value, text, is_bad in zip(
            readings.tag[rows].tolist(), readings.seq[rows].tolist(), values.tolist(), texts, bad.tolist(), strict=True
        ):
            at, nth = self._place[tag]
            said = None if is_bad else text if text is not None else f"{value:.12g}" if value == value else None
            if said != self._said[at][nth]:
                self._said[at][nth] = said
                self._turns.setdefault(at, []).append((seq, self._number(self._said[at])))

    def _number(self, said: Sequence[str | None]) -> int:
        parts = [part for part in said if part is not None]
        if len(parts) < len(said):
            return _UNKNOWN
        name = _BETWEEN.join(parts)
        if name not in self._names:
            if len(self._names) >= MOST_REGIMES:
                return _UNKNOWN
            self._names.append(name)
        return self._names.index(name)

    def enter(self, rows: Aligned) -> Place:
        """The regimes as of these rows, and the time since the rows before added to them."""
        groups = rows.groups
        if self._turns:
            for at, seq in zip(groups.tolist(), rows.seq.tolist(), strict=True):
                turns = self._turns.get(at, [])
                while turns and turns[0][0] <= seq:
                    self._now[at] = turns.pop(0)[1]
        now = self._now[groups]
        changed, known, which = now != self._before[groups], now != _UNKNOWN, np.maximum(now, 0)
        passed = rows.time - self._last[groups]
        counts = known & ~changed & (self._last[groups] != NEVER) & (passed > 0) & (passed <= self._most_us)
        spent = self._spent[which, groups]
        after = spent + np.where(counts, passed, 0)
        self._spent[which, groups] = after
        self._last[groups], self._before[groups] = rows.time, now
        learning = known & (spent < self._learn_us)
        return Place(changed, learning | ~known, learning, learning & (after >= self._learn_us))

    def tell(self, rows: Aligned, learning: Bools) -> None:
        """Note each asset of the row that is `learning` its regime, once for each regime, for `leave`."""
        groups = rows.groups
        fresh = np.flatnonzero(learning & ~self._told[np.maximum(self._now[groups], 0), groups])
        for nth in fresh.tolist():
            at = int(groups[nth])
            self._told[self._now[at], at] = True
            self._news.append((int(rows.seq[nth]), int(rows.time[nth]), at, self._named(at)))

    def leave(self, model: str) -> pa.RecordBatch | None:
        """The rows of a batch are through: what its state tags said last holds. EVENT `regime_new` of what was noted, in row order, or None."""
        for at, turns in self._turns.items():
            if turns:
                self._now[at] = turns[-1][1]
        self._turns.clear()
        news, self._news = sorted(self._news), []
        if not news:
            return None
        said = f"it is learnt for {span(self._learn_us)}, and nothing is raised meanwhile"
        return make_batch(
            "event", len(news), time=np.array([time for _, time, _, _ in news]), asset=[self._assets[at] for _, _, at, _ in news],
            source=model, event="regime_new", severity="info",
            message=[
                f"{self._assets[at].rsplit('/', 1)[-1]} works in a regime that {model} does not know yet: {name}; {said}"
                for _, _, at, name in news
            ],
            attributes=[json.dumps({"regime": name, "learn_s": self._learn_us / 1e6}, ensure_ascii=False) for *_, name in news],
        )  # fmt: skip

    def forget(self, groups: Index) -> None:
        """These groups are learnt anew, all their regimes with them."""
        self._spent[:, groups] = 0

    def _named(self, group: int) -> str:
        """The regime of a group for people: `recipe 2`."""
        parts = self._names[int(self._now[group])].split(_BETWEEN)
        words = []
        for tag, part in zip(self._tags[group], parts, strict=True):
            enum = {f"{number:.12g}": name for number, name in tag.enum.items()}
            words.append(f"{tag.name} {enum.get(part, part)}")
        return ", ".join(words)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, to be stored."""
        told = json.dumps({"names": self._names, "said": self._said}, ensure_ascii=False)
        return {**self._mine(), "words": text_array(told)}

    def _mine(self) -> dict[str, npt.NDArray[Any]]:
        return {"now": self._now, "before": self._before, "last": self._last, "spent": self._spent, "told": self._told}

    def stored(self, arrays: Arrays) -> Stored:
        """A state from `arrays`, looked through before anything is taken over. Raises StateMismatch for a damaged one."""
        try:
            words = json.loads(array_text(arrays["words"]))
            names = [str(name) for name in words["names"]]
            said = [[None if part is None else str(part) for part in one] for one in words["said"]]
            mine = {name: arrays[name] for name in self._mine()}
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(f"the stored regimes are damaged: {error}") from error
        shapes = {name: (*array.shape[:-1], len(said)) for name, array in self._mine().items()}
        if len(names) > MOST_REGIMES or any(array.shape != shapes[name] for name, array in mine.items()):
            raise StateMismatch("the stored regimes are of another shape than this version writes")
        return Stored(names, said, mine)

    def restore(self, stored: Stored, moved: Moved) -> None:
        """Take it over for the groups that stayed."""
        self._names = list(stored.names)
        for name, array in self._mine().items():
            array[..., moved.group] = stored.arrays[name].astype(array.dtype)[..., moved.from_group]
        for new, old in zip(moved.group.tolist(), moved.from_group.tolist(), strict=True):
            self._said[new] = stored.said[old]


def state_tags(names: Sequence[str], by_asset: Mapping[str, Sequence[Tag]], *, where: str) -> dict[str, list[Tag]]:
    """The tags of each asset that say its regime. Raises ConfigError for an asset that lacks one of them."""
    found: dict[str, list[Tag]] = {}
    for asset, tags in by_asset.items():
        by_name = {tag.name: tag for tag in tags}
        for name in names:
            if name not in by_name:
                raise ConfigError(
                    f"{asset} has no tag {name!r} among those of the model", where=where,
                    hint=f"`tags` must match it too; it has {', '.join(sorted(by_name)[:8])}",
                )  # fmt: skip
        found[asset] = [by_name[name] for name in names]
    return found
