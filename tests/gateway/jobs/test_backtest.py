"""Backtests: figures that were worked out by hand, files and lakes, verdicts, plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cloud_sinks.jobs import Lake
from edge_models.limits import LimitsConfig
from edge_models.runtime import Outputs
from gateway.jobs import backtest, labels, lake_plot
from gateway.jobs.backtest import Trace, Watch, compare
from gateway.jobs.labels import Label, Labels, resolved
from gateway.jobs.score import configure, read
from gateway.jobs.score_plan import Request
from schemas.kinds import make_batch
from tests.conformance.model import make_tag
from tests.gateway.jobs.plant import START_US, Plant

HOUR = 3_600_000_000
DAY = 24 * HOUR
TAGS = [make_tag(0), make_tag(1), make_tag(2, asset="acme/osaka/fan")]


def alerts(*rows: tuple[int, str, str, int | None, str]) -> Outputs:
    """Time, id, transition, tag, asset."""
    columns = dict(zip(("time", "id", "transition", "tag", "asset"), zip(*rows, strict=True), strict=True))
    made = make_batch(
        "alert", len(rows), **{name: list(values) for name, values in columns.items()}, alarm="x", severity="info", problem="p"
    )
    return Outputs(alerts=[made])


def scores(tag: int, *times: int) -> Outputs:
    return Outputs(scores=[make_batch("score", len(times), time=list(times), tag=tag, score=0.5, limit=0.9, value=1.0)])


def watched() -> Watch:
    """Two days of scores of the press, one of the fan; six alarms, one of them never told."""
    watch = Watch(TAGS)
    watch.take(scores(0, 0, DAY, 2 * DAY))
    watch.take(scores(2, DAY, 2 * DAY))
    watch.take(
        alerts(
            (2 * HOUR, "a", "raised", 0, "acme/osaka/press"),  # within label 1, an hour late
            (3 * HOUR, "b", "suppressed", 0, "acme/osaka/press"),  # held back, and told at last: within label 1
            (4 * HOUR, "b", "raised", 0, "acme/osaka/press"),
            (5 * HOUR, "b", "cleared", 0, "acme/osaka/press"),
            (10 * HOUR, "c", "raised", 1, "acme/osaka/press"),  # another tag than that of any label of this time
            (24 * HOUR, "d", "raised", None, "acme/osaka/press"),  # about the asset: within label 2, of one of its tags
            (25 * HOUR, "e", "raised", 2, "acme/osaka/fan"),  # within label 2 by time, but another asset
            (30 * HOUR, "f", "suppressed", 1, "acme/osaka/press"),
            (40 * HOUR, "g", "raised", 2, "acme/osaka/fan"),  # within label 3, of the whole asset, three hours late
        )
    )
    return watch


LABELS = [
    Label("press/t0", HOUR, 6 * HOUR),
    Label("press/t1", 22 * HOUR, 26 * HOUR),
    Label("fan", 37 * HOUR, 47 * HOUR),
    Label("press/t1", 36 * HOUR, 37 * HOUR),  # nothing: missed, the press had no score then
]


def test_figures_that_were_worked_out_by_hand() -> None:
    given = Labels(LABELS)
    found, missed = compare(watched(), given, resolved(given, TAGS))
    assert (found.alarms, found.true, found.false, found.held_back, found.not_judged) == (6, 4, 2, 1, 0)
    assert (found.labels, found.found, found.not_scored) == (4, 3, 1)
    assert found.precision == pytest.approx(4 / 6)
    assert found.recall == 3 / 4
    assert (found.days, found.asset_days) == (2.0, 3.0)
    assert (found.false_per_day, found.false_per_asset_day) == (1.0, pytest.approx(2 / 3))
    assert found.delay_median_s == 2 * 3600  # of one, two and three hours
    assert found.delay_p90_s == pytest.approx(2.8 * 3600)
    assert missed == [LABELS[3]]


def test_an_alarm_before_its_label_counts_only_when_that_is_asked_for() -> None:
    given = Labels([Label("press/t1", 11 * HOUR, 12 * HOUR)])
    found, _ = compare(watched(), given, resolved(given, TAGS))
    assert (found.found, found.true) == (0, 0)
    found, _ = compare(watched(), given, resolved(given, TAGS), early_us=HOUR)
    assert (found.found, found.true, found.delay_median_s) == (1, 1, 0.0)


def test_verdicts_judge_only_what_they_are_about() -> None:
    given = Labels([LABELS[0], Label("press/t1", 9 * HOUR, 11 * HOUR, real=False)], complete=False)
    watch = watched()
    found, _ = compare(watch, given, resolved(given, TAGS))
    assert (found.true, found.false, found.not_judged, found.labels) == (2, 1, 3, 1)
    assert found.precision == pytest.approx(2 / 3)
    assert watch.alarms["c"].label == given.labels[1]


def test_a_model_that_says_nothing_divides_by_nothing() -> None:
    given = Labels([LABELS[0]])
    found, missed = compare(Watch(TAGS), given, resolved(given, TAGS))
    assert (found.precision, found.recall, found.false_per_day, found.delay_median_s) == (None, 0.0, None, None)
    assert (found.not_scored, missed) == (1, [LABELS[0]])


def test_a_trace_keeps_every_peak_however_long_it_grows() -> None:
    trace, n = Trace(), 50_000
    for part in range(20):
        value = np.zeros((3, n))
        value[0, 777] = part + 1.0
        value[0, 999] = -part
        trace.add(part * n + np.arange(n, dtype=np.int64), value)
    time, columns = trace.points()
    assert len(time) <= 4 * backtest.BUCKETS
    assert time[0] == 0
    assert time[-1] == 20 * n - 1
    assert (np.diff(time) > 0).all()
    assert columns[0].max() == 20.0
    assert columns[0].min() == -19.0


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A fan for an hour; from minute 40 on it is hot for ten minutes, at minute 20 once for ten seconds."""
    value = np.random.default_rng(0).normal(20, 1, 3600)
    value[2400:3000] += 20
    value[1200:1210] += 20
    path = tmp_path / "fan.csv"
    path.write_text("time,temp\n" + "".join(f"2026-03-01 00:{i // 60:02}:{i % 60:02},{v}\n" for i, v in enumerate(value)))
    return path


def test_a_file_is_tried_with_the_alarm_layer_behind_the_model(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("tag,start,end\nfan/temp,2026-03-01 00:39:50,2026-03-01 00:50:00\n")
    config = configure("forecast_residual", ["warm_up=60s", "alarm.on_delay=5s"])
    found = backtest.of_file(read(recording), config, labels.read(tmp_path / "l.csv"), name="hot")
    assert [alarm.alarm for alarm in found.alarms] == ["temp.hot", "temp.hot"]
    assert (found.figures.true, found.figures.false, found.figures.found) == (1, 1, 1)
    assert found.figures.delay_median_s == 15.0  # the label begins 10 s before the fault, and the alarm comes 5 s after it
    assert found.figures.asset_days == pytest.approx(3539 / 86400, rel=0.01)
    said = list(found.sentences())
    assert said[0] == f"{'precision':<28}50.0%  (1 true, 1 false)"
    assert any(line.startswith("false  2026-03-01 00:20:05  temp.hot: ") for line in said)
    told = json.loads(json.dumps(found.document()))
    assert told["recall"] == 1.0
    assert [alarm["label"] is None for alarm in told["alarms_raised"]] == [True, False]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plant of 1,500 s whose tags are 8 higher from 1,101 to 1,299 s, in every third column: the press-07 of each name."""
    root = tmp_path_factory.mktemp("backtest") / "lake"
    Plant("osaka", "gw-1").write(root)
    return root


def request(root: Path) -> Request:
    return Request(Lake(str(root)), LimitsConfig(kind="limits", tags=["**/motor_temp"]))


def shift(where: str = "acme/osaka/press-07") -> Labels:
    return Labels([Label(where, START_US + 1101_000_000, START_US + 1299_000_000)])


def test_a_lake_is_tried_in_whatever_pieces_it_is_read(lake: Path) -> None:
    found = backtest.of_lake(request(lake), shift())
    assert found.figures.found == found.figures.labels == 1
    assert found.figures.delay_median_s is not None
    assert found.figures.delay_median_s <= 5
    assert found.figures.true >= 1
    by_asset = {alarm.asset for alarm in found.alarms if alarm.label is not None}
    assert by_asset == {"acme/osaka/press-07"}
    again = backtest.of_lake(request(lake), shift(), rows=2_000)
    assert again.document() == found.document()


def test_labels_of_tags_that_nobody_watches_are_left_out_and_told(lake: Path) -> None:
    given = Labels([*shift().labels, *shift("acme/osaka/press-07/vibration").labels])
    found = backtest.of_lake(request(lake), given)
    assert (found.figures.labels, found.figures.not_watched) == (1, 1)
    assert any("1 labels are left out" in line for line in found.sentences())


def test_the_plot_shows_value_band_alarms_and_labels(recording: Path, tmp_path: Path) -> None:
    found = backtest.of_file(
        read(recording),
        configure("forecast_residual", ["warm_up=60s"]),
        Labels([Label("fan/temp", 1_772_325_600_000_000, 1_772_326_200_000_000)]),
    )
    what = found.picture()
    assert [line.tag for line in what.lines] == ["fan/temp"]
    assert what.labels == [(1_772_325_600_000_000, 1_772_326_200_000_000)]
    assert len(what.alerts) == len(found.alarms) >= 2
    out = tmp_path / "p.svg"
    lake_plot.draw(what, out, "svg", None)
    drawn = out.read_text()
    for gid in ("expected", "label", "alert"):
        assert f'id="{gid}' in drawn, gid
    lake_plot.draw(lake_plot.Picture(list(what.lines), [], what.start_us, what.end_us), out, "svg", None)
    assert 'id="label' not in out.read_text()


def test_verdicts_of_a_lake_are_labels(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def event(time: int, number: str, verdict: str | None, since: int) -> dict[str, Any]:
        about = {"id": number, "since_us": since} | ({"verdict": verdict} if verdict else {})
        return {
            "time": time,
            "tag": "acme/osaka/press-07/motor_temp",
            "asset": None,
            "attributes": json.dumps(about),
            "event": "alarm_acknowledged",
        }

    events = [event(50, "a", "real", 10), event(60, "a", "false", 10), event(70, "b", "real", 20), event(80, "c", None, 30)]
    rows = {
        "event": pl.DataFrame(events).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")), asset=pl.lit(None, pl.String)),
        "alert": pl.DataFrame({"id": ["b"], "time": [99], "transition": ["cleared"]}).with_columns(
            pl.col("time").cast(pl.Datetime("us", "UTC"))
        ),
    }
    monkeypatch.setattr(labels.lake, "scan", lambda location, *, kind, **more: rows[kind].lazy())
    found = labels.of_lake(str(lake), None, None, access=Lake(str(lake)).access)
    assert not found.complete
    assert [(one.start_us, one.end_us, one.real) for one in found.labels] == [(10, 60, False), (20, 99, True)]
