"""The gateway's side of a model's worker process: starts it, gives it a time budget, and suspends a model that does not keep it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from edge_models.inference import NOTHING, Executor, Limits, NoAnswer, Numbers, OpenModel, Request, described, read_model
from schemas.errors import ConfigError

from . import requests
from .errors import AdapterCrashed
from .frames import Frame, Garbled, Say
from .process import ChildProcess, End

ROWS: Final = 256
"""So many rows are asked for at once, and each time the budget begins anew: catching up is not an overrun."""
STARTING_S: Final = 15.0
"""As long may a worker take to start and load its model: onnxruntime takes a second, small computers several."""
FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0
_LETTING_GO_S: Final = 0.5


class WorkerExecutor:
    """An executor whose answers come from a process of its own, with a memory limit, one core at most, behind everything else.

    `answer` is what the gateway uses; rows that are not answered within the budget of their batch are not answered at all, later
    answers are of nobody. Whatever the worker does wrong ends it and suspends the model: after a minute it is tried again, after each
    further failure in a row twice as long, an hour at most. Not to be used by two tasks at once.
    """

    def __init__(
        self, data: bytes, file: str, limits: Limits, where: str, *, log: structlog.stdlib.BoundLogger,
        first_pause_s: float = FIRST_PAUSE_S, starting_s: float = STARTING_S,
    ) -> None:  # fmt: skip
        """Starts nothing. Raises ConfigError for what is no ONNX file."""
        self._data, self._file, self._where, self._limits = data, file, where, limits
        self._log = log.bind(model=where.split(".")[1] if "." in where else where, file=file)
        self._first_pause_s, self._starting_s = first_pause_s, starting_s
        self.described = described(data, file, where)
        self._child: ChildProcess | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._abandoned = False
        self._failures = 0
        self._until = 0.0  # loop time
        self.suspended = ""
        """Why the model is suspended; empty while it is not."""
        self.suspensions = 0
        """How often it was, since the start."""

    @property
    def pid(self) -> int:
        """Process id of the worker, 0 while there is none."""
        return self._child.pid if self._child is not None and self._child.end is None else 0

    @property
    def resident(self) -> int:
        """Bytes of memory that the worker has; 0 while there is none."""
        return self._child.resident if self._child is not None and self._child.end is None else 0

    def run(self, request: Request) -> Numbers:
        """See Executor: nobody may wait here, so there is no answer. Ask with `answer`."""
        raise NoAnswer("the model runs in a worker process")

    async def answer(self, request: Request) -> Numbers | None:
        """The answers, None where the model has none within its budget or is suspended. Never raises but CancelledError."""
        if request.rows == 0:
            return NOTHING
        if self.suspended and asyncio.get_running_loop().time() < self._until:
            return None
        try:
            child = await self.start()
            found = [await self._piece(child, request, first) for first in range(0, request.rows, ROWS)]
        except NoAnswer as error:
            if not self._abandoned:
                self._suspend(str(error))
            return None
        except asyncio.CancelledError:
            self._end("closed", "")  # what it is still computing would be taken for the answer to something else
            raise
        if self.suspended:
            self._log.info("the model answers again")
        self.suspended, self._failures = "", 0
        return found[0] if len(found) == 1 else np.concatenate(found)  # type: ignore[return-value]

    async def prepare(self) -> None:
        """Start the worker before there is anything to ask; one that cannot be started is suspended."""
        try:
            await self.start()
        except NoAnswer as error:
            if not self._abandoned:
                self._suspend(str(error))

    async def start(self) -> ChildProcess:
        """The worker, with its model loaded. Raises NoAnswer where it cannot be."""
        if self._child is not None and self._child.end is None:
            return self._child
        child = ChildProcess(
            memory_limit=self._limits.memory_bytes, on_frame=self._take, on_end=self._ended, module="worker"
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._starting_s):
                await child.start()
                self._child = child
                payload = requests.setup_to_bytes(self._data, self._file, self._where, self._limits.memory_bytes)
                await child.ask(Frame(Say.SETUP, payload))
        except TimeoutError as error:
            self._end("hung", "")
            raise NoAnswer(f"its worker process was not ready within {self._starting_s:g} s") from error
        except OSError as error:
            self._end("closed", "")
            raise NoAnswer(f"its worker process cannot be started: {error.strerror or error}") from error
        except (ConfigError, AdapterCrashed, Garbled) as error:
            self._end("closed", "")
            raise NoAnswer(str(error).strip().rpartition("\n")[2]) from error
        if self._abandoned:
            self._end("closed", "")
        if child.end is not None:
            raise NoAnswer(f"its worker process {child.why or child.end}")
        return child

    def abandon(self) -> None:
        """Nobody wants its answers any more; whoever waits for one has none. `close` follows."""
        self._abandoned = True
        self._end("closed", "")

    async def close(self) -> None:
        """End the worker; it is gone afterwards."""
        child, self._child = self._child, None
        if child is not None:
            await child.close(_LETTING_GO_S)

    async def _piece(self, child: ChildProcess, request: Request, first: int) -> Numbers:
        part = Request({name: array[first : first + ROWS] for name, array in request.inputs.items()}, request.output)
        answer = self._answer = asyncio.get_running_loop().create_future()
        child.send(Frame(Say.INFER, requests.request_to_bytes(part)))
        if child.end is not None:
            self._ended()
        try:
            async with asyncio.timeout(self._limits.budget_s):
                payload = await answer
        except TimeoutError as error:
            self._end("hung", "")
            raise NoAnswer(f"it took longer than its budget of {self._limits.budget_s:g} s for {part.rows} rows") from error
        finally:
            self._answer = None
        try:
            found, why = requests.answers_from_bytes(payload)
        except Garbled as error:
            self._end("garbled", str(error))
            raise NoAnswer(f"its worker process wrote nonsense: {error}") from error
        if found is None:
            raise NoAnswer(why)
        if len(found) != part.rows:
            self._end("garbled", "")
            raise NoAnswer("it has not as many answers as rows")
        return found

    def _take(self, frame: Frame) -> None:
        if frame.say == Say.ANSWERS and self._answer is not None and not self._answer.done():
            self._answer.set_result(frame.payload)

    def _ended(self) -> None:
        """Its process is gone, whatever the reason."""
        child, answer = self._child, self._answer
        if answer is not None and not answer.done():
            why = child.why or child.end if child is not None else "is gone"
            answer.set_exception(NoAnswer(f"its worker process {why}"))

    def _end(self, end: End, why: str) -> None:
        if self._child is not None and self._child.end is None:
            self._child.kill(end, why)

    def _suspend(self, why: str) -> None:
        pause = min(self._first_pause_s * 2**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 30)
        self._until = asyncio.get_running_loop().time() + pause
        self.suspensions += 1
        self._log.warning("the model is suspended", error=why, pause_s=pause)
        self.suspended = why


def open_worker(base: Path, log: structlog.stdlib.BoundLogger) -> OpenModel:
    """Opens model files, relative to `base`, as workers."""

    def opened(file: str, limits: Limits, where: str) -> Executor:
        return WorkerExecutor(read_model(file, base, where), file, limits, where, log=log)

    return opened
