"""`vibration`: waveforms of rotating machines: levels, bearing lines against their own past, and velocity against zones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa

from schemas import quality as q
from schemas.kinds import SCORE, make_batch
from schemas.plugin import Plugin
from schemas.tags import Severity, Tag

from .base import EdgeModel, ModelContext, Scope, ScoreRow
from .per_tag import PerTagModel
from .scores import ScoreRows
from .sentences import interval, number, quantity
from .slots import NEVER, At, Bools, Floats, Index, Readings, Times
from .tail import STATE, TAIL, learn_tail, tail_score
from .vibration_config import HZ, RATES, VibrationConfig, check, unit_of
from .waveform import LEAST_SECONDS, LEVELS
from .waveform_rows import Blocks, Companion, Expected

_TAIL_SHARE: Final = 1.2e-3  # of normal waveforms, for each feature, lie beyond it (measured on noise after 50 to 300 waveforms)
_LEAST_SPREAD: Final = 0.05  # of a logarithm: a change by less than five per cent is nothing
_LEAST_SPREAD_OF_LINE: Final = 0.2  # times the floor
_CLIP: Final = 4.0  # standard deviations that one waveform may teach
_CLIP_COLD: Final = 10.0
_SUSPICIOUS_GAIN: Final = 0.05  # how much slower it is learnt beyond the tail
_BAND: Final = 3.0
_MEAN_OF_ABSOLUTE: Final = 1.2533
_TOLD: Final = 3  # features named by an alarm
_CHUNK: Final = 1 << 18  # samples analysed at once
_HALF: Final = 0.5
_TINY: Final = 1e-300
_VELOCITY_AT: Final = LEVELS.index("velocity")
Broken = tuple[str, int]
"""What is wrong with a waveform, and the length that was expected; 0 for any."""


class Vibration(PerTagModel):
    """Scores each waveform by the most unusual of its features, each against what the tag's own waveforms had before.

    READING(n) -> SCORE batches: a row per waveform (`value` is its RMS without the mean, in the unit of the tag); with zones, `zone_c` and
    `zone_d` too (`value` is the velocity in mm/s RMS, score 1 in the zone or beyond, else 0); `waveform`, score 1 while waveforms cannot be
    used and once 0 when they can again. Also HEALTH rows, one a feature, every `report`. Features are compared upward only (levels in the logarithm,
    lines as heights over the floor), in standard deviations of a robust level and spread; the largest is scored by a peaks-over-threshold tail (Pickands 1975) that
    is learnt per tag, as in `forecast_residual`. `contributions` names the features. Beyond the tail they are learnt twenty times slower.
    A waveform is unusable that holds NaN, is constant, shorter than 64 samples or (with zones) 0.2 s, or of another length or rate.
    Speed and rate are the last good ones that the gateway saw before the moment of the waveform. 336 bytes of state per tag, 24 more for each line or band more.
    """

    kind: ClassVar[str] = "vibration"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "asset"  # of speed and sample rate
    initial: ClassVar[Mapping[str, float]] = STATE
    learnt_with: ClassVar[tuple[str, ...]] = (
        "sample_rate", "samples", "rpm", "speed", "bearing", "orders", "harmonics", "tolerance", "envelope_low", "envelope_high",
        "bands", "memory",
    )  # fmt: skip

    def __init__(self, config: VibrationConfig, context: ModelContext) -> None:
        """Raises ConfigError for a tag that bears no waveforms, or a unit with which nothing can be done."""
        where = f"models.{context.name}"
        companions = {name for name in (config.speed, config.rate_tag) if name is not None}
        waves = [tag for tag in context.tags if tag.name not in companions]
        check(config, waves, context.tags, where)
        super().__init__(config, replace(context, tags=waves), limit=config.limit, min_samples=config.min_samples)
        n = len(waves)
        self._config, self._analysis, self._boundaries = config, config.analysis(), config.boundaries()
        self.features = self._analysis.names
        for name in ("level", "spread", "seen"):
            self.state[name] = np.zeros((n, len(self.features)))
        self._speed = Companion(config.speed or "", HZ, context.tags, waves)
        self._rate = Companion(config.rate_tag or "", RATES, context.tags, waves)
        for name, companion in (("speed", self._speed), ("rate", self._rate)):
            self.state[name], self.state[f"{name}_before"] = companion.now, companion.before
        self._length: Times = np.full(n, config.samples or 0)
        self._zone: Times = np.zeros(n, dtype=np.int64)  # 0 for A and B, 1 for C, 2 for D
        self._broken: Times = np.zeros(n, dtype=np.int64)  # 1 while the last waveform was unusable
        self._reported: Times = np.full(n, NEVER)
        self._tags, self._name = waves, context.name
        self._units = [unit_of(tag.unit) for tag in waves]
        self._least = ceil(LEAST_SECONDS * config.sample_rate) if self._boundaries is not None else 0
        self._lines = self._analysis.first_line
        self._least_spread = np.where(np.arange(len(self.features)) < self._lines, _LEAST_SPREAD, _LEAST_SPREAD_OF_LINE)
        self._tail_share = min(0.05, _TAIL_SHARE * len(self.features))
        self._slowest = 1.0 / config.memory
        self._own = np.zeros(max((tag.id for tag in context.tags), default=-1) + 2, dtype=bool)
        self._own[[tag.id for tag in context.tags]] = True
        self._further = {name: ScoreRows(context.name, name, _HALF) for name in ("waveform", "zone_c", "zone_d")}
        self._found: Floats = np.zeros((0, len(self.features)))  # the features of the rows of the batch under way
        self._why: dict[int, str] = {}  # contributions of its rows

    def _times(self) -> dict[str, Times]:
        return {
            "length": self._length, "zone": self._zone, "broken": self._broken, "reported": self._reported,
            "speed_at": self._speed.at, "rate_at": self._rate.at,
        }  # fmt: skip

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        mine = np.flatnonzero(self._own[np.minimum(readings.tag, len(self._own) - 1)])
        if len(mine) == 0:
            return []
        blocks = Blocks(readings)
        speed, broken = self._look(readings, mine, blocks)
        good = ~np.isnan(speed)
        self._found = self._features(readings, blocks, np.flatnonzero(good), speed)
        self._why = {}
        places = np.arange(len(readings), dtype=np.float64)
        scored = super().take(replace(readings, value=places, usable=None if good.all() else good))
        made = [self._finish(readings, batch) for batch in scored]
        slots = self.slots.of(readings.tag[mine])
        made += self._judge(readings, mine[slots >= 0], slots[slots >= 0], blocks, broken, good)
        self._found, self._why = self._found[:0], {}
        return made

    def _look(self, readings: Readings, mine: Index, blocks: Blocks) -> tuple[Floats, dict[int, Broken]]:
        """Row by row: shaft speed in Hz of each usable waveform (0: not known), NaN for all other rows; and why some are unusable."""
        speed = np.full(len(readings), np.nan)
        broken: dict[int, Broken] = {}
        slots = self.slots.of(readings.tag[mine]).tolist()
        moments = readings.gateway_time()[mine].tolist()
        shown = ~q.is_bad(readings.quality) & blocks.given
        if readings.active is not None:
            shown &= readings.active
        for row, slot, moment in zip(mine.tolist(), slots, moments, strict=True):
            if slot < 0:
                tag = int(readings.tag[row])
                value = float(readings.value[row]) if readings.active is None or readings.active[row] else float("nan")
                self._speed.see(tag, moment, value)
                self._rate.see(tag, moment, value)
            elif shown[row]:
                hz = self._speed.of(slot, moment) if self._config.rpm is None else self._config.rpm / 60.0
                if self._config.min_speed and not hz * 60.0 >= self._config.min_speed:
                    continue
                expected = Expected(int(self._length[slot]), self._least, self._config.sample_rate)
                why = expected.why_not(blocks.of(row), self._rate.of(slot, moment))
                if why is None:
                    speed[row], self._length[slot] = np.nan_to_num(hz), blocks.length[row]
                else:
                    broken[row] = why, expected.length
        return speed, broken

    def _features(self, readings: Readings, blocks: Blocks, rows: Index, speed: Floats) -> Floats:
        """float64[n,features] in their units, NaN for rows that are not in `rows`."""
        found = np.full((len(readings), len(self.features)), np.nan)
        groups: dict[tuple[int, float, bool], list[tuple[int, float]]] = {}
        for row, slot in zip(rows.tolist(), self.slots.of(readings.tag[rows]).tolist(), strict=True):
            factor, integrate = self._units[slot]
            groups.setdefault((int(blocks.length[row]), float(speed[row]), integrate), []).append((row, factor))
        for (length, hz, integrate), members in groups.items():
            most = max(1, _CHUNK // length)
            for chunk in (members[k : k + most] for k in range(0, len(members), most)):
                samples = np.stack([blocks.of(row) for row, _ in chunk])
                factor_ = np.array([factor for _, factor in chunk])
                found[[row for row, _ in chunk]] = self._analysis(samples, factor_, integrate, hz or np.nan)
        return found

    def _score(self, at: At, time: Times, value: Floats, count: Floats, ready: Bools | None) -> tuple[Floats, Floats, Floats]:
        rows = value.astype(np.intp)
        x = self._found[rows]
        x[:, : self._lines] = np.log(np.maximum(x[:, : self._lines], _TINY))
        s = self.view(at)
        level, spread, seen = s["level"], s["spread"], s["seen"]
        have = ~np.isnan(x)
        level[:] = np.where(have & (seen == 0.0), x, level)
        scale = np.maximum(spread, self._least_spread)
        judged = have & (seen >= self._min_samples)
        residual = np.where(have, x - level, 0.0)
        z = np.where(judged, residual / scale, 0.0)
        statistic = np.maximum(z.max(axis=1), 0.0)
        score = tail_score(statistic, s["excess"], self._tail_share)
        margin = _BAND * scale[:, 0]
        low, high = np.exp(level[:, 0] - margin), np.exp(level[:, 0] + margin)
        suspicious = statistic > TAIL
        if ready is not None:
            suspicious &= ready
        for k in np.flatnonzero(suspicious).tolist():
            self._why[int(rows[k])] = self._shares(z[k])

        gain = np.maximum(1.0 / (seen + 1.0), self._slowest) * np.where(suspicious, _SUSPICIOUS_GAIN, 1.0)[:, None] * have
        most = np.where(judged, _CLIP, _CLIP_COLD) * scale
        residual = np.clip(residual, -most, most)
        level += residual * gain
        spread += (np.abs(residual) * _MEAN_OF_ABSOLUTE - spread) * gain
        seen += have
        learn_tail(s, statistic, suspicious)
        self.keep(at, s)
        return score, low, high

    def _shares(self, z: Floats) -> str:
        """JSON {feature: share} of the most unusual ones."""
        weight = np.maximum(z, 0.0) ** 2
        most = np.argsort(-weight, kind="stable")[:_TOLD]
        total = float(weight.sum())
        return json.dumps({self.features[k]: round(float(weight[k]) / total, 4) for k in most.tolist() if weight[k] > 0})

    def _finish(self, readings: Readings, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The value of a row is the RMS of its waveform, not its place, and it says why."""
        rows = np.searchsorted(readings.seq, batch.column("seq").to_numpy())
        told = batch.column("score").is_valid().to_numpy(zero_copy_only=False)
        why = [self._why.get(row) if tell else None for row, tell in zip(rows.tolist(), told.tolist(), strict=True)]
        for name, column in (
            ("value", pa.array(self._found[rows, 0], from_pandas=True)),
            ("contributions", pa.array(why, pa.string())),
        ):
            at = SCORE.get_field_index(name)
            batch = batch.set_column(at, SCORE.field(at), column)
        return batch

    def _judge(
        self, readings: Readings, rows: Index, slots: Index, blocks: Blocks, broken: Mapping[int, Broken], good: Bools
    ) -> list[pa.RecordBatch]:
        """Zones, waveforms that cannot be used, and features as health, row by row."""
        every = self._config.report.us
        zoned: list[tuple[int, int]] = []
        told: list[tuple[int, int, int]] = []
        reported: list[int] = []
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            was = self._broken[slot]
            if row in broken or (good[row] and was):
                self._broken[slot] = row in broken
                told.append((row, row in broken, broken[row][1] if row in broken else int(blocks.length[row])))
            if not good[row]:
                continue
            if self._boundaries is not None:
                self._zone[slot] = self._zone_of(float(self._found[row, _VELOCITY_AT]), int(self._zone[slot]))
                zoned.append((row, int(self._zone[slot])))
            last, time = int(self._reported[slot]), int(readings.time[row])
            if every and (last == NEVER or abs(time - last) >= every):
                self._reported[slot] = time
                reported.append(row)
        made = []
        if zoned and self._boundaries is not None:
            at, zone = np.array(zoned, dtype=np.intp).T
            velocity = self._found[at, _VELOCITY_AT]
            for level, name in ((1, "zone_c"), (2, "zone_d")):
                bound = np.full(len(at), self._boundaries[level])
                made.append(self._rows_of(readings, name, at, zone >= level, velocity, bound))
        if told:
            at, score, length = np.array(told, dtype=np.intp).T
            why = [json.dumps({broken[row][0]: 1.0}) if row in broken else None for row in at.tolist()]
            wanted = np.where(length > 0, length, np.nan)
            made.append(self._rows_of(readings, "waveform", at, score, blocks.length[at], wanted, why))
        if reported:
            made.append(self._health(readings, np.array(reported, dtype=np.intp)))
        return made

    def _zone_of(self, velocity: float, was: int) -> int:
        """0 for A and B, 1 for C, 2 for D. A zone is left downward only by the hysteresis."""
        bounds = (self._boundaries or ())[1:]
        beyond = sum(velocity > bound for bound in bounds)
        held = sum(velocity > bound * (1.0 - self._config.hysteresis) for bound in bounds)
        return max(beyond, min(was, held))

    def _rows_of(
        self, readings: Readings, alarm: str, at: Index, score: Index | Bools, value: Floats | Index, high: Floats,
        why: Sequence[str | None] | None = None,
    ) -> pa.RecordBatch:  # fmt: skip
        return self._further[alarm].at(
            readings.time[at], readings.seq[at], readings.tag[at].astype(np.intp), value.astype(np.float64),
            score.astype(np.float64), np.full(len(at), np.nan), high, None, why,
        )  # fmt: skip

    def _health(self, readings: Readings, rows: Index) -> pa.RecordBatch:
        """HEALTH: a row for each feature that each of these waveforms has."""
        values = self._found[rows]
        which, feature = np.nonzero(~np.isnan(values))
        tags = [self._tags[slot] for slot in self.slots.of(readings.tag[rows[which]]).tolist()]
        fixed = {"crest": "1", "kurtosis": "1", "velocity": "mm/s"}
        names = [self.features[k] for k in feature.tolist()]
        units = [
            "1" if k >= self._lines else fixed.get(name, tag.unit)
            for k, name, tag in zip(feature.tolist(), names, tags, strict=True)
        ]
        at = rows[which]
        return make_batch(
            "health", len(at), time=readings.time[at], seq=readings.seq[at], tag=readings.tag[at], model=self._name, measure=names,
            value=values[which, feature], unit=units,
        )  # fmt: skip

    def measured(self, tag: Tag, alarm: str) -> Tag:
        """See Measures."""
        unit = {"zone_c": "mm/s", "zone_d": "mm/s", "waveform": "1"}.get(alarm)
        return tag if unit is None else replace(tag, unit=unit, enum={})

    def severity(self, tag: Tag, alarm: str) -> Severity:
        """See Grades: zone D is where a machine is damaged."""
        return "critical" if alarm == "zone_d" else self._config.alarm.severity

    def action(self, tag: Tag, alarm: str) -> str:
        """See Grades."""
        if alarm == "waveform":
            return "Check the sensor and how it samples; after a change on purpose set `samples` and `sample_rate` of the model"
        return ""

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        why: Mapping[str, float] = json.loads(row.contributions) if row.contributions else {}
        if row.alarm == "waveform":
            wanted = f", expected {number(row.high)}" if row.high == row.high else ""
            return f"{tag.display} sends waveforms that cannot be used ({', '.join(why)}): {number(row.value)} samples{wanted}"
        if row.alarm in ("zone_c", "zone_d"):
            return (
                f"{tag.display} vibrates with {number(float(f'{row.value:.2g}'))} mm/s RMS, beyond {number(row.high)} mm/s: "
                f"zone {'D' if row.alarm == 'zone_d' else 'C'}"
            )
        return (
            f"{tag.display} vibrates unusually: {', '.join(why) or 'its features'} above normal; "
            f"RMS {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"
        )


PLUGIN: Plugin[VibrationConfig, EdgeModel] = Plugin(VibrationConfig, Vibration)
