"""What `onnx` and `remaining_life` share: tags bound by name, aligned, put into windows, and what the file must look like."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator

from schemas.errors import ConfigError, StateMismatch
from schemas.tags import Tag
from schemas.values import Duration, Size

from .aligned import Aligned, Aligner
from .base import ModelConfig, ModelContext, Scope, longer_than_nothing
from .inference import Limits, Numbers, Request, Singles, asked_here, open_here
from .onnx_file import Described, Value
from .scores import ScoreRows
from .slots import Bools, Floats, Readings, Times, decode
from .state import pack, unpack
from .windows import Windows

MOST_INPUTS: Final = 256
MOST_ROWS: Final = 10_000
MOST_NUMBERS: Final = 1 << 18
"""In one window: the gateway makes one of each row, 1 MiB, and holds those of a whole batch until they are answered."""
BASELINE: Final = "baseline"
AGE: Final = "age"
_NUMBERS: Final = {"float": np.float32, "double": np.float64}


class FileModelConfig(ModelConfig):
    """What every model takes that lies in a file."""

    file: str = Field(
        description="The ONNX file, relative to the configuration file, in jobs to the working directory.",
        examples=["models/press.onnx"],
    )
    inputs: Sequence[str] | Mapping[str, str] = Field(
        (),
        description="Names of the tags within the asset in the order of the model's columns, or the names that the file gives its columns, each with its tag; by default the tags are called as the file says.",
        examples=[["current", "oil_temp"], {"torque": "axis1_torque"}],
    )
    window: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="Rows that the model sees at once; by default what the file says, or 1."
    )
    min_rows: int | None = Field(
        None, ge=1, le=MOST_ROWS,
        description="Rows before the first score; with fewer than the window the oldest row stands for those that are missing. By default the window.",
    )  # fmt: skip
    every: Duration = Field(Duration("1s"), description="Step to which the tags are aligned; not below their period.")
    lateness: Duration = Field(
        Duration("10s"), description="How old a tag's last good reading may be and still stand for it; older ones are missing."
    )
    budget: Duration = Field(
        Duration("1s"),
        description="Time for the rows of one batch; rows beyond it have no score, and a model that does not keep up is suspended with an alert.",
    )
    memory_limit: Size = Field(
        Size("512 MB"), description="Memory of the model's worker process; one that takes more is suspended."
    )

    _spans = field_validator("every", "budget")(longer_than_nothing)


class FileModel(ABC):
    """Rows of an asset, aligned, in windows, through a file's graph.

    The graph takes a tensor of `[1, window, inputs]`, oldest row first, or the same flat, `[1, window × inputs]`; beside it perhaps
    `baseline` (`[1, inputs]`, the mean of each input's first ten values in the life) and `age` (`[1, 1]`, rows since it began).
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    scope: ClassVar[Scope] = "asset"
    learnt_with: ClassVar[tuple[str, ...]] = ("every", "inputs")

    def __init__(self, config: FileModelConfig, context: ModelContext, *, limit: float, further: Sequence[str] = ()) -> None:
        """`further` names tags that are aligned with the inputs, whether they are inputs, too, or not. Raises ConfigError."""
        self._where = f"models.{context.name}"
        self._file = config.file
        opener = context.open_model or open_here
        self.executor = opener(config.file, Limits(config.budget.s, int(config.memory_limit)), f"{self._where}.file")
        said = self.executor.described
        names = self._names(config, said)
        self._main, self.window = self._shape(config, said, len(names))
        window = self.window
        self._min_rows = min(config.min_rows or window, window)
        aligned = list(dict.fromkeys([*names, *further]))
        by_asset = self._bound(aligned, context)
        every = self._step(config, said)
        self._line = {name: number for number, name in enumerate(aligned)}  # of an aligned row
        self._assets_named = list(by_asset)
        self._assets = pa.array(self._assets_named, pa.string())
        self._inputs = len(names)
        slowest = [max(max(tag.period_us, tag.report_at_least_us) for tag in tags) for tags in by_asset.values()]
        fastest = [min(tag.period_us for tag in tags) for tags in by_asset.values()]
        self._slowest: Times = np.maximum(np.array(slowest, dtype=np.int64), every.us)
        self._fastest: Times = np.maximum(np.array(fastest, dtype=np.int64), every.us)
        """µs by asset between two rows at most and at least, while every tag is read: its scan classes, or the step."""
        self._align = Aligner(
            [[tag.id for tag in tags] for tags in by_asset.values()], every_us=every.us, lateness_us=config.lateness.us
        )
        self._windows = Windows(len(by_asset), window, len(names))
        self._extras = [value.name for value in said.inputs if value.name in (BASELINE, AGE)]
        self._element = {value.name: _NUMBERS[value.element] for value in said.inputs}
        self._output = ""
        self._parameters = f"{said.digest} {window} {config.model_dump_json(include=set(self.learnt_with))}"
        self._rows = ScoreRows(context.name, config.alarm.name or context.name, limit)
        self._warm_up_us = config.warm_up.us
        self._asked: list[tuple[Aligned, Bools]] = []

    @abstractmethod
    def _answered(self, rows: Aligned, ready: Bools, answers: Floats) -> None:
        """Score one row of each of k assets from the answers float64[k, columns], NaN where there are none, and learn it."""

    @abstractmethod
    def _batches(self) -> list[pa.RecordBatch]:
        """SCORE and HEALTH of all rows that were `_answered` since the last call."""

    def _step(self, config: FileModelConfig, said: Described) -> Duration:
        """The step to which tags are aligned. Raises ConfigError where the file does not go with the one of the configuration."""
        del said
        return config.every

    def _missing_allowed(self) -> bool:
        return False

    def _enters(self, rows: Aligned) -> Bools:
        """Which rows go into the windows; may begin new lives."""
        return np.ones(len(rows.groups), dtype=bool)

    def _further(self) -> dict[str, npt.NDArray[np.generic]]:
        """Further arrays of the state, one line per asset."""
        return {}

    def _names(self, config: FileModelConfig, said: Described) -> list[str]:
        """The tag of each of the model's columns. Raises ConfigError."""
        where = f"{self._where}.inputs"
        columns = _list(said.metadata.get("genba.features", "[]"), f"{self._where}.file", self._file)
        if isinstance(config.inputs, Mapping):
            missing, strange = sorted(set(columns) - set(config.inputs)), sorted(set(config.inputs) - set(columns))
            if columns and (missing or strange):
                said_of = [f"it has no tag for {', '.join(missing)}"] if missing else []
                said_of += [f"{self._file} has no column {', '.join(strange)}"] if strange else []
                raise ConfigError(" and ".join(said_of), where=where, hint=f"the columns of the file are {', '.join(columns)}")
            names = [config.inputs[column] for column in columns or config.inputs]
        else:
            names = list(config.inputs) or columns
            if columns and len(columns) != len(names):
                raise ConfigError(
                    f"{len(names)} tags are named, and {self._file} has {len(columns)} columns", where=where,
                    hint=f"name the tags for {', '.join(columns)}, in this order",
                )  # fmt: skip
            places = zip((name.rpartition("/")[2] for name in names), columns, strict=False)
            if any(name != column and name in columns for name, column in places):
                raise ConfigError(
                    f"the tags are named in another order than the columns of {self._file}, which are {', '.join(columns)}", where=where,
                    hint="leave inputs: out, or write it as column: tag where a tag is another column than that of its name",
                )  # fmt: skip
        if not names:
            raise ConfigError(
                f"{self._file} does not say which tags it takes",
                where=where,
                hint="name them in the order of its columns: inputs: [a, b]",
            )
        if len(names) > MOST_INPUTS:
            raise ConfigError(f"{len(names)} inputs are too many", where=where, hint=f"at most {MOST_INPUTS} tags of an asset")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{twice[0]} is named twice", where=where, hint="a tag is one column")
        return names

    def _shape(self, config: FileModelConfig, said: Described, columns: int) -> tuple[str, int]:
        """The name of the graph's main input and the window. Raises ConfigError."""
        where = f"{self._where}.file"
        mains = [value for value in said.inputs if value.name not in (BASELINE, AGE)]
        listed = "; ".join(map(str, said.inputs)) or "none"
        wanted = f"export it with one input float[1, window, {columns}] or float[1, window × {columns}]"
        if len(mains) != 1:
            raise ConfigError(f"{self._file} takes {len(mains)} inputs ({listed}) and should take one", where=where, hint=wanted)
        main = mains[0]
        strange = [value for value in said.inputs if value.element not in _NUMBERS]
        if strange:
            raise ConfigError(f"{self._file} wants {strange[0]}, and the tags are float or double", where=where, hint=wanted)
        if len(main.shape) not in (2, 3):
            raise ConfigError(f"{self._file} wants {main}, which has {len(main.shape)} axes", where=where, hint=wanted)
        closed = [
            value
            for value in (*said.inputs, *said.outputs)
            if value.shape and isinstance(value.shape[0], int) and value.shape[0] != 1
        ]
        if closed:
            raise ConfigError(
                f"{self._file} wants {closed[0].shape[0]} rows at once ({closed[0]})", where=where,
                hint="export it with an open first axis, or one of 1",
            )  # fmt: skip
        self._flat = len(main.shape) == 2
        stated = said.metadata.get("genba.window", "")
        window = config.window or (int(stated) if stated.isdecimal() else None)
        if not self._flat and isinstance(main.shape[1], int):
            window = window or main.shape[1]
        window = window or 1
        if self._flat:
            fits = main.shape[1] in (window * columns,) or not isinstance(main.shape[1], int)
        else:
            fits = all(
                not isinstance(size, int) or size == given for size, given in zip(main.shape[1:], (window, columns), strict=True)
            )
        for value in said.inputs:
            if value.name in (BASELINE, AGE):
                width = columns if value.name == BASELINE else 1
                fits = fits and len(value.shape) == 2 and (not isinstance(value.shape[1], int) or value.shape[1] == width)
        if not fits or window > MOST_ROWS:
            raise ConfigError(
                f"{self._file} wants {listed}, and the configuration gives a window of {window} rows of {columns} tags", where=where,
                hint="name as many tags in inputs: and give the window: that the model was trained with",
            )  # fmt: skip
        if window * columns > MOST_NUMBERS:
            raise ConfigError(
                f"a window of {window} rows of {columns} tags holds {window * columns} numbers, and {MOST_NUMBERS} are the most",
                where=where, hint="make the window shorter, the step every: longer, or take fewer tags",
            )  # fmt: skip
        return main.name, window

    def _bound(self, names: Sequence[str], context: ModelContext) -> dict[str, list[Tag]]:
        """The tags of each asset that has all of them, in the order of `names`. Raises ConfigError where none has, or one is no number."""
        found: dict[str, dict[str, Tag]] = {}
        for tag in context.tags:
            for name in names:
                if name == tag.name or tag.path.endswith(f"/{name}") or tag.path == name:
                    found.setdefault(tag.asset, {}).setdefault(name, tag)
        bound = {asset: [tags[name] for name in names] for asset, tags in found.items() if len(tags) == len(names)}
        if context.tags and context.whole and not bound:
            nearest = max(found.items(), key=lambda one: len(one[1]), default=("no asset", {}))
            lacking = [name for name in names if name not in nearest[1]]
            raise ConfigError(
                f"no asset has all tags of the model: {nearest[0]} has no {', '.join(lacking)}" if found
                else f"none of the tags is called {' or '.join(names[:3])}{' or …' if len(names) > 3 else ''}",
                where=f"{self._where}.inputs", hint="inputs: names the tags of one asset in the order of the model's columns",
            )  # fmt: skip
        for tags in bound.values():
            named: dict[str, str] = {}  # path of the tag -> how it was named
            for name, tag in zip(names, tags, strict=True):
                if tag.value_type not in ("number", "integer"):
                    raise ConfigError(
                        f"{tag.path} is {tag.value_type}, and the model takes numbers", where=f"{self._where}.inputs",
                        hint="choose another tag, or narrow tags: down to assets where it is a number",
                    )  # fmt: skip
                if named.setdefault(tag.path, name) != name:
                    raise ConfigError(
                        f"{named[tag.path]} and {name} are the same tag, {tag.path}", where=f"{self._where}.inputs",
                        hint="a tag is one column; name it the same way everywhere",
                    )  # fmt: skip
        return bound

    def _chosen(self, output: str | None, said: Described) -> Value:
        """The output that is asked for, or else the only one that holds numbers. Raises ConfigError."""
        where = f"{self._where}.{'file' if output is None else 'output'}"
        listed = "; ".join(map(str, said.outputs)) or "none"
        if output is not None:
            found = [value for value in said.outputs if value.name == output]
            if not found:
                raise ConfigError(f"{self._file} has no output {output}", where=where, hint=f"its outputs are {listed}")
        else:
            found = [value for value in said.outputs if value.element in _NUMBERS]
        if len(found) != 1 or found[0].element not in _NUMBERS:
            raise ConfigError(
                f"{self._file} has {len(found)} outputs that are float or double ({listed})" if output is None
                else f"the output {found[0]} of {self._file} is neither float nor double", where=where,
                hint="name one: output: …; a classifier of scikit-learn is exported with zipmap off" if found
                else "export a classifier of scikit-learn with zipmap off",
            )  # fmt: skip
        return found[0]

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        return asked_here(self, readings)

    def ask(self, readings: Readings) -> Request | None:
        """See Infers."""
        inputs: dict[str, list[Singles]] = {name: [] for name in (self._main, *self._extras)}
        self._asked = []
        for rows in self._align.take(readings):
            enters = self._enters(rows)
            if not enters.all():
                kept = np.flatnonzero(enters)
                if not len(kept):
                    continue
                rows = Aligned(rows.groups[kept], rows.groups[kept], rows.value[:, kept], rows.time[kept], rows.seq[kept])
            at = rows.groups
            self._windows.push(at, rows.value[: self._inputs].T, rows.time)
            whole = self._windows.rows[at]
            waited = rows.time - self._windows.first[at]
            ready = (self._windows.age[at] >= self._min_rows) & (waited >= self._warm_up_us)
            if not self._missing_allowed():
                ready &= ~np.isnan(whole).any(axis=(1, 2))
            self._asked.append((rows, ready))
            if ready.any():
                inputs[self._main].append(whole[ready])
                if BASELINE in inputs:
                    inputs[BASELINE].append(self._windows.baseline(at[ready]))
                if AGE in inputs:
                    inputs[AGE].append(self._windows.age[at[ready], None].astype(np.float32))
        if not self._asked:
            return None
        made: dict[str, Numbers] = {}
        for name, parts in inputs.items():
            shape = (0, self.window, self._inputs) if name == self._main else (0, 1)
            array = np.concatenate(parts) if parts else np.zeros(shape, dtype=np.float32)
            made[name] = array.astype(self._element[name], copy=False)
        if self._flat:
            made[self._main] = made[self._main].reshape(len(made[self._main]), self.window * self._inputs)
        return Request(made, self._output)

    def hear(self, answers: Numbers | None) -> list[pa.RecordBatch]:
        """See Infers."""
        asked, self._asked = self._asked, []
        at = 0
        for rows, ready in asked:
            count = int(ready.sum())
            if answers is None or not count:
                self._answered(rows, np.zeros_like(ready), np.full((len(ready), 1), np.nan))
            else:
                found = np.full((len(ready), answers.shape[1]), np.nan)
                found[ready] = answers[at : at + count]
                self._answered(rows, ready, found)
            at += count
        with np.errstate(all="ignore"):
            return self._batches()

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        aligned = {f"aligned/{name}": array for name, array in self._align.arrays().items()}
        return pack(self.kind, self.version, self._parameters, {**aligned, **self._windows.arrays(), **self._further()})

    def restore(self, state: bytes) -> None:
        """See EdgeModel. An asset whose tags have changed starts anew; so do all under another file."""
        stored = unpack(state, self.kind, self.version, self._parameters)
        aligned = {name.removeprefix("aligned/"): array for name, array in stored.items() if name.startswith("aligned/")}
        mine = {**self._windows.arrays(), **self._further()}
        others = {name: array for name, array in stored.items() if not name.startswith("aligned/")}
        n = len(aligned.get("step", ()))
        if others.keys() != mine.keys() or any(others[name].shape != (n, *array.shape[1:]) for name, array in mine.items()):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        moved = self._align.restore(aligned)
        whole = [
            place
            for place, (new, old) in enumerate(zip(moved.group.tolist(), moved.from_group.tolist(), strict=True))
            if tuple(aligned["ids"][aligned["group"] == old].tolist()) == self._align.groups[new]
        ]
        into, out = moved.group[whole], moved.from_group[whole]
        for name, array in mine.items():
            array[into] = others[name].astype(array.dtype)[out]


def _list(text: str, where: str, file: str) -> list[str]:
    """A JSON list of texts out of a file's metadata. Raises ConfigError."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ConfigError(
            f"the metadata genba.features of {file} are no JSON list of names", where=where, hint="export the model again"
        )
    return found
