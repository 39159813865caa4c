"""The memory limit of an isolated adapter, and what it uses.

Two bounds. Resident memory, what `top` shows, is told with every sign of life and ends the child above `memory_limit`: exact, and
with a reason. RLIMIT_DATA stands `SLACK` above it for what happens between two signs of life: a length field from the wire that
asks for gigabytes is refused by the kernel, in Python a MemoryError. RLIMIT_AS would be the wrong one: an idle adapter has 280 to
320 MB of address space (libraries, reserved arenas, thread stacks) and 86 to 109 MB of memory
(`benchmarks/isolation.py`).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

SLACK: Final = 128 * 2**20
"""Private writable address space that is not resident: thread stacks of 8 MB each, what an allocator keeps; measured 55 MB."""
OUT_OF_MEMORY: Final = 77
"""Exit status of a child in which an allocation failed."""
_PR_SET_PDEATHSIG: Final = 1
_PAGE: Final = resource.getpagesize()
_FIRST_TO_GO: Final = "500"


def limit(max_bytes: int) -> None:
    """Bound the private memory of this process, and leave no core file with secrets in it."""
    bound = max_bytes + SLACK
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound) if hard == resource.RLIM_INFINITY else (min(bound, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # when the machine runs out of memory this process goes before the gateway
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")


def resident() -> int:
    """Bytes of memory that this process has, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(128).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, however that ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)
