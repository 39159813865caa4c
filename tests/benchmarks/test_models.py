"""The frame of benchmarks/models.py: what is found, what is left out, and what is written where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import model_sets
import pytest
from model_sets import speed
from report import Figure, Table, into_page, markdown, publish_tables

ROOT = Path(__file__).parents[2]
TABLE = Table(
    "nab",
    "One sentence.",
    [
        Figure("held out", 64.125, "", "higher", 64.0, "null detector 0", spread=2.25),
        Figure("cost", 51.0, "ns", "lower", 50.0),
        Figure("rows", 174_651, "", "higher"),
    ],
)


@pytest.mark.parametrize("name", model_sets.names())
def test_every_module_has_a_protocol_and_a_place_in_the_docs(name: str) -> None:
    benchmark = model_sets.load(name)
    assert "\n\n" in (benchmark.__doc__ or ""), "a first sentence, then the protocol"
    assert all(isinstance(pattern, str) for pattern in benchmark.NEEDS)
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert re.search(rf"^<!-- benchmark {name} -->$.*^<!-- end {name} -->$", page, re.MULTILINE | re.DOTALL)


def test_a_table_says_what_is_met_and_what_is_missed() -> None:
    rows = markdown(TABLE).splitlines()
    assert rows[:3] == ["### nab", "", "One sentence."]
    assert rows[-3:] == [
        "| held out | 64.12 ± 2.2 | ≥ 64 | met; against null detector 0 |",
        "| cost | 51 ns | ≤ 50 | missed |",
        "| rows | 174651 |  |  |",
    ]


def test_the_page_holds_the_table_as_printed_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark nab -->\nold\n<!-- end nab -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        into_page([TABLE], page)
    assert page.read_text(encoding="utf-8") == (f"before\n<!-- benchmark nab -->\n{markdown(TABLE)}<!-- end nab -->\nafter\n")
    with pytest.raises(ValueError, match="no place for the table"):
        into_page([Table("other", "", [])], page)


def test_json_holds_protocol_and_figures(tmp_path: Path) -> None:
    publish_tables([TABLE], Namespace(json=tmp_path / "deep" / "out.json"))
    (told,) = json.loads((tmp_path / "deep" / "out.json").read_text(encoding="utf-8"))
    assert told["protocol"] == "One sentence."
    assert told["figures"][0] | {"value": 64.125, "spread": 2.25} == told["figures"][0]


def test_the_speeds_are_measured_on_a_small_plant_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every contestant runs; what is asserted inside it holds."""
    monkeypatch.setattr(speed, "TAGS", 60)
    figures = speed.run(tmp_path, tmp_path, True).figures
    assert len(figures) == 15
    assert all(figure.value > 0 for figure in figures)


def test_a_set_whose_files_are_not_there_is_left_out_by_name(tmp_path: Path) -> None:
    needy = [name for name in model_sets.names() if model_sets.load(name).NEEDS]
    command = [sys.executable, str(ROOT / "benchmarks" / "models.py"), "--data", str(tmp_path), "--json", str(tmp_path / "f")]
    for name in needy:
        command += ["--only", name]
    assert needy
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == needy
    assert json.loads((tmp_path / "f").read_text(encoding="utf-8")) == []
