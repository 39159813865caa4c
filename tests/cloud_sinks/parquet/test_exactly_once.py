"""A writer that is killed again and again: every row is in the lake, once. Spans are repeated as delivery repeats them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud_sinks import lake
from schemas.lake import TEMPORARY

SPANS, ROWS = 60, 200
WRITER = """
import asyncio, sys
from pathlib import Path
from cloud_sinks.parquet import PLUGIN
from cloud_sinks.parquet.config import ParquetConfig
from tests.conformance.sink import T0, batch_of, context_of, span_of
from tests.conftest import ManualClock

async def main(base, ledger, spans, rows):
    context = context_of(base, ManualClock())
    sink = PLUGIN.build(ParquetConfig(location="lake"), context)
    await sink.connect()
    done = int(ledger.read_text()) if ledger.exists() else 0
    while done < spans:
        first = done * rows
        midnight = T0 + 86_400_000_000 - first * 1_000_000 - 50_000_000 if done % 3 == 0 else T0
        await sink.write([batch_of("telemetry", first, rows, context.tags, time_us=midnight)], span_of("telemetry", first, rows))
        done += 1
        ledger.write_text(str(done))
    await sink.aclose()

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""


@pytest.mark.slow
def test_kill_9_loses_and_repeats_nothing(tmp_path: Path) -> None:
    rng = random.Random(5)
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(tmp_path / "ledger"), str(SPANS), str(ROWS)]
    root = Path(__file__).parents[3]
    kills = 0
    while kills < 6:
        before = _files(tmp_path)
        writer = subprocess.Popen(command, cwd=root)
        while _files(tmp_path) == before and writer.poll() is None:  # kill while it writes, not while Python starts
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        writer.kill()
        writer.wait()
        kills += 1
        ledger = tmp_path / "ledger"
        if ledger.exists() and not ledger.read_text():
            ledger.unlink()  # a torn ledger is another room's test: start again from the first span
    subprocess.run(command, cwd=root, check=True)
    frame = lake.scan(tmp_path / "lake").collect()
    assert frame["seq"].sort().to_list() == list(range(SPANS * ROWS))
    assert frame["date"].n_unique() == 2
    assert list((tmp_path / "lake").glob(f"{TEMPORARY}*/*")) == []


def _files(base: Path) -> int:
    return sum(1 for _ in base.glob("lake/telemetry/*/*/*.parquet"))
