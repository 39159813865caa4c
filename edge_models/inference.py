"""How a model that lies in a file is run: what is asked, what answers, and the executor of jobs over files, the lake and Spark.

A model speaks to an `Executor` and never knows where it computes: here in the process, or in the gateway in a worker process with limits.
Each row is inferred on its own, with one thread, so that an answer depends on nothing but its row: not on the rows beside it, which
would change the order of a matrix product's sums, nor on the number of processors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from schemas.errors import ConfigError, GenbaError

from .onnx_file import Described, NotOnnx, describe
from .slots import Readings

if TYPE_CHECKING:
    import pyarrow as pa

Singles = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64]

MAX_FILE: Final = 256 << 20
"""Bytes. A larger model file is not for the edge."""
_ALIGNMENT: Final = 64
_INSTALL: Final = "pip install 'genba[onnx]'"


NOTHING: Final[Numbers] = np.zeros((0, 1), dtype=np.float32)
"""The answers to a request without rows."""


class NoAnswer(GenbaError):
    """The rows of this batch have no answer: the model took too long, died, or is suspended. They are scored null."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model file may use. `budget_s` is for all rows of one batch."""

    budget_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Request:
    """n rows for one model: the inputs by name, the first axis of each is the row, and the output that is wanted."""

    inputs: Mapping[str, Numbers]
    output: str

    @property
    def rows(self) -> int:
        """How many."""
        return len(next(iter(self.inputs.values())))


class Executor(Protocol):
    """Runs one model file. Equal requests have equal answers, bit for bit, whichever executor gives them on one machine."""

    described: Described

    def run(self, request: Request) -> Numbers:
        """Request(n) -> n answers, one row of the output each. Raises NoAnswer, and ConfigError for a file that cannot be run."""
        ...


OpenModel = Callable[[str, Limits, str], Executor]
"""`open_model(file, limits, where)`: the executor of a file. Raises ConfigError at `where`, the key path of the file's name."""


@runtime_checkable
class Infers(Protocol):
    """A model that asks an executor. Whoever drives it may let the executor work elsewhere between `ask` and `hear`.

    One `hear` follows each `ask` that gave a request, before the next `ask`.
    """

    executor: Executor

    def ask(self, readings: Readings) -> Request | None:
        """Take readings; what is to be inferred for them, None for nothing."""
        ...

    def hear(self, answers: Numbers | None) -> list[pa.RecordBatch]:
        """The answers, None where there are none -> SCORE batches, and HEALTH."""
        ...


def asked_here(model: Infers, readings: Readings) -> list[pa.RecordBatch]:
    """`ask`, let the executor run now, and `hear`."""
    request = model.ask(readings)
    return [] if request is None else model.hear(answer_here(model.executor, request))


def answer_here(executor: Executor, request: Request) -> Numbers | None:
    """The answers of an executor, None where it has none."""
    if request.rows == 0:
        return NOTHING
    try:
        return executor.run(request)
    except NoAnswer:
        return None


def read_model(file: str, base: Path, where: str) -> bytes:
    """The bytes of a model file, relative to `base`. Raises ConfigError."""
    path = base / file
    try:
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"{file} is larger than {MAX_FILE >> 20} MiB", where=where, hint="quantise or prune the model")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the model file {file} cannot be read: {error.strerror or error}",
            where=where,
            hint="its path is relative to the configuration file",
        ) from error


def described(data: bytes, file: str, where: str) -> Described:
    """What the file says of itself. Raises ConfigError."""
    try:
        return describe(data)
    except NotOnnx as error:
        hint = "export the model as one .onnx file with the standard operators"
        raise ConfigError(f"the model file {file} cannot be used: {error}", where=where, hint=hint) from error


def open_here(file: str, limits: Limits, where: str) -> Executor:
    """An executor in this process, for jobs: no limits, nobody waits for it. `file` is relative to the working directory."""
    del limits
    return InProcess(read_model(file, Path(), where), file, where)


class InProcess:
    """onnxruntime in this process, imported and loaded with the first request."""

    def __init__(self, data: bytes, file: str, where: str) -> None:
        """Raises ConfigError for what is no ONNX file."""
        self._data, self._file, self._where = data, file, where
        self.described = described(data, file, where)

    @cached_property
    def _session(self) -> Any:
        return session(self._data, self._file, self._where)

    def run(self, request: Request) -> Numbers:
        """See Executor."""
        return infer(self._session, request)


def session(data: bytes, file: str, where: str) -> Any:
    """An onnxruntime session with one thread. Raises ConfigError without onnxruntime, and for a file that it does not take."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{file} needs onnxruntime, which is not installed", where=where, hint=_INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # it would print; what is wrong is raised
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} does not take {file}: {_first_line(error)}", where=where,
            hint="export the model for an older operator set, or update onnxruntime",
        ) from error  # fmt: skip


def infer(running: Any, request: Request) -> Numbers:
    """One row after the other. Raises NoAnswer where the graph fails on a row."""
    # Where a row begins in memory decides how its sums are cut for the vector units, and so their last bits: always at the same place.
    places = {name: _aligned(array[:1]) for name, array in request.inputs.items()}
    found = []
    for row in range(request.rows):
        for name, array in request.inputs.items():
            places[name][0] = array[row]
        try:
            (one,) = running.run([request.output], places)
        except Exception as error:
            raise NoAnswer(f"the model fails on a row: {_first_line(error)}") from error
        found.append(np.array(one).reshape(-1))
    if any(one.shape != found[0].shape for one in found) or found[0].dtype.kind not in "fiu":
        raise NoAnswer("the model's answers are no numbers, or not equally many for each row")
    return np.stack(found)


def _aligned(like: Numbers) -> Numbers:
    """An empty array of the same shape that begins at a multiple of 64 bytes."""
    room = np.empty(like.nbytes + _ALIGNMENT, dtype=np.uint8)
    skip = -room.ctypes.data % _ALIGNMENT
    return room[skip : skip + like.nbytes].view(like.dtype).reshape(like.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
