"""`genba init`: a file that passes `check`, and never over one that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Genba = Callable[..., Any]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_starter_passes_check_and_names_its_schema(genba: Genba) -> None:
    done = genba("init")
    assert done.status == 0
    assert "genba check plant.yaml" in done.out
    assert genba("check", "plant.yaml", "--strict-env").out.startswith("plant.yaml is fine\n")
    first = Path("plant.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=./genba.schema.json"
    assert json.loads(Path("genba.schema.json").read_text(encoding="utf-8"))["$schema"]


def test_what_stands_in_comments_is_right_too(genba: Genba, tmp_path: Path) -> None:
    """Every commented part of the starter, taken into force, passes."""
    genba("init")
    lines = Path("plant.yaml").read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("adapters:"))
    live = [
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and ":" in line.split("#", 2)[1] else line
        for line in lines[begin:]
    ]
    kept = [line for line in live if not line.lstrip().startswith(("Many", "#"))]
    Path("plant.yaml").write_text("\n".join([*lines[:begin], *kept]), encoding="utf-8")
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "drive.csv").write_text("name,address,type\nspeed,hr:0,int16\n")
    assert {"templates", "models", "routes"} <= yaml.safe_load("\n".join([*lines[:begin], *kept])).keys()
    done = genba("check", "plant.yaml")
    assert done.status == 0, done.out
    assert "early-warning" in done.out


def test_a_file_that_is_there_is_kept(genba: Genba) -> None:
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    done = genba("init", "mine.yaml")
    assert done.status == 1
    assert "--force" in done.err
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    assert not Path("genba.schema.json").exists()
    assert genba("init", "mine.yaml", "--force").status == 0
    assert "enterprise:" in Path("mine.yaml").read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_is_said(genba: Genba) -> None:
    done = genba("init", "nowhere/plant.yaml")
    assert done.status == 1
    assert "cannot write nowhere/plant.yaml" in done.err
