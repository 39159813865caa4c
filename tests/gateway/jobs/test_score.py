"""A model over a recording: the same scores as over the stream, and files of every shape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from edge_models.runtime import ModelSet
from gateway import catalogue
from gateway.jobs.score import configure, read, score, scores_by_tag
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.kinds import SCORE

N = 400
START = datetime(2026, 3, 1, tzinfo=UTC)


def series(seed: int = 0) -> np.ndarray:
    value = np.random.default_rng(seed).normal(20, 1, N)
    value[300:] += 15
    return value


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "press 7.csv"
    lines = [
        f"{START + timedelta(seconds=i):%Y-%m-%d %H:%M:%S},{a!r},{'' if i % 50 == 7 else repr(b)},ok"
        for i, (a, b) in enumerate(zip(series().tolist(), series(1).tolist(), strict=True))
    ]
    path.write_text("timestamp,speed m/s,temp,note\n" + "\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", ["forecast_residual", "drift", "stuck"])
def test_whole_cut_and_streamed_scores_are_equal_bit_for_bit(csv: Path, tmp_path: Path, kind: str) -> None:
    recording, config = read(csv), configure(kind, ["warm_up=30s"])
    summary = score(recording, config, tmp_path / "whole.parquet")
    score(recording, config, tmp_path / "cut.parquet", rows=7)
    assert pq.read_table(tmp_path / "whole.parquet") == pq.read_table(tmp_path / "cut.parquet")
    live = ModelSet.build({"live": config}, recording.tags, lambda name: catalogue.plugin("models", name))
    streamed: dict[int, list[float | None]] = {0: [], 1: []}
    for batch in recording.batches(1):
        for found in live.update(batch, 0).scores:
            for row in found.to_pylist():
                streamed[row["tag"]].append(row["score"])
    for tag, scores in zip(recording.tags, streamed.values(), strict=True):
        assert scores_by_tag(tmp_path / "whole.parquet")[tag.path].tobytes() == np.array(scores, dtype=float).tobytes()
    assert summary.readings == 2 * N - 8
    assert summary.tags == 2
    if kind != "stuck":
        assert sorted({alarm for _, alarm, _ in summary.alarms}) == sorted({f"speed m/s.{kind}", f"temp.{kind}"})
        assert summary.alarms[0][0] >= (START + timedelta(seconds=300)).timestamp() * 1e6
        assert 0 < summary.abnormal < summary.scored < summary.readings


def test_the_file_has_the_score_columns_with_tags_as_text(csv: Path, tmp_path: Path) -> None:
    score(read(csv), configure("drift", ["warm_up=30s", "threshold=9"]), tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == SCORE.names
    assert set(table["tag"].to_pylist()) == {"press 7/speed m∕s", "press 7/temp"}
    assert table["time"][0].as_py() == START
    assert table.schema.metadata[b"genba.kind"] == b"score"
    assert b'"threshold":9.0' in table.schema.metadata[b"genba.parameters"]
    assert pl.read_parquet(tmp_path / "s.parquet").height == table.num_rows


def test_columns_are_chosen_and_found(csv: Path, tmp_path: Path) -> None:
    assert [tag.name for tag in read(csv).tags] == ["speed m/s", "temp"]
    assert [tag.name for tag in read(csv, values=["temp"]).tags] == ["temp"]
    assert read(csv).tags[0].period_us == 1_000_000
    semicolons = tmp_path / "skab.csv"
    semicolons.write_text("datetime;a;b\n2020-03-09 10:14:33;0.5;1\n2020-03-09 10:14:34;0.6;2\n")
    found = read(semicolons)
    assert found.value.tolist() == [0.5, 1, 0.6, 2]
    assert found.tag.tolist() == [0, 1, 0, 1]
    assert found.time_us[0] == datetime(2020, 3, 9, 10, 14, 33, tzinfo=UTC).timestamp() * 1e6
    bare = tmp_path / "bare.csv"
    bare.write_text("x\n1\n2\n3\n")
    assert read(bare).time_us.tolist() == [0, 1_000_000, 2_000_000]


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000, 1_000_000_000])
def test_numbers_are_times_in_s_ms_us_or_ns_by_their_size(tmp_path: Path, factor: int) -> None:
    path = tmp_path / "n.csv"
    path.write_text("ts,x\n" + "".join(f"{1_772_323_200 * factor + i * factor},{i}\n" for i in range(3)))
    assert read(path).time_us.tolist() == [1_772_323_200_000_000 + i * 1_000_000 for i in range(3)]


def test_parquet_as_the_lake_holds_it_is_read_in_the_order_of_the_spool(tmp_path: Path) -> None:
    path = tmp_path / "lake.parquet"
    frame = pl.DataFrame(
        {
            "time": [START, START + timedelta(seconds=1), START, START + timedelta(seconds=1)],
            "tag": ["a/b/c/x", "a/b/c/x", "a/b/c/y", "a/b/c/y"],
            "value": [1.0, None, None, 4.0],
            "value_int": [None, None, 2**40, None],
            "quality": pl.Series([0, q.BAD_TIMEOUT, 0, 0], dtype=pl.UInt32),
            "lag": pl.Series([5, 5, None, 5], dtype=pl.Int32),
            "seq": [10, 12, 11, 13],
        }
    )
    frame.write_parquet(path)
    found = read(path)
    assert [found.tags[i].path for i in found.tag] == ["a/b/c/x", "a/b/c/y", "a/b/c/x", "a/b/c/y"]
    assert found.value[[0, 1, 3]].tolist() == [1.0, 2.0**40, 4.0]
    assert found.quality.tolist() == [0, 0, q.BAD_TIMEOUT, 0]
    assert found.lag_ms.tolist() == [5, 0, 5, 5]
    assert found.tags[0].asset == "a/b/c"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("time,x\n", {}, "has no rows"),
        ("time,x\n2026-01-01 00:00:00,a\n", {}, "no numeric column"),
        ("time,x\n2026-01-01 00:00:00,1\n", {"values": ["y"]}, "has no column 'y'"),
        ("time,x,n\n2026-01-01 00:00:00,a,1\n", {"values": ["x"]}, "'x' is not numeric"),
        ("time,x\nyesterday,1\n", {}, "cannot be read as time"),
        ("time,x\n2026-01-01 00:00:00,1\n,2\n", {}, "rows have no 'time'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, options: dict[str, list[str]], says: str) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read(path, **options)  # type: ignore[arg-type]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1nonsense")
    for path in (tmp_path / "absent.csv", tmp_path / "x.parquet", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            read(path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["warm_up"], "not a setting"),
        (["warm_upp=3s"], "did you mean 'warm_up'"),
        (["warm_up=3"], "needs its unit"),
        (["alarm.on_delay=x"], "alarm.on_delay"),
        (["kind.x=1"], "no settings inside"),
        (["warm_up=[1"], "cannot be read"),
    ],
)
def test_settings_that_are_none_are_named(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        configure("drift", settings)


def test_settings_reach_inside() -> None:
    config = configure("drift", ["alarm.on_delay=5s", "alarm.severity=critical", "slack=0.5"])
    assert (config.alarm.on_delay.s, config.alarm.severity, config.kind) == (5.0, "critical", "drift")
    with pytest.raises(ConfigError, match="unknown kind of model"):
        configure("drfit", [])
