"""Helpers for the gateway's rooms: tags and telemetry rows in one line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from schemas.kinds import telemetry
from schemas.tags import Tag


def make_tag(number: int, **options: object) -> Tag:
    name = str(options.pop("name", f"t{number}"))
    return Tag(
        path=f"acme/osaka/press/{name}", asset="acme/osaka/press", name=name, adapter="press", device="press", address=f"hr:{number}",
        id=number, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def rows(
    tags: Sequence[int], values: Sequence[float | None], *, time_us: int | Sequence[int] = 0, quality: int = 0
) -> pa.RecordBatch:
    time = time_us if isinstance(time_us, int) else np.array(time_us, dtype=np.int64)
    return telemetry(
        time_us=time,
        tag=np.array(tags, dtype=np.int32),
        value=pa.array(values, pa.float64()),
        quality=np.full(len(tags), quality, np.uint32),
    )


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        await asyncio.sleep(0.002)
