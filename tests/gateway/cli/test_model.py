"""`genba model` as a person calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from gateway.cli.model import command
from schemas.errors import ConfigError


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
