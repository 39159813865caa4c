"""The demo, as a newcomer runs it: its exit status is the verdict over faults, alerts, accounts and lake."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_ctrl_c_ends_it_cleanly_with_a_summary(tmp_path):
    command = [sys.executable, "-m", "gateway", "demo", "--lake", str(tmp_path / "lake")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("faults to come"):
                break
        time.sleep(4)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=40)
    assert demo.returncode == 0, out + err
    assert "the demo ended before wear began" in out
    assert "Traceback" not in err
