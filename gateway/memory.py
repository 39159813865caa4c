"""Memory that was needed for a moment goes back to the system: a lake file in the making takes tens of megabytes, once a minute or once an hour."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pyarrow as pa

EVERY_S: Final = 60.0


def free_at_once() -> None:
    """What Arrow frees goes back at once: else tens of megabytes stay with threads that do nothing more."""
    if pa.default_memory_pool().backend_name == "jemalloc":
        pa.jemalloc_set_decay_ms(0)


async def give_back_now_and_then() -> None:
    """For ever. What lies free between blocks in use stays resident otherwise, some more each time, as if it leaked."""
    trim = _malloc_trim()
    while True:
        await asyncio.sleep(EVERY_S)
        await asyncio.to_thread(_give_back, trim)


def _give_back(trim: Callable[[int], int] | None) -> None:
    pa.default_memory_pool().release_unused()
    if trim is not None:
        trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None elsewhere (musl gives back by itself)."""
    with suppress(OSError, AttributeError):
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return found
    return None
