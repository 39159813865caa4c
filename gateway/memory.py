"""Memory that was needed for a moment goes back to the system: a lake file in the making takes tens of megabytes, once a minute or once an hour."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pyarrow as pa

EVERY_S: Final = 60.0
RESTS_S: Final = 86_400.0
"""So often what was replaced since, as a configuration's models, is looked for among what was left alone."""
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc
_M_ARENA_MAX: Final = -8


def keep_small() -> None:
    """Before much is running: what is freed goes back, and what stays lies close together.

    Arrow frees at once: else tens of megabytes stay with threads that do nothing more. Of malloc's arenas there are two and not eight for
    each core, because what one thread makes another one frees, and each arena keeps its holes; large blocks are no part of them.
    """
    if pa.default_memory_pool().backend_name == "jemalloc":
        pa.jemalloc_set_decay_ms(0)
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


async def give_back_now_and_then() -> None:
    """For ever: what lies free between blocks in use, or in cycles that nobody uses, stays resident otherwise, as if it leaked."""
    trim = _malloc_trim()
    loop = asyncio.get_running_loop()
    rests_at = loop.time()
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            if loop.time() >= rests_at:
                _rest()
                rests_at = loop.time() + RESTS_S
            gc.collect()
            await asyncio.to_thread(_give_back, trim)
    finally:
        gc.unfreeze()


def _rest() -> None:
    """Everything that is there now is left alone by the collector of cycles until the next day.

    By itself it looks through everything only when very many more objects have come; until then what failed calls leave behind in cycles
    stays. Without libraries and configuration there is so little to look through that it is done every minute.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


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
