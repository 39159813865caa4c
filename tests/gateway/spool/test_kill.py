"""kill -9 of a process that appends: what it called durable is there afterwards, in order, and nothing else is."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from .conftest import everything, numbers, running, values

ROOT = Path(__file__).parents[3]
CHILD = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import numpy as np
import structlog
from gateway.clock import WallClock
from gateway.spool import Spool
from schemas.kinds import make_batch, telemetry

async def main():
    telemetry(time_us=0, tag=np.zeros(1, np.int32), value=np.zeros(1))  # what is imported lazily must not use up a short life
    spool = await Spool.open(Path(sys.argv[1]), gateway="gw", clock=WallClock(), log=structlog.get_logger(), commit_every_s=0.002,
                             segment_bytes=256 << 10, retention_grace_s=0)
    await spool.ledger.register("telemetry", "lake", "oldest")
    print("durable", spool.durable("telemetry"), flush=True)
    while True:
        for _ in range(20):
            value = np.arange(200, dtype=np.float64) + spool.end("telemetry")
            await spool.put("telemetry", telemetry(time_us=0, tag=np.zeros(200, np.int32), value=value))
        await spool.put("alert", make_batch("alert", 1, time=0, onset_seq=spool.end("telemetry") - 1))
        await spool.flush()
        print("durable", spool.durable("telemetry"), flush=True)

asyncio.run(main())
"""


def live_and_die(script: Path, directory: Path, seconds: float) -> list[int]:
    """The row numbers below which all rows were durable, as one child said until it was killed."""
    with subprocess.Popen(
        [sys.executable, str(script), str(directory), str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        first = child.stdout.readline()
        assert first.startswith("durable"), child.stderr.read()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said = first + child.stdout.read()
    whole = said[: said.rindex("\n")].splitlines()
    return [int(line.split()[1]) for line in whole]


async def test_twenty_kills_lose_no_row_that_was_called_durable(open_spool, tmp_path):
    rng = random.Random(5)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    directory = tmp_path / "spool"
    acknowledged = 0
    for _ in range(20):
        said = await asyncio.to_thread(live_and_die, script, directory, rng.uniform(0.005, 0.1))
        assert said[0] >= acknowledged
        acknowledged = said[-1]
    async with running(open_spool, directory=directory) as spool:
        assert spool.end("telemetry") >= acknowledged > 0
        rows = await everything(spool)
        assert numbers(rows) == values(rows) == list(range(spool.end("telemetry")))
        onsets = [onset for _, batch in await everything(spool, "alert") for onset in batch.column("onset_seq").to_pylist()]
        assert onsets == sorted(onsets)
        assert onsets[-1] < spool.end("telemetry")
        assert spool.account("telemetry", "lake").spooled == spool.end("telemetry")
        assert all(not report.missing and not report.quarantined for report in spool.recovery.values())
