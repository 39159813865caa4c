"""`genba lake plot`: pictures in which bad quality, gaps and alerts are seen, whatever tags are called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.jobs.lake_plot import Line, picture
from schemas import quality as q
from tests.cloud_sinks.lake_rig import START, Lake
from tests.conformance.sink import ODD_NAMES, Tags

Genba = Callable[..., Any]
TEMP, STATE = "acme/osaka/press-1/motor_temp", "acme/osaka/press-1/state"
ACCESS: Any = {"region": None, "endpoint": None, "profile": None}


@pytest.fixture
def plant(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    tags = Tags(TEMP, STATE, label="主モータ $温度$")
    lake.put(tags, [(i, 0, 60.0 + i % 7) for i in range(300) if not 100 < i < 200])
    lake.put(tags, [(250.5, 0, None)], quality=q.BAD_TIMEOUT)
    lake.put(tags, [(0, 1, "停止"), (60, 1, "run")], columns=("time", "tag", "text"))
    columns = ("time", "tag", "alarm", "severity", "transition")
    lake.put(
        tags, [(30, 0, "high 高", "critical", "raised"), (40, 0, "high 高", "critical", "cleared")], columns=columns, kind="alert"
    )
    lake.gap(tags, [(100, 200, 0)])
    lake.describe(tags)
    return lake


def test_svg_shows_bad_quality_gaps_alerts_units_and_the_zone(genba: Genba, plant: Lake, tmp_path: Path) -> None:
    out = tmp_path / "plot.svg"
    done = genba("lake", "plot", plant.root, "press-1/*", "--zone", "Asia/Tokyo", "--out", out)
    assert (done.status, done.out, done.err) == (0, "", f"{out}: 2 lines, 1 alerts\n")
    text = out.read_text(encoding="utf-8")
    assert text.count('id="gap"') == text.count('id="bad quality"') == 1
    assert text.count('id="alert"') == 2, "a mark on the axis of numbers and on that of texts"
    for said in ("<!-- °C -->", "<!-- time, Asia/Tokyo -->", "<!-- 主モータ $温度$ -->", "<!-- 停止 -->", "<!-- high 高 -->"):
        assert said in text
    assert genba("lake", "plot", plant.root, "press-1/*", "--zone", "Asia/Tokyo", "--out", tmp_path / "again.svg").status == 0
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == text, "the same data is the same file"


def test_an_alert_about_the_asset_is_drawn_and_one_of_another_tag_or_asset_is_not(plant: Lake) -> None:
    columns = ("time", "asset", "alarm", "severity", "transition")
    raised = [
        (50, "acme/osaka/press-1", "press is ill", "warning", "raised"),
        (60, "acme/osaka/press-10", "another is", "warning", "raised"),
    ]
    plant.put(Tags(TEMP, STATE), raised, columns=columns, kind="alert")
    for pattern, expected in (("**/motor_*", ["high 高", "press is ill"]), ("press-1/state", ["press is ill"])):
        alerts = picture(str(plant.root), [pattern], None, None, access=ACCESS).alerts
        assert [alarm for _, alarm, _ in alerts] == expected


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_other_formats(genba: Genba, plant: Lake, tmp_path: Path, suffix: str, magic: bytes) -> None:
    out = tmp_path / f"plot.{suffix}"
    assert genba("lake", "plot", plant.root, TEMP, "--out", out, "--last", "1h", "--end", "2026-03-01T00:10Z").status == 0
    assert out.read_bytes().startswith(magic)


def test_a_control_without_gaps_has_no_marks(genba: Genba, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.put(Tags(TEMP), [(i, 0, 1.0) for i in range(10)])
    assert genba("lake", "plot", lake.root, TEMP, "--out", tmp_path / "plot.svg").status == 0
    text = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert not any(f'id="{mark}"' in text for mark in ("gap", "bad quality", "alert"))


def test_a_line_breaks_off_where_the_value_is_not_known() -> None:
    line = Line("t", "", "1", np.array([0, 10, 30]), np.array([1.0, 2.0, 3.0]), bad=[(20, 30)], gaps=[(5, 8), (-5, -1)])
    time, value = line.broken()
    assert time.tolist() == [0, 5, 5, 10, 20, 20, 30]
    np.testing.assert_array_equal(value, [1, 1, np.nan, 2, 2, np.nan, 3])


def test_a_bad_reading_lasts_until_the_next_good_one(plant: Lake) -> None:
    made = picture(str(plant.root), [TEMP], START, START + timedelta(seconds=300), access=ACCESS)
    (line,) = made.lines
    (since, until), zero = line.bad[0], made.start_us
    assert ((since - zero) / 1e6, (until - zero) / 1e6) == (250.5, 251.0)
    assert [((a - zero) / 1e6, (b - zero) / 1e6) for a, b in line.gaps] == [(100, 200)]


def test_however_many_readings_a_line_has_few_points_and_every_extreme(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    values = np.random.default_rng(7).normal(0, 1, 20_000)
    values[[3_333, 15_001]] = 99.0, -99.0
    lake.put(Tags(TEMP), [(i, 0, float(value)) for i, value in enumerate(values)])
    (line,) = picture(str(lake.root), [TEMP], None, None, buckets=100, access=ACCESS).lines
    assert len(line.time) <= 400
    assert (line.value.max(), line.value.min()) == (99.0, -99.0)
    exact = dict(enumerate(values.tolist()))
    zero = int(START.timestamp())
    assert all(exact[int(t) // 1_000_000 - zero] == v for t, v in zip(line.time, line.value, strict=True))


def test_odd_names_do_not_stop_it(genba: Genba, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    tags = Tags(*(f"acme/osaka/press/{name}" for name in (*ODD_NAMES, "_x", "a$b_{$", "\\frac{")), label="_主モータ$\\alpha_{")
    lake.put(tags, [(i % 5, i, float(i)) for i in range(len(tags))])
    lake.describe(tags)
    done = genba("lake", "plot", lake.root, "**", "--out", tmp_path / "plot.png")
    assert (done.status, done.err.count("\n")) == (0, 1), done.err


def test_mistakes_say_the_way_out(genba: Genba, plant: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "plot.png"
    for arguments, said in (
        ([TEMP, "--out", tmp_path / "plot.bmp"], "End the name in .png, .svg, .pdf"),
        (["**/nothing", "--out", out], "no reading of **/nothing in this interval (`genba lake tags` lists tags"),
        ([TEMP, "--start", "2030-01-01T00:00Z", "--out", out], "no reading of"),
        ([TEMP, "--out", tmp_path / "no" / "plot.png"], "cannot be written"),
    ):
        done = genba("lake", "plot", plant.root, *arguments)
        assert (done.status, said in done.err) == (2, True), done.err
    many = Tags(*(f"acme/osaka/many/{n}" for n in range(41)))
    plant.put(many, [(0, n, 1.0) for n in range(41)], gateway="gw-2")
    done = genba("lake", "plot", plant.root, "many/*", "--out", out)
    assert (done.status, "41 tags fit, and a plot shows at most 40" in done.err) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = genba("lake", "plot", plant.root, TEMP, "--out", out)
    assert (done.status, "pip install 'genba[plot]'" in done.err) == (2, True)
    assert not out.exists()
