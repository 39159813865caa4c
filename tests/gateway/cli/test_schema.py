"""`genba schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_the_schema_goes_to_the_terminal_or_a_file(genba: Callable[..., Any], tmp_path: Path) -> None:
    done = genba("schema")
    assert (done.status, done.err) == (0, "")
    file = tmp_path / "genba.schema.json"
    assert genba("schema", file).out == ""
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(done.out)
    assert {"adapters", "models", "sinks"} <= json.loads(done.out)["properties"].keys()


def test_a_folder_that_is_not_there_is_said(genba: Callable[..., Any], tmp_path: Path) -> None:
    done = genba("schema", tmp_path / "nowhere" / "x.json")
    assert done.status == 1
    assert "cannot write" in done.err
