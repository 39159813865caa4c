"""`multivariate`: do the tags of an asset still go together as they always did, although each of them alone looks normal?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from schemas.errors import ConfigError, StateMismatch
from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .aligned import Aligned, Aligner
from .base import EdgeModel, ModelConfig, ModelContext, Scope
from .scores import ScoreRows
from .slots import NEVER, Bools, Floats, Index, Readings, Times, decode
from .state import pack, unpack

Singles = npt.NDArray[np.float32]

MOST_TAGS: Final = 32
_CLIP: Final = 8.0  # standard deviations that one reading may count for
_SUSPICIOUS: Final = 0.99  # a score from which on a row is learnt a hundred times slower
_SUSPICIOUS_GAIN: Final = 0.01
_FLOOR: Final = 1e-3  # least variance of a direction, as a share of the mean one: exact copies of a tag would have none
_TEMPER: Final = 0.1
_EVERY_NTH: Final = 4  # row by which the covariance is learnt: smoothed rows are alike
_FIRST_FIT: Final = 36  # rows, and up to 20 more, so that not all assets are estimated at once
_GROWTH: Final = 0.2  # an estimate is made anew when so much more was learnt
_ENOUGH: Final = 8  # of the kept rows, for an estimate to be used
_KEPT: Final = 64  # of the rows by which the covariance is learnt, to see what an estimate makes of them
_MEAN_OF_ABSOLUTE: Final = 1.2533  # standard deviation over mean absolute deviation of a Gaussian
_WIDER: Final = 1.5  # the upper tail is taken to be that much longer than a Gaussian's of this spread
_LOCATION: Final = 1.2  # of the statistic and its mean absolute deviation, before any was seen
_SPREAD: Final = 0.25
_WITNESSES: Final = 20.0  # how many independent rows that assumption counts for
_PROJECTIONS: Final = 6
_NAMED: Final = 5


class MultivariateConfig(ModelConfig):
    """Learns how the tags of an asset go together and tells when they do not. For pumps, presses, ovens: 3 to 32 tags of one machine."""

    warm_up: Duration = Field(
        Duration("24h"),
        description="Time from the first row of an asset until it may raise alarms: what it has not seen by then is unusual.",
    )
    every: Duration = Field(Duration("1s"), description="Step to which the tags are aligned; not below their period.")
    lateness: Duration = Field(
        Duration("10s"), description="How old a tag's last good reading may be and still stand for it; older ones are missing."
    )
    limit: float = Field(0.999999, gt=0.5, lt=1, description="A score at or above it is abnormal.")
    smoothing: int = Field(
        10, ge=1, le=1000, description="Rows that are averaged: more finds smaller faults later.", examples=[10]
    )
    explained: float = Field(
        0.95, gt=0.1, lt=1, description="Share of the variance that is taken for the machine's ways; the rest should stay noise."
    )
    memory: int = Field(
        20_000, ge=100, description="Rows over which levels and correlations are learnt after the warm-up.", examples=[20_000]
    )
    accept_after: Duration = Field(
        Duration("24h"),
        description="A state that has been suspicious for so long is the new normal: the asset is learnt anew; 0 is never.",
    )


class Multivariate:
    """Smoothed multivariate process control: principal components per asset, Hotelling's T² in their plane and the squared
    prediction error (SPE) off it (Jackson and Mudholkar 1979).

    READING(n) -> SCORE rows of assets. The tags of an asset are aligned (`aligned`), their deviations from a slow mean are
    averaged exponentially over `smoothing` rows and measured in standard deviations. The greater of T² and SPE, each divided by its expected
    value, is scored by how unusual its cube root is for this asset: that of a χ² is nearly Gaussian (Wilson and Hilferty 1931). Suspicious rows
    are learnt a hundred times slower. Correlations are estimated anew whenever a fifth more was learnt, asset by asset. A tag that is missing
    counts as where the others put it; one that comes later joins at the next estimate. 460 bytes
    per tag where an asset has eight: 8 for each pair, 396 for each tag.
    """

    kind: ClassVar[str] = "multivariate"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "asset"

    def __init__(self, config: MultivariateConfig, context: ModelContext) -> None:
        by_asset: dict[str, list[Tag]] = {}
        for tag in context.tags:
            by_asset.setdefault(tag.asset, []).append(tag)
        for asset, tags in by_asset.items():
            if len(tags) > MOST_TAGS:
                raise ConfigError(
                    f"{asset} has {len(tags)} of the model's tags, and a multivariate model takes {MOST_TAGS} of an asset",
                    where=f"models.{context.name}.tags", hint="name those that belong together, or make two entries",
                )  # fmt: skip
        self._names = list(by_asset)
        self._assets = pa.array(self._names, pa.string())
        self._tags = [list(tags) for tags in by_asset.values()]
        self._align = Aligner(
            [[tag.id for tag in tags] for tags in by_asset.values()], every_us=config.every.us, lateness_us=config.lateness.us
        )
        self._smoothing, self._keep = config.smoothing, 1.0 - 1.0 / config.smoothing
        self._explained, self._memory, self._warm_up_us = config.explained, float(config.memory), config.warm_up.us
        self._parameters = config.model_dump_json(include={"memory", "smoothing", "every"})
        self._accept_us = config.accept_after.us
        self._rows = ScoreRows(context.name, config.alarm.name or context.name, config.limit)
        width, n = self._align.width, len(by_asset)
        cell, pair = (width, n), (width, width, n)
        self._cells: dict[str, Floats] = {
            "mean": np.zeros(cell), "variance": np.zeros(cell), "count": np.zeros(cell), "step": np.full(cell, np.inf),
            "previous": np.full(cell, np.nan), "smooth": np.zeros(cell),
            "level": np.zeros(cell),  # mean of the smoothed readings
            "fresh": np.zeros(cell),  # rows in a row in which it had a reading
            "scale": np.zeros(cell),  # 1 / standard deviation as of the estimate; 0 where the tag has no part in it
            "plane": np.zeros(cell), "off": np.zeros(cell),  # weights of the components in T² and SPE
        }  # fmt: skip
        self._pairs: dict[str, Singles] = {
            "covariance": np.zeros(pair, dtype=np.float32),  # of the smoothed deviations
            "axes": np.zeros(pair, dtype=np.float32),  # [tag, component, asset]
            "past": np.full((_KEPT, *cell), np.nan, dtype=np.float32),  # smoothed deviations, a ring
        }
        self._each: dict[str, Floats] = {
            "rows": np.zeros(n), "next_fit": np.zeros(n), "location": np.full(n, _LOCATION), "spread": np.full(n, _SPREAD),
            "fitted": np.zeros(n), "learnt": np.zeros(n)
        }  # fmt: skip
        self._phase = np.array(
            [crc32(name.encode()) for name in self._names], dtype=np.int64
        )  # lest all assets do their work at once
        self._each["next_fit"][:] = _FIRST_FIT + self._phase % 20
        self._first: Times = np.full(n, NEVER)
        self._since: Times = np.full(n, NEVER)  # since when it has been suspicious

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        found = self._align.take(readings)
        if not found:
            return []
        with np.errstate(all="ignore"):  # what is cold computes nonsense that nobody reads
            scored = [self._score(rows) for rows in found]
        groups = np.concatenate([rows.groups for rows in found])
        seq, time = np.concatenate([rows.seq for rows in found]), np.concatenate([rows.time for rows in found])
        score = np.concatenate([one for one, _ in scored])
        because = [text for _, texts in scored for text in texts]
        order = np.argsort(seq, kind="stable")
        return [
            self._rows.of_assets(
                time[order], seq[order], self._assets.take(pa.array(groups[order])), score[order],
                [because[at] for at in order.tolist()],
            )
        ]  # fmt: skip

    def _score(self, rows: Aligned) -> tuple[Floats, list[str | None]]:
        """Score one row of k assets by what was known before, then learn it."""
        at = rows.at
        cells = {name: array[:, at] for name, array in self._cells.items()}
        each = {name: array[at] for name, array in self._each.items()}
        present = ~np.isnan(rows.value)
        fitted = each["fitted"] > 0.0
        new = present & (cells["count"] == 0.0)
        value = np.where(present, rows.value, cells["mean"])
        if new.any():
            for name in ("mean", "smooth", "level"):
                cells[name][new] = value[new]
        deviation = value - cells["mean"]
        if fitted.any():
            widest = np.where(cells["scale"] > 0.0, _CLIP / cells["scale"], np.inf)
            deviation = np.clip(deviation, -widest, widest)
        smooth, fresh = cells["smooth"], cells["fresh"]
        fresh[:] = np.where(present, fresh + 1.0, 0.0)
        back = fresh == 1.0
        smooth[back] = value[back]
        smooth += (1.0 - self._keep) * (cells["mean"] + deviation - smooth)

        known = fresh >= self._smoothing
        axes = self._pairs["axes"][:, :, at]
        standard = np.where(known, (smooth - cells["level"]) * cells["scale"], 0.0)
        self._guess(standard, known, axes, cells)
        part, plane, off = _statistics(standard, axes, cells["plane"], cells["off"])
        size = _size(plane, off)
        beyond = (size - each["location"]) / (each["spread"] * (_MEAN_OF_ABSOLUTE * _WIDER))
        score = 1.0 - _upper_tail(beyond)
        first = self._first[at]
        first = np.where((first == NEVER) | (first > rows.time), rows.time, first)
        self._first[at] = first
        ready = fitted & ((each["learnt"] > 0.0) | (rows.time - first >= self._warm_up_us))
        score = np.where(ready, score, np.nan)
        because: list[str | None] = [None] * len(score)
        for nth in np.flatnonzero(score >= self._rows.limit).tolist():
            because[nth] = self._because(int(rows.groups[nth]), standard[:, nth], part[:, nth], bool(off[nth] > plane[nth]))

        suspicious = score >= _SUSPICIOUS
        weight = np.where(suspicious, _SUSPICIOUS_GAIN, 1.0)
        self._learn(rows, cells, each, present, known, deviation, np.where(ready, weight / self._memory, 1.0), ~suspicious)
        self._calibrate(each, size, weight, ready)
        if not isinstance(at, slice):
            for name, array in cells.items():
                self._cells[name][:, at] = array
            for name, line in each.items():
                self._each[name][at] = line
        turned = ready & (each["learnt"] == 0.0)
        self._each["learnt"][at] = np.where(ready, 1.0, self._each["learnt"][at])
        due = rows.groups[turned | (self._each["rows"][at] >= self._each["next_fit"][at])]
        if len(due):
            self._estimate(due)
        self._accept(rows, suspicious)
        return score, because

    def _guess(self, standard: Floats, known: Bools, axes: Singles, cells: Mapping[str, Floats]) -> None:
        """What the known tags say of the unknown ones, in place: the value that the plane gives them, found by projecting a few times."""
        unknown = ~known & (cells["scale"] > 0.0)
        columns = np.flatnonzero(unknown.any(axis=0) & known.any(axis=0))
        if not len(columns):
            return
        blank, axes = unknown[:, columns], axes[:, :, columns]
        plane = cells["plane"][:, columns] > 0.0
        guess = standard[:, columns]
        for _ in range(_PROJECTIONS):
            part, _, _ = _statistics(guess, axes, guess, guess)
            part = np.where(plane, part, 0.0)
            for tag in np.flatnonzero(blank.any(axis=1)).tolist():
                guess[tag] = np.where(blank[tag], _added(part * axes[tag]), guess[tag])
        standard[:, columns] = guess

    def _learn(
        self, rows: Aligned, cells: dict[str, Floats], each: dict[str, Floats], present: Bools, known: Bools, deviation: Floats, most: Floats, usual: Bools
    ) -> None:  # fmt: skip
        """Running mean and variance of each tag, covariance of the smoothed tags: exact over the warm-up, then exponential."""
        change = np.abs(rows.value - cells["previous"])
        np.copyto(cells["step"], change, where=(change > 0.0) & (change < cells["step"]))
        np.copyto(cells["previous"], rows.value, where=present)
        cells["count"] += present
        gain = np.where(present, np.minimum(np.maximum(1.0 / np.maximum(cells["count"], 1.0), 1.0 / self._memory), most), 0.0)
        cells["mean"] += gain * deviation
        cells["variance"][:] = (1.0 - gain) * (cells["variance"] + gain * deviation * deviation)
        nth = each["rows"] + 1.0
        each["rows"][:] = nth
        turn = np.flatnonzero((nth + self._phase[rows.groups]) % _EVERY_NTH == 0.0)
        if not len(turn):
            return
        into = rows.groups[turn]
        pace = np.where(known[:, turn], np.minimum(gain[:, turn] * _EVERY_NTH, 1.0), 0.0)
        away = cells["smooth"][:, turn] - cells["level"][:, turn]
        cells["level"][:, turn] += pace * away
        paces, seen = pace.astype(np.float32), away.astype(np.float32)
        for tag in range(len(seen)):
            covariance = self._pairs["covariance"][tag][:, into]
            # The younger of two tags decides; a missing one is not learnt.
            both = np.where((paces > 0.0) & (paces[tag] > 0.0), np.maximum(paces, paces[tag]), np.float32(0.0))
            covariance += both * (seen * seen[tag] * (np.float32(1.0) - both) - covariance)
            self._pairs["covariance"][tag][:, into] = covariance
        number = nth[turn].astype(np.intp) // _EVERY_NTH
        apart = self._apart(nth[turn])
        kept = usual[turn] & (number % apart == 0)
        seen[paces == 0.0] = np.nan
        self._pairs["past"][number[kept] // apart[kept] % _KEPT, :, into[kept]] = seen[:, kept].T

    def _apart(self, rows: Floats) -> Index:
        """How far apart the kept rows are, as a multiple of `_EVERY_NTH`: together they reach over half of what was learnt, at most `memory`."""
        most = max(1.0, self._memory / (_EVERY_NTH * _KEPT))
        apart: Index = np.exp2(np.floor(np.log2(np.clip(rows / (_EVERY_NTH * _KEPT), 1.0, most)))).astype(np.intp)
        return apart

    def _calibrate(self, each: dict[str, Floats], size: Floats, weight: Floats, ready: Bools) -> None:
        """Follow the usual size of the statistic slowly; each estimate finds it anew."""
        gain = np.where(ready, weight / self._memory, 0.0)
        away = size - each["location"]
        each["location"] += gain * away
        each["spread"] += gain * (np.abs(away) - each["spread"])

    def _accept(self, rows: Aligned, suspicious: Bools) -> None:
        """What has been suspicious for so long is the new normal: the asset is learnt anew."""
        since = self._since[rows.at]
        since = np.where(suspicious, np.where(since == NEVER, rows.time, since), NEVER)
        self._since[rows.at] = since
        if self._accept_us <= 0 or not suspicious.any():
            return
        anew = rows.groups[suspicious & (rows.time - since >= self._accept_us)]
        if len(anew):
            for name in ("count", "variance", "fresh", "scale", "plane", "off"):
                self._cells[name][:, anew] = 0.0
            self._pairs["covariance"][:, :, anew] = 0.0
            self._pairs["past"][:, :, anew] = np.nan
            for line in self._each.values():
                line[anew] = 0.0
            self._each["next_fit"][anew] = _FIRST_FIT
            self._first[anew] = self._since[anew] = NEVER

    def _estimate(self, groups: Index) -> None:
        """Means into scales, covariances into components, for these assets."""
        rows = self._each["rows"][groups]
        much = np.where(self._each["learnt"][groups] > 0.0, self._memory, np.minimum(rows, self._memory))
        self._each["next_fit"][groups] = np.ceil(rows + _GROWTH * much) + self._phase[groups] % 7
        step = self._cells["step"][:, groups]
        spread = np.maximum(np.sqrt(self._cells["variance"][:, groups]), np.where(np.isfinite(step), step, 0.0))
        part = self._align.exists[:, groups] & (self._cells["count"][:, groups] >= _FIRST_FIT / 2) & (spread > 0.0)
        scale = np.where(part, 1.0 / np.where(spread > 0.0, spread, 1.0), 0.0)
        correlation = self._pairs["covariance"][:, :, groups].astype(np.float64) * scale * scale[:, None]
        correlation = (correlation + correlation.transpose(1, 0, 2)) / 2
        value, axes = np.linalg.eigh(correlation.transpose(2, 0, 1))
        value, axes = (
            value[:, ::-1].T,
            axes[:, :, ::-1].transpose(1, 2, 0),
        )  # largest first; [component, asset], [tag, component, asset]
        tags = part.sum(axis=0)
        real = np.arange(len(value))[:, None] < tags
        value = np.where(real, value, 0.0)
        total = _added(value)
        value = np.where(real, np.maximum(value, _FLOOR * total / np.maximum(tags, 1)), 0.0)
        before = np.cumsum(value, axis=0) - value
        plane = real & (before < self._explained * _added(value)) & (np.arange(len(value))[:, None] < np.maximum(tags - 1, 1))
        off = real & ~plane
        self._cells["scale"][:, groups] = scale
        self._cells["plane"][:, groups] = np.where(
            plane, 1.0 / np.where(value > 0, value, 1.0) / np.maximum(plane.sum(axis=0), 1), 0.0
        )
        # Directions off the plane weigh by their own variance, tempered: a quiet one must not drown in a noisy one, nor rounding be a fault.
        tempered = value + _TEMPER * _added(np.where(off, value, 0.0)) / np.maximum(off.sum(axis=0), 1)
        rest = _added(np.where(off, value / np.where(off, tempered, 1.0), 0.0))
        self._cells["off"][:, groups] = np.where(off, 1.0 / np.where(off, tempered * np.where(rest > 0, rest, 1.0), 1.0), 0.0)
        self._pairs["axes"][:, :, groups] = axes
        past = self._pairs["past"][:, :, groups].astype(np.float64)
        there: Bools = np.logical_not(np.isnan(past).all(axis=1))
        usable = (tags > 0) & (total > 0) & (there.sum(axis=0) >= _ENOUGH)
        found = np.zeros(there.shape)
        weights = self._cells["plane"][:, groups], self._cells["off"][:, groups]
        for row in range(_KEPT):
            _, inside, outside = _statistics(np.nan_to_num(past[row]) * scale, axes, *weights)
            found[row] = np.where(there[row], _size(inside, outside), 0.0)
        # Smoothed rows that lie close together are no independent witnesses of how large the statistic gets.
        count = there.sum(axis=0)
        trust = count * np.minimum(self._apart(rows) * _EVERY_NTH * (1.0 - self._keep) / 2.0, 1.0)
        location = _added(found) / np.maximum(count, 1)
        spread = _added(np.where(there, np.abs(found - location), 0.0)) / np.maximum(count, 1)
        self._each["location"][groups] = (trust * location + _WITNESSES * _LOCATION) / (trust + _WITNESSES)
        self._each["spread"][groups] = (trust * spread + _WITNESSES * _SPREAD) / (trust + _WITNESSES)
        self._each["fitted"][groups] = usable

    def _because(self, group: int, standard: Floats, part: Floats, off: bool) -> str:
        """The tags that have most to do with it, and each one's share."""
        weight = self._cells["off" if off else "plane"][:, group]
        axes = self._pairs["axes"][:, :, group].astype(np.float64)
        through = axes @ (np.where(weight > 0.0, part, 0.0) if off else weight * part)
        share = through**2 if off else np.maximum(standard * through, 0.0)
        share = share / max(float(share.sum()), 1e-300)
        named = sorted(range(len(self._tags[group])), key=lambda tag: -share[tag])[:_NAMED]
        return json.dumps({self._tags[group][tag].path: round(float(share[tag]), 3) for tag in named if share[tag] >= 0.01})

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        mine: dict[str, npt.NDArray[np.generic]] = {
            **self._cells,
            **self._pairs,
            **self._each,
            "first": self._first,
            "since": self._since,
        }
        return mine

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        aligned = {f"aligned/{name}": array for name, array in self._align.arrays().items()}
        return pack(self.kind, self.version, self._parameters, {**aligned, **self._arrays()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel. An asset whose tags have changed is estimated anew from what is known of those that stayed."""
        stored = unpack(state, self.kind, self.version, self._parameters)
        aligned = {name.removeprefix("aligned/"): array for name, array in stored.items() if name.startswith("aligned/")}
        mine = self._arrays()
        if (
            mine.keys() != stored.keys() - {f"aligned/{name}" for name in aligned}
            or "step" not in aligned
            or "value" not in aligned
        ):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        cell = aligned["value"].shape
        shapes = {1: cell[1:], 2: cell, 3: (*cell[:1], *cell)}
        if any(stored[name].shape != ((_KEPT, *cell) if name == "past" else shapes[array.ndim]) for name, array in mine.items()):
            raise StateMismatch("the stored state holds arrays of other shapes than this version writes")
        moved = self._align.restore(aligned)
        for name, array in mine.items():
            given = stored[name].astype(array.dtype)
            if array.ndim == 1:
                array[moved.group] = given[moved.from_group]
            elif array.ndim == 2:
                array[moved.place_of, moved.group_of] = given[moved.from_place_of, moved.from_group_of]
            elif name == "past":
                array[:, moved.place_of, moved.group_of] = given[:, moved.from_place_of, moved.from_group_of]
            else:
                for new, old in zip(moved.group.tolist(), moved.from_group.tolist(), strict=True):
                    into, out = moved.place_of[moved.group_of == new], moved.from_place_of[moved.group_of == new]
                    array[np.ix_(into, into, [new])] = given[np.ix_(out, out, [old])]
        if not moved.same:
            changed = [
                new
                for new, old in zip(moved.group.tolist(), moved.from_group.tolist(), strict=True)
                if self._changed(new, old, aligned)
            ]
            self._each["next_fit"][changed] = 0.0
            self._each["fitted"][changed] = 0.0
            self._cells["scale"][:, changed] = 0.0

    def _changed(self, new: int, old: int, aligned: Mapping[str, npt.NDArray[np.generic]]) -> bool:
        before: Sequence[int] = aligned["ids"][aligned["group"] == old].tolist()
        return tuple(before) != self._align.groups[new]


def _statistics(standard: Floats, axes: Singles | Floats, plane: Floats, off: Floats) -> tuple[Floats, Floats, Floats]:
    """Components of k standardised rows, T² and SPE as multiples of what they are on average; one after the other, so that a
    row has the same result whatever rows are beside it."""
    part = standard[0] * axes[0]
    for tag in range(1, len(standard)):
        part += standard[tag] * axes[tag]
    power = part * part
    return part, _added(power * plane), _added(power * off)


def _size(plane: Floats, off: Floats) -> Floats:
    """The cube root of a χ² over its degrees of freedom is nearly Gaussian."""
    size: Floats = np.cbrt(np.maximum(plane, off))
    return size


def _added(parts: Floats) -> Floats:
    """Sum over the first axis, one after the other: the same however many columns there are."""
    total = parts[0].copy() if len(parts) else np.zeros(parts.shape[1:])
    for one in parts[1:]:
        total += one
    return total


def _upper_tail(z: Floats) -> Floats:
    """1 − Φ(z) to a relative 1 %, for z in standard deviations (Abramowitz and Stegun 26.2.16)."""
    size = np.abs(z)
    t = 1.0 / (1.0 + 0.33267 * size)
    tail = np.exp(-0.5 * size * size) * 0.3989422804 * t * (0.4361836 + t * (-0.1201676 + t * 0.9372980))
    return np.where(z < 0.0, 1.0 - tail, tail)


PLUGIN: Plugin[MultivariateConfig, EdgeModel] = Plugin(MultivariateConfig, Multivariate)
