"""Every kind of mistake and the exact text that an integrator reads.

A case is one file: the files of a configuration, each below its name, then what is printed. After a change that is meant,
`GENBA_UPDATE_GOLDEN=1` writes the texts anew; read them before they are committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway.config.codes import CODES
from tests.gateway.config.rig import Examine

FOLDER = Path(__file__).parent / "golden"
CASES = sorted(FOLDER.glob("*.txt"))
SECTION = re.compile(r"^=== (.+)\n", re.MULTILINE)


def parts(case: Path) -> dict[str, str]:
    _, *pieces = SECTION.split(case.read_text(encoding="utf-8"))
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_message(case: Path, examined: Examine) -> None:
    files = parts(case)
    expected = files.pop("printed")
    options = files.pop("options", "")
    env = dict(line.split("=", 1) for line in options.splitlines() if "=" in line)
    found = examined(files.pop("plant.yaml"), files, env=env, strict_env="strict" in options)
    text = found.text + "\n"
    if os.environ.get("GENBA_UPDATE_GOLDEN"):
        case.write_text(
            case.read_text(encoding="utf-8").replace("=== printed\n" + expected, "=== printed\n" + text), encoding="utf-8"
        )
        return
    assert text == expected
    assert found.configuration is None or not any(code.startswith("E") for code in found.codes)


def test_every_code_has_a_case() -> None:
    printed = "".join(parts(case)["printed"] for case in CASES)
    assert sorted(code for code in CODES if f" {code} " not in printed) == []


def test_no_case_prints_an_unknown_code() -> None:
    printed = "".join(parts(case)["printed"] for case in CASES)
    assert set(re.findall(r"^\S+ ([EW][0-9]{3}) ", printed, re.MULTILINE)) <= set(CODES)
