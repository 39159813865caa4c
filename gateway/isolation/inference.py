"""The gateway's side of a model's worker process: keeps it running, gives it a time budget, and suspends a model that does not keep it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import structlog

from edge_models.inference import NOTHING, Executor, Limits, NoAnswer, Numbers, OpenModel, Request, described, read_model
from edge_models.onnx_file import Described
from schemas.errors import ConfigError

from . import requests
from .errors import AdapterCrashed
from .frames import Frame, Garbled, Say
from .process import ChildProcess

ROWS: Final = 256
"""At most so many rows are asked for at once."""
STARTING_S: Final = 15.0
"""As long may a worker take to start and load its model: onnxruntime takes a second, small computers several."""
FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0
LATE_S: Final = 30.0
"""A model that leaves rows of every batch unanswered for so long does not keep up."""
_PIECE_BYTES: Final = 1 << 20
_MOST_NUMBERS: Final = 1 << 18  # window × inputs of a model that takes as many of both as it may
_PIECES: Final = 8  # of a budget; what is under way when a budget ends is as little as this
_SECOND_LOOK_S: Final = 0.05
_LETTING_GO_S: Final = 0.5


class _Piece(NamedTuple):
    """Rows that the worker was asked for, when they are due (loop time), and what it says: None when its process is gone."""

    rows: int
    asked: float
    due: float
    said: asyncio.Future[bytes | None]


class WorkerExecutor:
    """An executor whose answers come from a process of its own, with a memory limit, one core at most, behind everything else.

    `keep` runs the process; `answer` asks it and never waits longer than the budget: not for a process that is starting, and not for
    rows that are too many, which stay without an answer. Whatever the worker does wrong ends it and suspends the model: after a
    minute it is tried again, after each further failure in a row twice as long, an hour at most. One task at a time may ask.
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
        self.row_bytes = _row_bytes(self.described)
        """Bytes of one row that is asked for; until one was, the most that it may be."""
        self._child: ChildProcess | None = None  # with its model loaded; nobody is asked while there is none
        self._piece: _Piece | None = None  # at most one is under way, so an answer of this process can be to nothing else
        self._at_once = 1  # rows of the next piece
        self._missed = False  # rows of the batch that is under way
        self._late_since: float | None = None
        self._failures = 0
        self._until = 0.0  # loop time
        self.suspended = ""
        """Why the model is suspended; empty while it is not."""
        self.unscored = 0
        """Rows that stayed without an answer since the start."""

    @property
    def pid(self) -> int:
        """Process id of the worker that has its model loaded, 0 while there is none."""
        return self._child.pid if self._child is not None else 0

    @property
    def resident(self) -> int:
        """Bytes of memory that the worker has; 0 while there is none."""
        return self._child.resident if self._child is not None else 0

    def run(self, request: Request) -> Numbers:
        """See Executor: nobody may wait here, so there is no answer. Ask with `answer`."""
        raise NoAnswer("the model runs in a worker process")

    async def keep(self) -> None:
        """Have a worker process, and after each failure and its pause another one, until cancelled. It is gone afterwards."""
        while True:
            await self._one()
            await asyncio.sleep(max(0.0, self._until - asyncio.get_running_loop().time()))

    async def answer(self, request: Request, since: float | None = None) -> Numbers | None:
        """Request(n) -> n answers, NaN for the rows that are not answered within the budget; None where none is.

        `since` (loop time) says that this is a further part of the batch that began then: a batch has one budget, however it is
        cut. A single row, or a piece of few rows, that takes the whole budget suspends the model, and so do batches one after the
        other for `LATE_S` in each of which rows stay unanswered. Never raises but CancelledError.
        """
        if since is None:
            if not self._missed:
                self._late_since = None
            self._missed = False
        self.row_bytes = sum(array.itemsize * math.prod(array.shape[1:]) for array in request.inputs.values())
        if request.rows == 0:
            return NOTHING
        found = await self._found(request, since)
        missing = request.rows - sum(map(len, found))
        self.unscored += missing
        if not missing and self.suspended:
            self._log.info("the model answers again")
        if not missing:
            self.suspended, self._failures = "", 0
        if not found:
            return None
        if missing:
            found.append(np.full((missing, found[0].shape[1]), np.nan, dtype=found[0].dtype))
        return found[0] if len(found) == 1 else np.concatenate(found)  # type: ignore[return-value]

    async def _found(self, request: Request, since: float | None) -> list[Numbers]:
        """The answers to the first rows, piece by piece, as many as there are in time."""
        child, loop = self._child, asyncio.get_running_loop()
        found: list[Numbers] = []
        if child is None:
            return found
        began = loop.time()
        ends = (began if since is None else since) + self._limits.budget_s
        most = max(1, min(ROWS, _PIECE_BYTES // max(1, self.row_bytes)))
        at = 0
        try:
            if self._piece is not None:  # of a batch whose time was over before: its answer is discarded
                if await self._said(child, self._piece, ends) is None:
                    self._late(child)
                    return found
                began = loop.time()
            while at < request.rows:
                if at and began >= ends:
                    self._late(child)
                    break
                part = _part(request, at, min(most, self._at_once))
                piece = _Piece(part.rows, began, began + self._limits.budget_s, loop.create_future())
                self._piece = piece
                child.send(Frame(Say.INFER, requests.request_to_bytes(part)))
                answers = await self._said(child, piece, ends)
                if answers is None:
                    self._late(child)
                    break
                if len(answers) != part.rows or (found and answers.shape[1:] != found[0].shape[1:]):
                    raise NoAnswer("it has not one answer of the same width for each row")
                found.append(answers)
                at += part.rows
                began = loop.time()
        except NoAnswer as error:
            self._fail(child, str(error))
        return found

    async def _said(self, child: ChildProcess, piece: _Piece, ends: float) -> Numbers | None:
        """What the worker answers to a piece; None where it has not by `ends`. Raises NoAnswer where it never will."""
        loop, budget_s = asyncio.get_running_loop(), self._limits.budget_s
        until = max(loop.time(), min(ends, piece.due))
        await asyncio.wait([piece.said], timeout=until - loop.time())
        now = loop.time()
        if not piece.said.done() and now >= piece.due:
            # A pause of this process is not one of the worker: its answer may be in the pipe.
            await asyncio.wait([piece.said], timeout=min(now - until, budget_s) + _SECOND_LOOK_S)
            if not piece.said.done():
                rows = "1 row" if piece.rows == 1 else f"{piece.rows} rows"
                raise NoAnswer(f"it took longer than its budget of {budget_s:g} s for {rows}")
        if not piece.said.done():
            return None
        self._piece = None
        payload = piece.said.result()
        if payload is None:
            raise NoAnswer("its worker process is gone")  # whoever ended it has said why
        try:
            answers, why = requests.answers_from_bytes(payload)
        except Garbled as error:
            raise NoAnswer(f"its worker process wrote nonsense: {error}") from error
        if answers is None:
            raise NoAnswer(why)
        took = max(loop.time() - piece.asked, 1e-6)
        self._at_once = max(1, min(ROWS, int(piece.rows * budget_s / _PIECES / took)))
        return answers

    async def _one(self) -> None:
        """One worker process from its start to its end."""
        child = ChildProcess(
            memory_limit=self._limits.memory_bytes,
            on_frame=lambda frame: self._take(child, frame),
            on_end=lambda: self._fail(child, f"its worker process {child.why or child.end}"),
            module="worker",
        )
        try:
            why = await self._load(child)
            if why:
                self._suspend(why)
                return
            self._child, self._at_once = child, 1
            self._missed, self._late_since = False, None
            await child.gone()
        finally:
            if self._child is child:
                self._let_go()
            await child.close(_LETTING_GO_S)

    async def _load(self, child: ChildProcess) -> str:
        """Start the process and have it load the model. Returns why it cannot, empty where it has."""
        try:
            async with asyncio.timeout(self._starting_s):
                await child.start()
                setup = (self._data, self._file, self._where, self._limits.memory_bytes)
                await child.ask(Frame(Say.SETUP, await asyncio.to_thread(requests.setup_to_bytes, *setup)))
        except TimeoutError:
            child.kill("hung", "")
            return f"its worker process was not ready within {self._starting_s:g} s"
        except OSError as error:
            return f"its worker process cannot be started: {error.strerror or error}"
        except (ConfigError, AdapterCrashed, Garbled) as error:
            return str(error).strip().rpartition("\n")[2]
        return f"its worker process {child.why or child.end}" if child.end is not None else ""

    def _take(self, child: ChildProcess, frame: Frame) -> None:
        if child is self._child and self._piece is not None and not self._piece.said.done() and frame.say == Say.ANSWERS:
            self._piece.said.set_result(frame.payload)

    def _late(self, child: ChildProcess) -> None:
        """Rows of this batch stay unanswered."""
        now = asyncio.get_running_loop().time()
        self._missed = True
        self._late_since = now if self._late_since is None else self._late_since
        if now - self._late_since >= LATE_S:
            self._fail(
                child, f"it does not keep up: for {LATE_S:g} s no batch was done within its budget of {self._limits.budget_s:g} s"
            )

    def _fail(self, child: ChildProcess, why: str) -> None:
        """This process is of no use any more, or gone: `keep` starts another one after the pause."""
        if child is not self._child:
            return
        self._let_go()
        child.kill("closed", "")
        self._suspend(why)

    def _let_go(self) -> None:
        piece, self._piece, self._child = self._piece, None, None
        if piece is not None and not piece.said.done():
            piece.said.set_result(None)

    def _suspend(self, why: str) -> None:
        pause = min(self._first_pause_s * 2**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 30)
        self._until = asyncio.get_running_loop().time() + pause
        if not self.suspended:
            self._log.warning("the model is suspended", error=why, pause_s=pause)
        self.suspended = why


def _row_bytes(said: Described) -> int:
    """Bytes of a row as the file says, the most that one may have where it leaves an axis open."""
    total = 0
    for value in said.inputs:
        sizes = [size for size in value.shape[1:] if isinstance(size, int)]
        whole = len(sizes) == len(value.shape) - 1
        total += (8 if value.element == "double" else 4) * (math.prod(sizes) if whole else _MOST_NUMBERS)
    return total


def _part(request: Request, first: int, rows: int) -> Request:
    return Request({name: array[first : first + rows] for name, array in request.inputs.items()}, request.output)


def open_worker(base: Path, log: structlog.stdlib.BoundLogger) -> OpenModel:
    """Opens model files, relative to `base`, as workers."""

    def opened(file: str, limits: Limits, where: str) -> Executor:
        return WorkerExecutor(read_model(file, base, where), file, limits, where, log=log)

    return opened
