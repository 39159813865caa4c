"""`genba model` as a person calls it."""

from __future__ import annotations

import json
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
from tests.gateway.jobs.plant import START_US, Plant

PLANT_FILE = """\
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  plc:
    kind: modbus
    endpoint: tcp://127.0.0.1:502
    asset: press-07
    tags: {motor_temp: {address: "hr:0", type: float32, unit: °C}}
models:
  too-warm:
    kind: rules
    tags: ["**/motor_temp"]
    rules: {too-warm: {tag: motor_temp, above: 55}}
"""


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
    for model, source in (("foresight", recording), ("drift", tmp_path / "absent.csv")):
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


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults.csv"
    path.write_text("tag,start,end\nfan/temp,2026-03-01 00:03:20,2026-03-01 00:05:00\n")
    return path


def test_backtest_tells_figures_and_draws(recording: Path, faults: Path, tmp_path: Path, genba: Genba) -> None:
    plot = tmp_path / "fan.png"
    asked = (
        "model",
        "backtest",
        "--model",
        "forecast_residual",
        "--input",
        recording,
        "--labels",
        faults,
        "--set",
        "warm_up=60s",
    )
    done = genba(*asked, "--plot", plot)
    assert done.status == 0, done.err
    assert "recall                      100.0%  (1 of 1 labels found)" in done.out
    assert "delay, median               0 s" in done.out
    assert plot.read_bytes()[:4] == b"\x89PNG"
    told = json.loads(genba(*asked, "--json").out)
    assert (told["found"], told["false"], told["delay_p90_s"]) == (1, 0, 0.0)


def test_backtest_of_an_entry_of_a_plant_file_over_a_lake(tmp_path: Path, genba: Genba) -> None:
    Plant("osaka", "gw-1").write(tmp_path / "lake")
    (tmp_path / "plant.yaml").write_text(PLANT_FILE)
    (tmp_path / "l.json").write_text(
        json.dumps([{"asset": "press-07", "start": (START_US + 1_100 * 10**6) / 1e6, "end": (START_US + 1_300 * 10**6) / 1e6}])
    )
    asked = (
        "model",
        "backtest",
        "--plant",
        tmp_path / "plant.yaml",
        "--lake",
        tmp_path / "lake",
        "--labels",
        tmp_path / "l.json",
    )
    done = genba(*asked, "--model", "too-warm", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["found"] == told["labels"] == 1
    assert {alarm["alarm"] for alarm in told["alarms_raised"]} == {"motor_temp.too-warm"}
    done = genba(*asked, "--model", "too-wram")
    assert done.status == 2
    assert "has no model 'too-wram'" in done.err
    assert "did you mean 'too-warm'?" in done.err
    done = genba("model", "backtest", "--model", "drift", "--lake", tmp_path / "lake", "--labels", "verdicts")
    assert done.status == 2
    assert "holds no verdicts of that time" in done.err


def test_an_ensemble_passes_the_check_of_a_plant_file_and_its_mistakes_do_not(tmp_path: Path, genba: Genba) -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    entry = page.partition("### `ensemble`")[2].partition("```yaml\nmodels:\n")[2].partition("```")[0]
    head = PLANT_FILE.partition("models:")[0].replace("motor_temp", "pressure")
    head = head.replace("tags: {", 'tags: {mode: {address: "hr:9", type: uint16, enum: {0: stop, 1: run}}, ')
    (tmp_path / "plant.yaml").write_text(head + "models:\n" + entry)
    done = genba("check", tmp_path / "plant.yaml")
    assert done.status == 0, done.out + done.err
    (tmp_path / "plant.yaml").write_text(head + "models:\n" + entry.replace("threshold", "treshold"))
    done = genba("check", tmp_path / "plant.yaml")
    assert done.status == 2
    assert "drift.treshold" in done.out + done.err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "give --input FILE or --lake LOCATION"),
        (["--input", "a.csv", "--plot", "a.bmp"], "which format?"),
        (["--input", "a.csv", "--plant", "p.yaml", "--set", "x=1"], "with --plant the entry says it all"),
        (["--input", "a.csv", "--site", "x"], "are for --lake"),
        (["--lake", ".", "--time", "x"], "are for --input"),
        (["--lake", "."], "no lake is there"),
        (["--input", "a.csv"], "cannot read a.csv"),
    ],
)
def test_backtest_options_that_make_no_sense_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genba: Genba, more: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = genba("model", "backtest", "--model", "drift", "--labels", "l.csv", *more)
    assert done.status == 2
    assert says in done.err
    done = genba("model", "backtest", "--model", "drift", "--labels", "verdicts", "--input", "a.csv")
    assert "--labels verdicts are those of a --lake" in done.err
