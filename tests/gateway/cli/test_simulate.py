"""`genba simulate`: what its options say is what the simulators do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.simulate import command
from schemas.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs" / "simulate.md"


def _help() -> str:
    done = CliRunner().invoke(command, ["--help"], catch_exceptions=False)
    assert done.exit_code == 0
    return re.sub(r"\s+", " ", done.output)


def test_the_help_and_the_page_say_which_tags_speed_is_for() -> None:
    page = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    assert "How many times faster than recorded; a 64-bit floating point tag takes a row per read instead." in _help()
    assert "64-bit floating point, polled (Modbus `float64`, S7 `lreal`) | **by one row on each read of the tag**" in page
    assert (
        "64-bit floating point over OPC UA (`float64`, `auto`) | **by one row each scan period while a client is subscribed"
        in page
    )
    assert "any other tag | by the recording's own time, `--speed` times as fast" in page


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: str) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "enterprise: acme\nsite: osaka\ngateway: g1\n"
        "adapters:\n  robot:\n    kind: opcua\n    endpoint: opc.tcp://127.0.0.1:4840\n    tags: {t: {address: ns=2;s=T}}\n"
        "sinks:\n  lake: {kind: parquet, location: ./lake}\n"
    )
    options = [str(plant), "--replay", f"robot/t={tmp_path / 'r.csv'}", "--speed", speed]
    with pytest.raises(ConfigError, match="--speed"):
        CliRunner().invoke(command, options, catch_exceptions=False)
