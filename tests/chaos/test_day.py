"""24 hours of a plant through outages and kills, and everything is where it was promised to be. See docs/reliability.md.

The long run is `python -m tests.chaos.day --kills 100`; GENBA_KILLS and GENBA_SEED change this one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos import early
from tests.chaos.day.run import run
from tests.conftest import missing

pytestmark = [pytest.mark.e2e, pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(900)]
SEED, KILLS = int(os.environ.get("GENBA_SEED", "20260301")), int(os.environ.get("GENBA_KILLS", "10"))


@pytest.fixture(autouse=True)
def _small_disks() -> None:
    from tests.chaos.day.stands import small_disks

    if not small_disks():
        missing("no user namespaces here, so no small disk")


async def test_a_day_through_outages_and_kills_is_complete_once_each_in_the_lake_and_in_order_in_the_streams(
    tmp_path: Path,
) -> None:
    result = await run(tmp_path, seed=SEED, kills=KILLS)
    assert result.wrong == [], result
    assert result.rows["telemetry"] > 150_000
    assert result.looks > KILLS
    assert len(result.troubles) > 5
    assert list(result.verified) == ["s3", "local", "s3, merged"]
    assert {told.split(" (")[0] for told in result.verified.values()} == {"all is well"}


async def test_a_lake_that_acknowledges_before_it_has_written_is_found_out(tmp_path: Path) -> None:
    """The control: the same check, an hour, and a sink that says yes too early."""
    result = await run(tmp_path, seed=SEED, kills=2, hours=1.0, program=(early.__file__,))
    assert any("rows are missing" in sentence for sentence in result.wrong), result
