"""`multivariate`: do the tags of an asset still go together as they always did, although each of them alone looks normal?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from schemas.errors import ConfigError, StateMismatch
from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from .aligned import Aligned, Aligner
from .base import EdgeModel, ModelConfig, ModelContext, Scope, longer_than_nothing
from .components import Singles, added, components, statistics
from .components import size as size_of
from .regimes import Place, Regimes, state_tags
from .scores import ScoreRows
from .slots import NEVER, Bools, Floats, Index, Readings, Times, decode
from .state import pack, unpack
from .tail import gaussian_tail

MOST_TAGS: Final = 32
_CLIP: Final = 8.0  # standard deviations that one reading may count for
_SUSPICIOUS: Final = 0.99  # a score from which on a row is learnt a hundred times slower
_SUSPICIOUS_GAIN: Final = 0.01
_EVERY_NTH: Final = 4  # row by which the covariance is learnt: smoothed rows are alike
_GROWN: Final = 360.0  # rows of a tag after which it learns slowly, once its asset is ready
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
_APART: Final = 10  # steps between two rows that still belong together
_NAMED: Final = 5
_ALL: Final = slice(None)


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
    regimes: Sequence[str] = Field(
        (),
        description="Names of tags of the same asset that say in which regime it works; `tags` must match them too. A regime that is new "
        "to an asset is learnt and told as an event, and raises nothing until then.",
        examples=[["recipe"]],
    )
    learn_regime: Duration = Field(
        Duration("2h"), description="Time that an asset must have been in a regime, in all, before it may raise alarms there."
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

    _spans = field_validator("every")(longer_than_nothing)


class Multivariate:
    """Smoothed multivariate process control: principal components per asset, Hotelling's T² in their plane and the squared
    prediction error (SPE) off it (Jackson and Mudholkar 1979).

    READING(n) -> SCORE rows of assets. The tags of an asset are aligned (`aligned`), their deviations from a slow mean are
    averaged exponentially over `smoothing` rows and measured in standard deviations. The greater of T² and SPE, each divided by its expected
    value, is scored by how unusual its cube root is for this asset: that of a χ² is nearly Gaussian (Wilson and Hilferty 1931). Suspicious rows
    are learnt a hundred times slower; those of a regime that is new to the asset (`regimes`) as fast as in the warm-up, and have no score. Correlations are estimated anew whenever a fifth more was learnt, asset by asset. A tag that is missing
    counts as where the others put it; one that comes later joins at the next estimate. 461 bytes
    per tag where an asset has eight: 8 for each pair, 397 for each tag.
    """

    kind: ClassVar[str] = "multivariate"
    version: ClassVar[int] = 2
    scope: ClassVar[Scope] = "asset"

    def __init__(self, config: MultivariateConfig, context: ModelContext) -> None:
        by_asset: dict[str, list[Tag]] = {}
        for tag in context.tags:
            by_asset.setdefault(tag.asset, []).append(tag)
        states: dict[str, list[Tag]] = {}
        if config.regimes:
            states = state_tags(config.regimes, by_asset, where=f"models.{context.name}.regimes")
            by_asset = {asset: [tag for tag in tags if tag.name not in config.regimes] for asset, tags in by_asset.items()}
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
        parameters = {"memory", "smoothing", "every"} | ({"regimes"} if config.regimes else set())
        self._parameters = config.model_dump_json(include=parameters)
        self._apart_us = max(_APART * config.every.us, config.lateness.us)
        self._regimes = Regimes(states, learn_us=config.learn_regime.us, most_us=self._apart_us) if states else None
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
            "widest": np.full(cell, np.inf),  # deviation that one reading may count for
        }  # fmt: skip
        self._pairs: dict[str, Singles] = {
            "covariance": np.zeros(pair, dtype=np.float32),  # of the smoothed deviations
            "axes": np.zeros(pair, dtype=np.float32),  # [tag, component, asset]
            "plane": np.zeros(cell, dtype=np.float32),  # weights of the components in T² and SPE
            "off": np.zeros(cell, dtype=np.float32),
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
        # Fewer rows than this say nothing of how so many tags go together.
        self._least = np.array([2.0 * config.smoothing * len(tags) for tags in self._tags])
        self._steady = False  # everything is learnt and there
        self._first: Times = np.full(n, NEVER)
        self._last: Times = np.full(n, NEVER)  # its newest row
        self._since: Times = np.full(n, NEVER)  # since when it has been suspicious

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        found = self._align.take(readings)
        if self._regimes is not None:
            self._regimes.see(readings)
        with np.errstate(all="ignore"):  # what is cold computes nonsense that nobody reads
            scored = [self._score(rows) for rows in found]
        news = None if self._regimes is None else self._regimes.leave(self._rows.model)
        told = [self._told(found, scored)] if found else []
        return told if news is None else [*told, news]

    def _told(self, found: Sequence[Aligned], scored: Sequence[tuple[Floats, dict[int, str]]]) -> pa.RecordBatch:
        """The scores of all rows in the order of what they were made from."""
        if len(found) == 1 and found[0].complete:  # in row order
            [rows], [(score, because)] = found, scored
            return self._rows.of_assets(rows.time, rows.seq, self._assets, score, because)
        groups = np.concatenate([rows.groups for rows in found])
        seq, time = np.concatenate([rows.seq for rows in found]), np.concatenate([rows.time for rows in found])
        order = np.argsort(seq, kind="stable")
        score = np.concatenate([one for one, _ in scored])[order]
        starts = np.cumsum([0, *(len(rows.groups) for rows in found)])
        texts = {int(start) + nth: text for start, (_, told) in zip(starts, scored, strict=False) for nth, text in told.items()}
        because = {place: texts[at] for place, at in enumerate(order.tolist()) if at in texts} if texts else {}
        return self._rows.of_assets(time[order], seq[order], self._assets.take(pa.array(groups[order])), score, because)

    def _score(self, rows: Aligned) -> tuple[Floats, dict[int, str]]:
        """Score one row of k assets by what was known before, then learn it; and by their place what the abnormal ones come from."""
        at = rows.at
        regime = None if self._regimes is None else self._regimes.enter(rows)
        self._restart(rows, regime)
        steady = rows.complete and self._steady
        cells = {name: array[:, at] for name, array in self._cells.items()}
        each = {name: array[at] for name, array in self._each.items()}
        axes = self._pairs["axes"][:, :, at]
        known: Bools | None = None
        if steady:  # the usual case: a poll of everything, all of it learnt
            deviation = rows.value - cells["mean"]
            self._smoothed(cells, deviation)
            standard = ((cells["smooth"] - cells["level"]) * cells["scale"]).astype(np.float32)
        else:
            deviation, known = self._looked_at(rows, cells)
            standard = np.where(known, (cells["smooth"] - cells["level"]) * cells["scale"], 0.0).astype(np.float32)
            self._guess(
                standard, known & (cells["scale"] > 0.0), ~known & (cells["scale"] > 0.0), axes, self._pairs["plane"][:, at] > 0.0
            )
        part, plane, off = statistics(standard, axes, self._pairs["plane"][:, at], self._pairs["off"][:, at])
        size = size_of(plane, off)
        beyond = (size - each["location"]) / (each["spread"] * (_MEAN_OF_ABSOLUTE * _WIDER))
        score = 1.0 - gaussian_tail(beyond)
        ready = each["learnt"] > 0.0
        if not steady:
            first = self._first[at]
            first = np.where((first == NEVER) | (first > rows.time), rows.time, first)
            self._first[at] = first
            waited = (rows.time - first >= self._warm_up_us) & (each["rows"] >= self._least[at])
            ready = (each["fitted"] > 0.0) & (ready | waited)
            score = np.where(ready, score, np.nan)
        suspicious = score >= _SUSPICIOUS
        if regime is not None and self._regimes is not None:
            score = np.where(regime.waiting, np.nan, score)
            suspicious &= ~regime.waiting
            self._regimes.tell(rows, regime.learning & ready)
        because = {
            nth: self._because(int(rows.groups[nth]), standard[:, nth], part[:, nth], bool(off[nth] > plane[nth]))
            for nth in np.flatnonzero(score >= self._rows.limit).tolist()
        }

        gain = np.where(suspicious, _SUSPICIOUS_GAIN, 1.0) / self._memory
        self._calibrate(each, size, gain, ready if regime is None else ready & ~regime.waiting)
        if regime is not None:  # a new regime weighs as much per row as what was learnt in the warm-up
            gain = np.where(regime.learning, 1.0 / np.clip(each["rows"], 1.0, self._memory), gain)
        self._learn(rows, cells, each, known, deviation, gain, ready, ~suspicious)
        if not isinstance(at, slice):
            for name, array in cells.items():
                self._cells[name][:, at] = array
            for name, line in each.items():
                self._each[name][at] = line
        due = self._each["rows"][at] >= self._each["next_fit"][at]
        if regime is not None:
            due |= regime.learnt
        if not steady:
            due |= ready & (each["learnt"] == 0.0)
            self._each["learnt"][at] = np.where(ready, 1.0, self._each["learnt"][at])
        if due.any():
            self._estimate(rows.groups[due])
        self._accept(rows, suspicious)
        if not steady and rows.complete:
            everything = (self._cells["fresh"] >= self._smoothing) & (self._cells["count"] >= _GROWN)
            self._steady = bool((self._each["learnt"] > 0.0).all() and (self._each["fitted"] > 0.0).all() and everything.all())
        return score, because

    def _restart(self, rows: Aligned, regime: Place | None) -> None:
        """Assets behind a pause or in another regime are smoothed anew, lest what was before be averaged with what is."""
        last = self._last[rows.at]
        anew = (last != NEVER) & (rows.time - last > self._apart_us)
        self._last[rows.at] = rows.time
        if regime is not None:
            anew |= regime.changed
        if anew.any():
            self._cells["fresh"][:, rows.groups[anew]] = 0.0
            self._steady = False

    def _smoothed(self, cells: Mapping[str, Floats], deviation: Floats) -> None:
        """Clip the deviations and let the smoothed readings follow, both in place."""
        np.minimum(deviation, cells["widest"], out=deviation)
        np.maximum(deviation, -cells["widest"], out=deviation)
        step = cells["mean"] + deviation
        step -= cells["smooth"]
        step *= 1.0 - self._keep
        smooth = cells["smooth"]
        smooth += step

    def _looked_at(self, rows: Aligned, cells: Mapping[str, Floats]) -> tuple[Floats, Bools]:
        """Deviations of rows in which tags may be missing, new or back, and which tags are known well enough to count."""
        present = ~np.isnan(rows.value)
        new = present & (cells["count"] == 0.0)
        value = np.where(present, rows.value, cells["mean"])
        if new.any():
            for name in ("mean", "smooth", "level"):
                cells[name][new] = value[new]
        deviation = value - cells["mean"]
        fresh = cells["fresh"]
        fresh[:] = np.where(present, np.minimum(fresh + 1.0, float(self._smoothing)), 0.0)
        back = fresh == 1.0
        cells["smooth"][back] = value[back]
        self._smoothed(cells, deviation)
        return deviation, fresh >= self._smoothing

    @staticmethod
    def _guess(standard: Singles, known: Bools, unknown: Bools, axes: Singles, plane: Bools) -> None:
        """What the known tags say of the unknown ones, in place: the value that the plane gives them, found by projecting a few times."""
        columns = np.flatnonzero(unknown.any(axis=0) & known.any(axis=0))
        if not len(columns):
            return
        blank, axes, plane = unknown[:, columns], axes[:, :, columns], plane[:, columns]
        guess = standard[:, columns]
        for _ in range(_PROJECTIONS):
            part, _, _ = statistics(guess, axes, guess, guess)
            part = np.where(plane, part, np.float32(0.0))
            for tag in np.flatnonzero(blank.any(axis=1)).tolist():
                guess[tag] = np.where(blank[tag], added(part * axes[tag]), guess[tag])
        standard[:, columns] = guess

    def _learn(
        self, rows: Aligned, cells: Mapping[str, Floats], each: Mapping[str, Floats], known: Bools | None, deviation: Floats,
        slow: Floats, ready: Bools, usual: Bools,
    ) -> None:  # fmt: skip
        """Running mean and variance of each tag, covariance of the smoothed tags: exact over the warm-up, then exponential and every fourth row."""
        rows_before = each["rows"]
        rows_before += 1.0
        turn = np.remainder(rows_before, _EVERY_NTH) == 0.0
        young: Bools | None = None
        if known is None:
            if not turn.any():
                return
            gain = np.minimum(np.where(turn, _EVERY_NTH * slow, 0.0), 1.0)
        else:
            gain, young = self._gains(rows, cells, slow, ready, turn)
        cells["mean"][:] += gain * deviation
        variance = cells["variance"]
        deviation *= deviation
        deviation *= gain
        variance += deviation
        variance *= 1.0 - gain
        if turn.any():
            self._correlate(rows, cells, known, young, gain, rows_before, np.flatnonzero(turn), usual)

    def _gains(
        self, rows: Aligned, cells: Mapping[str, Floats], slow: Floats, ready: Bools, turn: Bools
    ) -> tuple[Floats, Bools]:  # fmt: skip
        """How much of this row each tag learns, where not all is learnt and there, and which tags are young: they learn from each row.

        The resolution of sensors is learnt on the way.
        """
        present = ~np.isnan(rows.value)
        young = ~ready | (cells["count"] < _GROWN)
        change = np.abs(rows.value - cells["previous"])
        np.copyto(cells["step"], change, where=(change > 0.0) & (change < cells["step"]) & young)
        np.copyto(cells["previous"], rows.value, where=present & young)
        cells["count"][:] += present & young
        share = np.maximum(1.0 / np.maximum(cells["count"], 1.0), 1.0 / self._memory) * np.where(ready, slow * self._memory, 1.0)
        share = np.minimum(share, 1.0)
        gain: Floats = np.where(young, share, np.minimum(np.where(turn, _EVERY_NTH * slow, 0.0), 1.0))
        gain[~present] = 0.0
        return gain, young

    def _correlate(
        self, rows: Aligned, cells: Mapping[str, Floats], known: Bools | None, young: Bools | None, gain: Floats, nth: Floats,
        turn: Index, usual: Bools,
    ) -> None:  # fmt: skip
        whole = len(turn) == len(self._names)
        here: slice | Index = _ALL if whole else turn
        into: slice | Index = _ALL if whole else rows.groups[turn]
        pace = np.broadcast_to(gain, cells["smooth"].shape)[:, here]
        if young is not None and known is not None:
            # Of young tags each row has its gain, and one in four counts for four here.
            pace = np.minimum(pace * np.where(young[:, here], float(_EVERY_NTH), 1.0), 1.0)
            pace[~known[:, here]] = 0.0
        away = cells["smooth"][:, here] - cells["level"][:, here]
        cells["level"][:, here] += pace * away
        paces, seen = pace.astype(np.float32), away.astype(np.float32)
        fewer = known is not None
        for tag in range(len(seen)):
            covariance = self._pairs["covariance"][tag][:, into]
            both = paces[tag]
            if fewer:  # the younger of two tags decides; a missing one is not learnt
                both = np.where((paces > 0.0) & (both > 0.0), np.maximum(paces, both), np.float32(0.0))
            change = seen * (seen[tag] * (np.float32(1.0) - both))
            change -= covariance
            change *= both
            covariance += change
            if not whole:
                self._pairs["covariance"][tag][:, into] = covariance
        number = nth[turn].astype(np.intp) // _EVERY_NTH
        apart = self._apart(nth[turn])
        kept = np.flatnonzero(usual[turn] & (number % apart == 0))
        if len(kept):
            seen = seen[:, kept]
            seen[paces[:, kept] == 0.0] = np.nan
            self._pairs["past"][number[kept] // apart[kept] % _KEPT, :, rows.groups[turn[kept]]] = seen.T

    def _apart(self, rows: Floats) -> Index:
        """How far apart the kept rows are, as a multiple of `_EVERY_NTH`: together they reach over half of what was learnt, at most `memory`."""
        most = max(1.0, self._memory / (_EVERY_NTH * _KEPT))
        apart: Index = np.exp2(np.floor(np.log2(np.clip(rows / (_EVERY_NTH * _KEPT), 1.0, most)))).astype(np.intp)
        return apart

    @staticmethod
    def _calibrate(each: Mapping[str, Floats], size: Floats, slow: Floats, ready: Bools) -> None:
        """Follow the usual size of the statistic slowly; each estimate finds it anew."""
        gain = np.where(ready, slow, 0.0)
        away = size - each["location"]
        each["location"][:] += gain * away
        each["spread"][:] += gain * (np.abs(away) - each["spread"])

    def _accept(self, rows: Aligned, suspicious: Bools) -> None:
        """What has been suspicious for so long is the new normal: the asset is learnt anew."""
        since = self._since[rows.at]
        since = np.where(suspicious, np.where(since == NEVER, rows.time, since), NEVER)
        self._since[rows.at] = since
        if self._accept_us <= 0 or not suspicious.any():
            return
        anew = rows.groups[suspicious & (rows.time - since >= self._accept_us)]
        if len(anew):
            for name in ("count", "variance", "fresh", "scale"):
                self._cells[name][:, anew] = 0.0
            for name in ("plane", "off"):
                self._pairs[name][:, anew] = 0.0
            self._pairs["covariance"][:, :, anew] = 0.0
            self._pairs["past"][:, :, anew] = np.nan
            for line in self._each.values():
                line[anew] = 0.0
            self._each["next_fit"][anew] = _FIRST_FIT
            self._cells["widest"][:, anew] = np.inf
            if self._regimes is not None:
                self._regimes.forget(anew)
            self._steady = False
            self._first[anew] = self._since[anew] = NEVER

    def _estimate(self, groups: Index) -> None:
        """Means into scales, covariances into components, for these assets."""
        rows = self._each["rows"][groups]
        much = np.where(self._each["learnt"][groups] > 0.0, self._memory, np.minimum(rows, self._memory))
        self._each["next_fit"][groups] = np.ceil(rows + _GROWTH * much) + self._phase[groups] % 7
        step = self._cells["step"][:, groups]
        spread = np.maximum(np.sqrt(self._cells["variance"][:, groups]), np.where(np.isfinite(step), step, 0.0))
        enough = np.where(self._each["learnt"][groups] > 0.0, np.minimum(_GROWN, rows / 2), _FIRST_FIT / 2)
        part = self._align.exists[:, groups] & (self._cells["count"][:, groups] >= enough) & (spread > 0.0)
        scale = np.where(part, 1.0 / np.where(spread > 0.0, spread, 1.0), 0.0)
        correlation = self._pairs["covariance"][:, :, groups].astype(np.float64) * scale * scale[:, None]
        made = components(correlation, part, self._explained)
        self._cells["scale"][:, groups] = scale
        self._cells["widest"][:, groups] = np.where(part, _CLIP * spread, np.inf)
        self._pairs["plane"][:, groups], self._pairs["off"][:, groups] = made.plane, made.off
        self._pairs["axes"][:, :, groups] = made.axes
        past = self._pairs["past"][:, :, groups]
        there: Bools = np.logical_not(np.isnan(past).all(axis=1))
        usable = made.found & (there.sum(axis=0) >= _ENOUGH)
        found = np.zeros(there.shape)
        weights = self._pairs["plane"][:, groups], self._pairs["off"][:, groups]
        for row in range(_KEPT):
            _, inside, outside = statistics(
                (np.nan_to_num(past[row]) * scale).astype(np.float32), self._pairs["axes"][:, :, groups], *weights
            )
            found[row] = np.where(there[row], size_of(inside, outside), 0.0)
        # Smoothed rows that lie close together are no independent witnesses of how large the statistic gets.
        count = there.sum(axis=0)
        trust = count * np.minimum(self._apart(rows) * _EVERY_NTH * (1.0 - self._keep) / 2.0, 1.0)
        location = added(found) / np.maximum(count, 1)
        spread = added(np.where(there, np.abs(found - location), 0.0)) / np.maximum(count, 1)
        self._each["location"][groups] = (trust * location + _WITNESSES * _LOCATION) / (trust + _WITNESSES)
        self._each["spread"][groups] = (trust * spread + _WITNESSES * _SPREAD) / (trust + _WITNESSES)
        self._each["fitted"][groups] = usable
        self._steady = self._steady and bool(usable.all())

    def _because(self, group: int, standard: Singles, part: Singles, off: bool) -> str:
        """The tags that have most to do with it, and each one's share."""
        weight = self._pairs["off" if off else "plane"][:, group]
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
            "last": self._last,
            "since": self._since,
        }
        return mine

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        aligned = {f"aligned/{name}": array for name, array in self._align.arrays().items()}
        if self._regimes is not None:
            aligned |= {f"regimes/{name}": array for name, array in self._regimes.arrays().items()}
        return pack(self.kind, self.version, self._parameters, {**aligned, **self._arrays()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel. An asset whose tags have changed is estimated anew from what is known of those that stayed."""
        stored = unpack(state, self.kind, self.version, self._parameters)
        regimes = {name.removeprefix("regimes/"): stored.pop(name) for name in [*stored] if name.startswith("regimes/")}
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
        self._steady = False
        known = None if self._regimes is None else self._regimes.stored(regimes)
        moved = self._align.restore(aligned)
        if self._regimes is not None and known is not None:
            self._regimes.restore(known, moved)
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


PLUGIN: Plugin[MultivariateConfig, EdgeModel] = Plugin(MultivariateConfig, Multivariate)
