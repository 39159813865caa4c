"""`genba` as a process of its own, for signals, streams and exit statuses."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]


class Process:
    """A running command. `until` waits for a line; what it said is in `out` and `err` as far as it was read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""

    async def until(self, text: str, stream: str = "stdout", timeout_s: float = 15.0) -> str:
        """Read lines of a stream until one contains `text`; returns that line."""
        reader = getattr(self.process, stream)
        name = "out" if stream == "stdout" else "err"
        async with asyncio.timeout(timeout_s):
            async for line in reader:
                setattr(self, name, getattr(self, name) + line.decode())
                if text in line.decode():
                    return line.decode()
        raise AssertionError(f"{text!r} was not said: {self.out} {self.err}")

    async def end(self, signal: int | None = None, timeout_s: float = 20.0) -> int:
        """Send a signal, wait for the end, and return the exit status; what is left of the streams is read."""
        if signal is not None:
            self.process.send_signal(signal)
        out, err = await asyncio.wait_for(self.process.communicate(), timeout_s)
        self.out, self.err = self.out + out.decode(), self.err + err.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def started(*arguments: object, cwd: Path) -> AsyncIterator[Process]:
    """Start `genba ARGUMENTS` with piped streams; whatever happens, it is gone afterwards."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *map(str, arguments), cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )  # fmt: skip
    made = Process(process)
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(*arguments: object, cwd: Path) -> Process:
    """Run `genba ARGUMENTS` to its end."""
    async with started(*arguments, cwd=cwd) as process:
        await process.end()
    return process
