"""Golden folders: a capture beside what it must decode to, so that a field problem becomes a test for ever.

A folder holds `capture` (the file) and `expected.json` (readings, troubles, what was logged). `genba decode FILE --golden FOLDER` writes it,
a person looks whether the expected readings are the right ones, and `tests/golden` runs it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from .decoding import Decoded

CAPTURE: Final = "capture"
EXPECTED: Final = "expected.json"


def expectation(decoded: Decoded) -> dict[str, Any]:
    """What is compared: readings, why exchanges could not be decoded, and the events that were logged, with their tag."""
    return {
        "readings": decoded.rows(),
        "gaps": sum(batch.num_rows for batch in decoded.gaps),
        "troubles": [{"time_us": one.time_us, "request": one.request.hex(" "), "why": one.why} for one in decoded.troubles],
        "log": [{name: entry[name] for name in ("event", "tag", "block") if name in entry} for entry in decoded.log],
    }


def write_golden(folder: Path, capture: Path, decoded: Decoded) -> None:
    """Write the folder; an older one of this name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    if capture.resolve() != (folder / CAPTURE).resolve():
        shutil.copyfile(capture, folder / CAPTURE)
    lines = json.dumps(expectation(decoded), ensure_ascii=False, indent=None, separators=(",", ":"))
    (folder / EXPECTED).write_text(lines.replace('{"time_us"', '\n{"time_us"') + "\n", encoding="utf-8")


def read_expected(folder: Path) -> dict[str, Any]:
    """What a folder expects."""
    found: dict[str, Any] = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    return found
