"""A short coverage-guided run of every target, so that `make fuzz` works when it is needed; and that it finds what is there to find."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.catalogue import TARGETS

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_short_run_of_every_target_finds_nothing(tmp_path: Path) -> None:
    # One seed: what `make fuzz` finds by chance must not refuse somebody else's change.
    done = run("tests.fuzz.coverage", "--seconds", "1", "--seed", "1", "--into", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert lines.keys() == TARGETS.keys()
    assert all(state == "ok" and int(inputs) > 3 for _, state, inputs, _ in lines.values()), done.stdout


def test_what_is_there_to_find_is_found(tmp_path: Path) -> None:
    """The control: a decoder that believes a count behind three magic bytes, which no chance finds."""
    done = run("tests.fuzz.control", "--seconds", "20", "--into", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    assert "broken" in done.stdout
    assert "bytes.fromhex('6a7a21" in done.stdout
