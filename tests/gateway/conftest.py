"""A spool in a temporary directory, alone and with deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.spool import Spool
from tests.conftest import ManualClock
from tests.gateway.deliveries import Rig

OpenSpool = Callable[..., Awaitable[Spool]]


@pytest.fixture
async def open_spool(tmp_path: Path, manual_clock: ManualClock) -> AsyncIterator[OpenSpool]:
    """Opens the spool below tmp_path/spool, as often as a test likes, and closes what it left open."""
    opened: list[Spool] = []

    async def open_(**options: Any) -> Spool:
        options = {"gateway": "gw", "clock": manual_clock, "log": structlog.get_logger(), "commit_every_s": 0.005, **options}
        spool = await Spool.open(tmp_path / "spool", **options)
        opened.append(spool)
        return spool

    yield open_
    for spool in opened:
        await asyncio.wait_for(spool.close(), 5)


@pytest.fixture
async def rig(open_spool: OpenSpool, tmp_path: Path, manual_clock: ManualClock) -> Rig:
    """Deliveries on a spool."""
    return Rig(await open_spool(), tmp_path, manual_clock)
