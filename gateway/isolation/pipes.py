"""What every child process does first: end with the gateway, leave signals to it, and keep its two pipes to itself."""

from __future__ import annotations

import os
import signal
from typing import BinaryIO

from . import memory


def taken(parent: int) -> tuple[BinaryIO, BinaryIO]:
    """What the gateway says and where it listens, unbuffered. What libraries print goes to stderr, and they read nothing."""
    memory.die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # a service manager signals every process; the gateway says when to end
        signal.signal(number, signal.SIG_IGN)
    down, up = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return os.fdopen(down, "rb", 0), os.fdopen(up, "wb", 0)
