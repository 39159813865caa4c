"""The demo, as a newcomer runs it: its exit status is the verdict over faults, alerts, accounts and lake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(150)
def test_each_scripted_fault_raises_its_own_alert_and_every_row_is_accounted_for(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "gateway", "demo", "--duration", "45s", "--lake", str(tmp_path / "lake")],
        cwd=ROOT, capture_output=True, text=True, timeout=140,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for alarm in ("vibration.bearing-wear", "zone2_temp.zone-drift", "gearbox_temp.frozen-sensor"):
        assert alarm in run.stdout
    assert list((tmp_path / "lake").glob("telemetry/site=osaka/date=*/*.parquet"))
