"""The gateway's hold on the process of an isolated adapter: starts it, listens to it, notices that it is ill, and sees to its end.

Nothing here waits in a task: callbacks of the pipes and one timer do the work, so that an adapter that only waits costs nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from . import errors, memory
from .frames import BEAT_S, Frame, Frames, Garbled, Say, encode

HUNG_S: Final = 5.0
"""A child that shows no sign of life for so long is replaced."""
_STARTING_S: Final = 60.0
"""As long may it take to import its libraries and to plan its requests; small computers are slow at both."""
_PIPE: Final = 2**20  # bytes: a batch goes through in one piece
_REAP_S: Final = 0.005
_LINGERS_S: Final = 2.0  # between the end of its pipe and the kill
_DYING_S: Final = 10.0  # between the kill and giving it up to the operating system: others come first on a busy machine
_STDERR: Final = 2000  # bytes of what it printed last that go into the log
_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONTZPATH")  # fmt: skip

End = Literal["closed", "killed", "exited", "memory", "hung", "garbled"]


class ChildProcess(asyncio.Protocol):
    """One process. Made by `start`; `on_frame` gets what it says besides answers, `on_end` the reason when it is gone, once."""

    def __init__(
        self, *, memory_limit: int, on_frame: Callable[[Frame], None], on_end: Callable[[], None], module: str = "child"
    ) -> None:
        """`module` of this package is what runs in it."""
        self._module = module
        self._loop = asyncio.get_running_loop()
        self._memory_limit, self._on_frame, self._on_end = memory_limit, on_frame, on_end
        self._frames = Frames()
        self._popen: subprocess.Popen[bytes] | None = None
        self._down: asyncio.WriteTransport | None = None
        self._pipes: list[asyncio.BaseTransport] = []
        self._answer: asyncio.Future[Exception | None] | None = None
        self._gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._give_up_at = 0.0
        self._heard_at = self._loop.time()
        self._silent = False
        self._patience_s = _STARTING_S
        self._stderr = b""
        self.resident = 0
        self.end: End | None = None
        """What ended it; None while it runs."""
        self.why = ""
        """The same in words."""

    @property
    def pid(self) -> int:
        """The process id, 0 when there is none yet."""
        return self._popen.pid if self._popen is not None else 0

    @property
    def stderr(self) -> str:
        """The end of what it printed."""
        return self._stderr.decode(errors="replace").strip()

    async def start(self) -> None:
        """Start the interpreter; raises OSError where the system does not let us."""
        command = [sys.executable, "-P", "-m", f"{__package__}.{self._module}", str(os.getpid())]
        popen = self._popen = subprocess.Popen(  # noqa: ASYNC220 (a vfork of a millisecond; asyncio's own does the same)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(os.environ),
            start_new_session=True,  # a Ctrl-C on the terminal is for the gateway
        )
        assert popen.stdin is not None
        assert popen.stdout is not None
        with suppress(OSError):  # where the user's share of pipe memory is used up the pipe stays small
            fcntl.fcntl(popen.stdout, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            self._down, _ = await self._loop.connect_write_pipe(asyncio.Protocol, popen.stdin)
            self._pipes.append(self._down)
            err, _ = await self._loop.connect_read_pipe(lambda: _Tail(self._printed), popen.stderr)
            self._pipes.append(err)
            up, _ = await self._loop.connect_read_pipe(lambda: self, popen.stdout)
            self._pipes.append(up)
        except BaseException:
            self.kill("closed", "")
            self._reap()
            raise
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(BEAT_S, self._look)

    def send(self, frame: Frame) -> None:
        """Say something; to a process that is gone it is lost, which its `end` shows."""
        if self._down is not None and not self._down.is_closing():
            self._down.write(encode(frame))

    async def ask(self, frame: Frame) -> None:
        """Say something and wait until it is done. Raises what the adapter raised; returns with `end` set when the process is gone."""
        answer = self._answer = self._loop.create_future()
        if self.end is not None:
            return
        try:
            if len(frame.payload) < _PIPE:
                self.send(frame)
            else:
                await self._send_large(frame)
            error = await answer
        finally:
            self._answer = None
        if frame.say == Say.SETUP:
            self._patience_s = HUNG_S
        if error is not None:
            raise error

    async def _send_large(self, frame: Frame) -> None:
        """As `send`, so that the loop is not held up by the checksum and the copy of hundreds of megabytes."""
        data = memoryview(await asyncio.to_thread(encode, frame))
        for at in range(0, len(data), _PIPE):
            if self._down is None or self._down.is_closing():
                return
            self._down.write(data[at : at + _PIPE])
            await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until a process that was started has ended, whatever the reason."""
        await self._gone.wait()

    async def close(self, patience_s: float) -> None:
        """Ask it to let go of the device and to end; kill it when it does not. It is gone afterwards, also where this is cancelled."""
        if self._popen is None:
            return
        try:
            if self.end is None:
                self.end = "closed"
                self.send(Frame(Say.CLOSE, b""))
            async with asyncio.timeout(patience_s):
                await self._gone.wait()
        except TimeoutError:
            self.kill("hung", f"did not let go within {patience_s:g} s")
        finally:
            if not self._gone.is_set():
                self.kill("closed", "")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_DYING_S):
                        await self._gone.wait()
        await asyncio.sleep(0)  # the transports let go of their pipes on the loop's next turn

    def kill(self, end: End, why: str) -> None:
        """kill -9, for this reason."""
        if self.end in (None, "closed"):
            self.end, self.why = end, why
        if self._popen is not None and self._popen.returncode is None:
            self._popen.kill()

    def data_received(self, data: bytes) -> None:
        """Frames of the child."""
        self._heard_at = self._loop.time()
        if self.end not in (None, "closed"):
            return
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except Garbled as error:
            self.kill("garbled", f"wrote nonsense to its pipe: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end of the pipe is closed: it has ended, or is just about to."""
        del exc
        self._give_up_at = self._loop.time() + _LINGERS_S
        self._reap()

    def _take(self, frame: Frame) -> None:
        match frame.say:
            case Say.BEAT:
                self.resident = int.from_bytes(frame.payload[:8], "little")
                if self.resident > self._memory_limit:
                    self.kill("memory", f"used {self.resident / 1e6:.0f} MB of memory")
            case Say.ANSWER:
                error = errors.from_json(frame.payload)
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(error)
            case Say.BATCH | Say.ENDED | Say.LOG | Say.CERTIFICATES | Say.ANSWERS:
                self._on_frame(frame)
            case _:
                raise Garbled(f"a frame that says {frame.say}")

    def _look(self) -> None:
        """Two looks in a row, so that a pause of this process is not taken for one of the child."""
        silent = self._loop.time() - self._heard_at > self._patience_s
        if silent and self._silent:
            self.kill("hung", f"showed no sign of life for {self._patience_s:g} s")
        self._silent = silent
        self._timer = self._loop.call_later(BEAT_S, self._look)

    def _reap(self) -> None:
        self._reaper = None
        assert self._popen is not None
        status = self._popen.poll()
        if status is None:
            if self._loop.time() > self._give_up_at:
                self.kill("hung", "closed its pipe and went on")
                self._give_up_at = self._loop.time() + _LINGERS_S
            self._reaper = self._loop.call_later(_REAP_S, self._reap)
            return
        if self.end is None:
            self.end, self.why = _meaning(status)
        if self._timer is not None:
            self._timer.cancel()
        for pipe in self._pipes:
            if not pipe.is_closing():
                pipe.abort() if isinstance(pipe, asyncio.WriteTransport) else pipe.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        self._gone.set()
        self._on_end()

    def _printed(self, data: bytes) -> None:
        self._stderr = (self._stderr + data)[-_STDERR:]


class _Tail(asyncio.Protocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def data_received(self, data: bytes) -> None:
        self._take(data)


def _meaning(status: int) -> tuple[End, str]:
    """What the exit status says of an end that nobody here asked for."""
    if status == memory.OUT_OF_MEMORY:
        return "memory", "could not get more memory"
    if status < 0:
        with suppress(ValueError):
            return "killed", f"was killed by {signal.Signals(-status).name}"
    return "exited", f"ended with status {status}"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the child's interpreter and libraries need of our environment. The rest, in which secrets may be, stays here."""
    kept = {name: value for name, value in ours.items() if name in _KEPT_ENVIRONMENT or name.startswith("LC_")}
    root = str(Path(__file__).parents[2])
    if root not in (*site.getsitepackages(), sysconfig.get_paths()["purelib"]):  # a checkout: not where libraries are looked for
        kept["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve, and keep what was freed for later
        "MALLOC_ARENA_MAX": "2",
        "PYTHONUTF8": "1",
    }
