"""Tries a model on a plant's own past: the alarms that it would have raised, held against what really was wrong.

The model set of the gateway with its alarm layer runs over a file or a lake, as `genba model score` does; only its alarms and, for a
plot, a few tags are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cloud_sinks.moments import at_us
from edge_models.base import ModelConfig
from edge_models.runtime import ModelSet, Outputs, watched
from edge_models.sentences import span
from gateway import catalogue
from schemas.tags import Tag

from .labels import Label, Labels, Meant, resolved
from .lake_plot import BUCKETS, Line, Picture
from .score import Recording
from .score_plan import Request, plan_of
from .score_polars import Groups

DAY_US: Final = 86_400_000_000
_MINUTE_US: Final = 60_000_000
MOST_LINES: Final = 4
_ROWS: Final = 4_000_000  # of a lake, held at a time
_MOST_TOLD: Final = 10
_KEPT: Final = 400_000  # points of a line, from which on it is thinned
Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


@dataclass
class Alarm:
    """One alarm that a person would have been told of. `tag` is the id of a tag, None: it is about an asset."""

    raised_us: int
    alarm: str
    tag: int | None
    asset: str
    severity: str
    problem: str
    cleared_us: int | None = None
    label: Label | None = None
    """The label that it belongs to; None: it belongs to none."""


@dataclass(frozen=True)
class Figures:
    """How the alarms of a model compare with labels. None where there is nothing to divide by.

    An alarm is true when it was raised within a label of its tag or asset, and false otherwise; where the labels are verdicts, it is
    false when it was raised within one that says `false`, and otherwise nobody has judged it. A label is found when an alarm was
    raised within it. `days` is the time from the first to the last score, `asset_days` the same for each asset, added up.
    """

    labels: int
    found: int
    not_scored: int  # labels among the missed in which the model gave no score: it was not warm, or there was no good reading
    not_watched: int  # labels left out, because they are about tags that the model does not watch
    alarms: int
    true: int
    false: int
    not_judged: int
    held_back: int  # alarms that were suppressed and never told
    precision: float | None
    recall: float | None
    days: float
    asset_days: float
    false_per_day: float | None
    false_per_asset_day: float | None
    delay_median_s: float | None
    delay_p90_s: float | None


@dataclass
class Trace:
    """What a line of the plot is made of, thinned as it grows; `value` is the score where a model is about an asset."""

    time: list[Times] = field(default_factory=list)
    columns: list[Floats] = field(default_factory=list)  # float64[3,n]: value, low, high
    held: int = 0

    def add(self, time: Times, columns: Floats) -> None:
        """More points, in any order."""
        self.time.append(time)
        self.columns.append(columns)
        self.held += len(time)
        if self.held > _KEPT:
            kept_time, kept = self.points()
            self.time, self.columns, self.held = [kept_time], [kept], len(kept_time)

    def points(self) -> tuple[Times, Floats]:
        """In order of time; at most the first, last, least and greatest of each of `BUCKETS` intervals."""
        if not self.time:
            return np.zeros(0, np.int64), np.zeros((3, 0))
        time, columns = np.concatenate(self.time), np.concatenate(self.columns, axis=1)
        order = np.argsort(time, kind="stable")
        time, columns = time[order], columns[:, order]
        if len(time) <= 4 * BUCKETS:
            return time, columns
        bucket = (time - time[0]) * BUCKETS // (time[-1] - time[0] + 1)
        first = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]])
        last = np.r_[first[1:], len(time)] - 1
        by_value = np.lexsort((columns[0], bucket))
        kept = np.unique(np.concatenate([first, last, by_value[first], by_value[last]]))
        return time[kept], columns[:, kept]


class Watch:
    """Takes note of what a model set says. `drawn` are the ids of the tags, or the names of the assets, that a plot shows."""

    def __init__(self, tags: Sequence[Tag], drawn: Iterable[int | str] = ()) -> None:
        self.alarms: dict[str, Alarm] = {}
        self.held_back: set[str] = set()
        self.span: dict[str, tuple[int, int]] = {}  # asset -> first and last time of a score
        self.traces: dict[int | str, Trace] = {one: Trace() for one in drawn}
        self._assets = list(dict.fromkeys(tag.asset for tag in tags))
        number = {asset: at for at, asset in enumerate(self._assets)}
        self._asset_of = np.zeros(max((tag.id for tag in tags), default=-1) + 1, dtype=np.intp)
        self._asset_of[[tag.id for tag in tags]] = [number[tag.asset] for tag in tags]
        self._seen: dict[str, list[Times]] = {}  # asset -> minutes with a score

    def take(self, out: Outputs) -> None:
        """One update's scores and alerts."""
        for scores in out.scores:
            self._scores(scores)
        for alerts in out.alerts:
            self._alerts(alerts)

    def scored_within(self, assets: Iterable[str], start_us: int, end_us: int) -> bool:
        """Whether any of the assets had a score in this time, to the minute."""
        for asset in assets:
            minutes = np.concatenate(self._seen.get(asset, [np.zeros(0, np.int64)]))
            if ((minutes >= start_us // _MINUTE_US) & (minutes <= end_us // _MINUTE_US)).any():
                return True
        return False

    def _scores(self, scores: pa.RecordBatch) -> None:
        given = scores.column("score").is_valid().to_numpy(zero_copy_only=False)
        time: Times = scores.column("time").view(pa.int64()).to_numpy()
        by_tag = scores.column("tag").null_count == 0
        if by_tag:
            tag = scores.column("tag").to_numpy()
            place = self._asset_of[tag]
            names: Sequence[str] = self._assets
        else:
            coded = scores.column("asset").dictionary_encode()
            place, names = coded.indices.to_numpy(zero_copy_only=False).astype(np.intp), coded.dictionary.to_pylist()
        for at in np.unique(place[given]).tolist():
            mine = time[given & (place == at)]
            first, last = self.span.get(names[at], (int(mine[0]), int(mine[0])))
            self.span[names[at]] = min(first, int(mine.min())), max(last, int(mine.max()))
            self._seen.setdefault(names[at], []).append(np.unique(mine // _MINUTE_US))
        for one, trace in self.traces.items():
            if isinstance(one, str):
                rows = np.flatnonzero([] if by_tag else given & np.array([name == one for name in names])[place])
            else:
                rows = np.flatnonzero(tag == one if by_tag else [])
            if len(rows):
                value, low, high = (scores.column(name).to_numpy(zero_copy_only=False)[rows] for name in ("value", "low", "high"))
                if isinstance(one, str):
                    value, high = (scores.column(name).to_numpy(zero_copy_only=False)[rows] for name in ("score", "limit"))
                known = np.isfinite(value)
                trace.add(time[rows][known], np.stack([value, low, high])[:, known])

    def _alerts(self, alerts: pa.RecordBatch) -> None:
        names = ("id", "alarm", "tag", "asset", "transition", "severity", "problem")
        times = alerts.column("time").view(pa.int64()).to_pylist()
        for time, row in zip(times, alerts.select(names).to_pylist(), strict=True):
            number, transition = row["id"], row["transition"]
            if transition == "raised" and number not in self.alarms:
                self.alarms[number] = Alarm(time, row["alarm"], row["tag"], row["asset"], row["severity"], row["problem"])
                self.held_back.discard(number)
            elif transition == "suppressed" and number not in self.alarms:
                self.held_back.add(number)
            elif transition == "cleared" and number in self.alarms:
                self.alarms[number].cleared_us = time


@dataclass(frozen=True)
class Backtest:
    """What came of it: figures, every alarm in order with its label, every label that counts, and what a plot shows."""

    figures: Figures
    alarms: Sequence[Alarm]
    labels: Sequence[Label]
    missed: Sequence[Label]
    lines: Sequence[Line]
    tags: Sequence[Tag]
    complete: bool = True  # see Labels

    def picture(self) -> Picture:
        """The lines with their bands, the alarms and the labels."""
        shown = {line.tag for line in self.lines}
        path = {tag.id: tag.path for tag in self.tags}
        times = [time for line in self.lines for time in line.time[[0, -1]].tolist()] or [0]
        marks = [
            (one.raised_us, one.alarm, one.severity)
            for one in self.alarms
            if (one.asset if one.tag is None else path[one.tag]) in shown or one.asset in shown
        ]
        spans = [(label.start_us, label.end_us) for label in self.labels if label.real]
        return Picture(list(self.lines), marks, min(times), max(times) + 1, labels=spans)

    def sentences(self) -> Iterator[str]:
        """For people, line by line."""
        f = self.figures
        of = {"precision": f"{f.true} true, {f.false} false", "recall": f"{f.found} of {f.labels} labels found"}
        for name, value in (("precision", f.precision), ("recall", f.recall)):
            yield f"{name:<28}{'-' if value is None else f'{value:.1%}'}  ({of[name]})"
        for name, rate, over in (
            ("false alarms a day", f.false_per_day, f"{f.days:.3g} days"),
            ("false alarms an asset-day", f.false_per_asset_day, f"{f.asset_days:.3g} asset-days"),
        ):
            yield f"{name:<28}{'-' if rate is None else f'{rate:.3g}'}  (over {over} with scores)"
        for name, delay in (("delay, median", f.delay_median_s), ("delay, 90 % within", f.delay_p90_s)):
            yield f"{name:<28}{'-' if delay is None else span(round(delay * 1e6))}"
        for count, what in (
            (f.not_judged, "alarms that nobody has judged"),
            (f.held_back, "alarms were held back and are not counted (peak first, budget)"),
            (f.not_scored, "of the missed labels lie where the model gave no score: cold, or no good readings"),
            (f.not_watched, "labels are left out: about tags that the model does not watch"),
        ):
            if count:
                yield f"{count} {what}"
        wrong = [(one.raised_us, f"{one.alarm}: {one.problem}") for one in self.alarms if self.wrong(one)]
        for title, told in (
            ("missed", [(one.start_us, f"{one.subject} ({one.where})") for one in self.missed]),
            ("false", wrong),
        ):
            yield from (f"{title}  {at_us(time):%Y-%m-%d %H:%M:%S}  {said}" for time, said in told[:_MOST_TOLD])
            if len(told) > _MOST_TOLD:
                yield f"  and {len(told) - _MOST_TOLD} more; --json tells all"

    def wrong(self, alarm: Alarm) -> bool:
        """Whether it is a false one."""
        return self.complete if alarm.label is None else not alarm.label.real

    def document(self) -> dict[str, Any]:
        """For programs: times in µs."""
        path = {tag.id: tag.path for tag in self.tags}
        alarms = [
            {
                **{name: getattr(one, name) for name in ("raised_us", "cleared_us", "alarm", "severity", "problem")},
                "tag": None if one.tag is None else path[one.tag], "asset": one.asset, "label": one.label and asdict(one.label),
            }
            for one in self.alarms
        ]  # fmt: skip
        return {**asdict(self.figures), "alarms_raised": alarms, "missed": [asdict(label) for label in self.missed]}


def compare(
    watch: Watch, labels: Labels, meant: Sequence[Meant], *, not_watched: int = 0, early_us: int = 0
) -> tuple[Figures, list[Label]]:
    """Figures, and the labels that were missed; each alarm gets its `label`. `early_us`: it may come so long before its label begins."""
    alarms = sorted(watch.alarms.values(), key=lambda one: one.raised_us)
    real = [one for one in meant if one.label.real]
    delays: dict[int, float] = {}
    false = 0
    for alarm in alarms:
        mine = [at for at, one in enumerate(real) if _within(alarm, one, early_us)]
        for at in mine:
            delays.setdefault(at, max(0, alarm.raised_us - real[at].label.start_us) / 1e6)
        if mine:
            alarm.label = max((real[at].label for at in mine), key=lambda label: label.start_us)
            continue
        wrong = next((one.label for one in meant if not one.label.real and _within(alarm, one, early_us)), None)
        alarm.label = wrong
        false += wrong is not None or labels.complete
    true = sum(alarm.label is not None and alarm.label.real for alarm in alarms)
    missed = [one for at, one in enumerate(real) if at not in delays]
    dark = sum(not watch.scored_within(one.assets, one.label.start_us, one.label.end_us) for one in missed)
    days = (max(b for _, b in watch.span.values()) - min(a for a, _ in watch.span.values())) / DAY_US if watch.span else 0.0
    asset_days = sum(last - first for first, last in watch.span.values()) / DAY_US
    late = np.array([*delays.values()])
    figures = Figures(
        labels=len(real), found=len(delays), not_scored=dark, not_watched=not_watched, alarms=len(alarms), true=true, false=false,
        not_judged=len(alarms) - true - false, held_back=len(watch.held_back),
        precision=true / (true + false) if true + false else None, recall=len(delays) / len(real) if real else None,
        days=days, asset_days=asset_days, false_per_day=false / days if days else None,
        false_per_asset_day=false / asset_days if asset_days else None,
        delay_median_s=float(np.median(late)) if len(late) else None,
        delay_p90_s=float(np.quantile(late, 0.9)) if len(late) else None,
    )  # fmt: skip
    return figures, [one.label for one in missed]


def _within(alarm: Alarm, meant: Meant, early_us: int) -> bool:
    about = alarm.asset in meant.assets if alarm.tag is None else alarm.tag in meant.tags
    return about and meant.label.start_us - early_us <= alarm.raised_us <= meant.label.end_us


def of_file(recording: Recording, config: ModelConfig, labels: Labels, *, name: str = "", early_us: int = 0) -> Backtest:
    """A recording of `score.read` through the model. Raises ConfigError for a label that fits nothing."""

    def run(take: Callable[[Outputs], None]) -> None:
        models = ModelSet.build({name or config.kind: config}, recording.tags, lambda kind: catalogue.plugin("models", kind))
        for batch in recording.batches():
            take(models.update(batch, 0))

    return _backtest(recording.tags, config, labels, run, early_us)


def of_lake(request: Request, labels: Labels, *, name: str = "", early_us: int = 0, rows: int = _ROWS) -> Backtest:
    """The telemetry of a lake through the model, each gateway's by itself. Raises ConfigError as `plan_of`, and as `of_file`."""
    plan = plan_of(request)
    # A budget is kept per asset, so that assets are never divided.
    plan = replace(
        plan, scope="asset" if plan.scope == "tag" else plan.scope, replay=replace(plan.replay, name=name or plan.replay.name)
    )

    def run(take: Callable[[Outputs], None]) -> None:
        source = Groups(plan, rows)
        for log in plan.logs:
            for replay, batches in source.groups(log):
                for _, out in replay.outputs(batches):
                    take(out)

    return _backtest(plan.replay.tags, request.config, labels, run, early_us)


def _backtest(
    tags: Sequence[Tag], config: ModelConfig, labels: Labels, run: Callable[[Callable[[Outputs], None]], None], early_us: int
) -> Backtest:
    mine = watched(config, tags)
    ids = {tag.id for tag in mine}
    everything = resolved(labels, tags)
    meant = [one for one in everything if one.tags & ids]
    watch = Watch(mine, _to_draw(meant, mine))
    run(watch.take)
    figures, missed = compare(watch, labels, meant, not_watched=len(everything) - len(meant), early_us=early_us)
    alarms = sorted(watch.alarms.values(), key=lambda one: one.raised_us)
    lines = [*_lines(watch, tags)][:MOST_LINES]
    return Backtest(figures, alarms, [one.label for one in meant], missed, lines, tags, labels.complete)


def _to_draw(meant: Sequence[Meant], mine: Sequence[Tag]) -> list[int | str]:
    """Tags that labels are about come first, each asset's in turn; assets too, whose models give no values but scores."""
    ids = {tag.id for tag in mine}
    tags = [tag for one in meant for tag in sorted(one.tags & ids)] or sorted(ids)
    assets = [asset for one in meant for asset in sorted(one.assets)] or [tag.asset for tag in mine]
    return [*list(dict.fromkeys(tags))[:MOST_LINES], *list(dict.fromkeys(assets))[:MOST_LINES]]


def _lines(watch: Watch, tags: Sequence[Tag]) -> Iterator[Line]:
    by_id = {tag.id: tag for tag in tags}
    for one, trace in watch.traces.items():
        time, columns = trace.points()
        if not len(time):
            continue
        path, label, unit = (
            (one, f"score of {one}", "1") if isinstance(one, str) else (by_id[one].path, by_id[one].display, by_id[one].unit)
        )
        yield Line(path, label, unit, time, columns[0], expected=(columns[1], columns[2]))
