"""`genba model` as a person calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from gateway.cli.model import command
from schemas.errors import ConfigError
from tests.edge_models.graphs import mean_graph
from tests.gateway.cli.conftest import Genba
from tests.gateway.jobs.plant import Plant


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    value = np.random.default_rng(0).normal(20, 1, 300)
    value[200:] += 20
    path = tmp_path / "fan.csv"
    path.write_text("time,temp\n" + "".join(f"2026-03-01 00:{i // 60:02}:{i % 60:02},{v}\n" for i, v in enumerate(value)))
    return path


def test_score_writes_the_scores_and_says_what_it_found(recording: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    arguments = [
        "score",
        "--model",
        "forecast_residual",
        "--input",
        str(recording),
        "--output",
        str(output),
        "--set",
        "warm_up=60s",
    ]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.startswith("300 readings of 1 tag, 240 scored, ")
    assert "1 alarm\n" in done.output
    assert "2026-03-01 00:03:20  temp.forecast_residual: temp is " in done.output
    assert str(output) in done.output
    assert pq.read_table(output).num_rows == 300


def test_a_model_in_a_file_scores_a_recording(recording: Path, tmp_path: Path) -> None:
    file, output = mean_graph(tmp_path / "m.onnx", 5, 1, level=30.0), tmp_path / "scores.parquet"
    arguments = ["score", "--model", "onnx", "--input", str(recording), "--output", str(output)]
    for setting in (f"file={file}", "inputs=[temp]", "output=score", "min_rows=1"):
        arguments += ["--set", setting]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.startswith("300 readings of 1 tag, 300 scored, ")
    assert f"(unsigned {file}, sha256:" in done.output
    table = pq.read_table(output)
    assert (table.column("score").to_numpy()[205:] > 0.99).all()
    assert table.column("tag").null_count == 300


def test_mistakes_are_configuration_errors(recording: Path, tmp_path: Path) -> None:
    for model, source in (("forecast", recording), ("drift", tmp_path / "absent.csv")):
        arguments = ["score", "--model", model, "--input", str(source), "--output", str(tmp_path / "o.parquet")]
        with pytest.raises(ConfigError):
            CliRunner().invoke(command, arguments, catch_exceptions=False)
    arguments = ["score", "--model", "drift", "--input", str(recording), "--output", str(tmp_path / "no" / "o.parquet")]
    with pytest.raises(ConfigError, match="cannot write"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_list_names_every_model_with_a_sentence() -> None:
    done = CliRunner().invoke(command, ["list"], catch_exceptions=False)
    assert {line.split()[0] for line in done.output.splitlines()} >= {"drift", "forecast_residual", "limits", "stuck"}
    assert all(len(line.split()) > 5 for line in done.output.splitlines())


def test_score_of_a_lake(tmp_path: Path, genba: Genba) -> None:
    Plant("osaka", "gw-1", polls=300).write(tmp_path / "lake")
    asked = ("model", "score", "--model", "drift", "--lake", tmp_path / "lake", "--set", "warm_up=30s")
    done = genba(*asked, "--tags", "**/motor_temp", "--tags", "**/vibration", "--output", tmp_path / "scores.parquet")
    assert done.status == 0, done.err
    assert " scores of 6 tags and 1 gateway, " in done.out
    assert set(pq.read_table(tmp_path / "scores.parquet")["tag"].to_pylist()) == {
        f"acme/osaka/{asset}/{name}" for asset in ("press-07", "press-08", "fan-1") for name in ("motor_temp", "vibration")
    }
    assert genba(*asked, "--site", "osaka", "--output", tmp_path / "scores").status == 0
    assert len(list((tmp_path / "scores/score/site=osaka/date=2026-02-28").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--output", "o.parquet"], "give --input FILE or --lake LOCATION"),
        (["--output", "o.parquet", "--input", "a.csv", "--lake", "."], "give --input FILE or --lake LOCATION"),
        (["--output", "o.parquet", "--input", "a.csv", "--tags", "x"], "are for --lake"),
        (["--output", "o.parquet", "--lake", ".", "--value", "x"], "are for --input"),
        (["--output", "o.parquet", "--lake", "nowhere"], "nowhere: no such directory"),
        (["--output", "o.parquet", "--lake", "."], "holds no telemetry"),
        (["--output", "o.parquet", "--lake", ".", "--master", "local[2]"], "are for --engine spark"),
        (["--output", "o.parquet", "--lake", ".", "--engine", "spark"], "Spark writes a lake"),
        (["--output", "s3://b/o.parquet", "--lake", "."], "a file is written here"),
        (["--output", "o", "--lake", ".", "--engine", "spark", "--conf", "x"], "write it like spark.executor.memory=4g"),
    ],
)
def test_options_that_make_no_sense_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genba: Genba, more: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = genba("model", "score", "--model", "drift", *more)
    assert done.status == 2
    assert says in done.err


def test_spark_that_is_not_there_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genba: Genba) -> None:
    Plant("osaka", "gw-1", polls=30).write(tmp_path / "lake")
    asked = ("model", "score", "--model", "drift", "--lake", tmp_path / "lake", "--output", tmp_path / "o", "--engine", "spark")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyspark.errors", None)
        done = genba(*asked)
    assert done.status == 2
    assert "pyspark is not installed" in done.err
    assert "genba[spark]" in done.err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", staticmethod(lambda: None))
    done = genba(*asked)
    assert done.status == 2
    assert "Spark needs Java 17" in done.err
