"""`onnx`: any scoring model that a plant has trained, from a file: its window, its inputs, its output as a score."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from schemas.errors import ConfigError
from schemas.plugin import Plugin
from schemas.values import Duration

from .aligned import Aligned
from .base import EdgeModel, ModelContext
from .calibration import Calibration
from .file_model import FileModel, FileModelConfig
from .slots import NEVER, Bools, Floats, Times

_LIMIT: Final = {"direct": 0.5, "calibrated": 0.999999}
_ROUNDING: Final = 1e-3  # a probability may be that far outside of 0..1


class OnnxConfig(FileModelConfig):
    """Runs an ONNX file of your own on the tags of an asset. Nobody has signed it: for trials, and marked so wherever it is shown."""

    max_gap: Duration = Field(
        Duration("1m"), description="A longer time without a row empties the window, so that it never spans a pause; 0 is never."
    )
    output: str | None = Field(None, description="Name of the graph's output; by default the only one that holds numbers.")
    column: int = Field(-1, description="Which number of the output; by default the last one, a classifier's worse class.")
    score: Literal["direct", "calibrated"] = Field(
        "direct",
        description="`direct`: the output is the score, 0 to 1, 1 is worst. `calibrated`: it is any number, and how unusual it is among its past is the score.",
    )
    worse: Literal["high", "low", "both"] = Field("high", description="Which side of a calibrated output is unusual.")
    limit: float | None = Field(
        None, gt=0, lt=1, description="A score at or above it is abnormal; by default 0.5 if `direct`, 0.999999 if `calibrated`."
    )
    memory: int = Field(
        20_000, ge=100, description="Rows over which a calibrated output's level and tail are learnt.", examples=[20_000]
    )
    missing: Literal["wait", "nan"] = Field(
        "wait", description="`wait`: no score while a value of the window is missing. `nan`: the model takes NaN for it."
    )


class Onnx(FileModel):
    """One score per row of an asset from a graph that somebody else has made.

    READING(n) -> SCORE rows of assets, one for each row of the aligned tags; `value` is the number that the graph gave. The score is null until
    `min_rows` rows and the `warm_up`, while a value is missing, where the graph has no answer or answers what is no number, and where a
    `direct` answer is outside of 0..1. 59 bytes per tag at a window of one row where an asset has eight; 4 for each further row.
    """

    kind: ClassVar[str] = "onnx"
    version: ClassVar[int] = 1
    learnt_with: ClassVar[tuple[str, ...]] = ("every", "inputs", "output", "column", "score", "worse", "memory")

    def __init__(self, config: OnnxConfig, context: ModelContext) -> None:
        limit = config.limit if config.limit is not None else _LIMIT[config.score]
        super().__init__(config, context, limit=limit)
        said = self.executor.described
        output = self._chosen(config.output, said)
        self._output, self._column = output.name, config.column
        width = output.shape[1] if len(output.shape) > 1 else 1
        if len(output.shape) > 2 or (isinstance(width, int) and not -width <= config.column < width):
            raise ConfigError(
                f"the output {output} of {config.file} has no column {config.column}", where=f"models.{context.name}.column",
                hint="one row of the output is one number, or a list of which column: picks one",
            )  # fmt: skip
        self.mark = f"unsigned {config.file}, sha256:{said.digest[:12]}"
        self._allowed, self._max_gap_us = config.missing == "nan", config.max_gap.us
        self._calibration = (
            Calibration(len(self._assets_named), memory=config.memory, side=config.worse, limit=limit)
            if config.score == "calibrated"
            else None
        )
        self._found: list[tuple[Aligned, Floats, Floats]] = []

    def _missing_allowed(self) -> bool:
        return self._allowed

    def _enters(self, rows: Aligned) -> Bools:
        at = rows.groups
        last: Times = self._windows.last[at]
        if self._max_gap_us:
            gone = at[(last != NEVER) & (rows.time - last > self._max_gap_us)]
            if len(gone):
                self._windows.begin(gone)
        return super()._enters(rows)

    def _answered(self, rows: Aligned, ready: Bools, answers: Floats) -> None:
        value = (
            answers[:, self._column] if -answers.shape[1] <= self._column < answers.shape[1] else np.full(len(answers), np.nan)
        )
        value = np.where(np.isfinite(value), value, np.nan)
        with np.errstate(all="ignore"):
            if self._calibration is not None:
                score = self._calibration.score(rows.groups, value, ready)
            else:
                inside = (value >= -_ROUNDING) & (value <= 1.0 + _ROUNDING)
                score = np.where(inside, np.clip(value, 0.0, 1.0), np.nan)
        self._found.append((rows, value, score))

    def _batches(self) -> list[pa.RecordBatch]:
        found, self._found = self._found, []
        groups = np.concatenate([rows.groups for rows, _, _ in found])
        seq, time = np.concatenate([rows.seq for rows, _, _ in found]), np.concatenate([rows.time for rows, _, _ in found])
        value, score = np.concatenate([one for _, one, _ in found]), np.concatenate([one for _, _, one in found])
        order = np.argsort(seq, kind="stable")
        return [
            self._rows.of_assets(
                time[order], seq[order], self._assets.take(pa.array(groups[order])), score[order], {}, value=value[order]
            )
        ]

    def _further(self) -> dict[str, npt.NDArray[np.generic]]:
        return self._calibration.arrays() if self._calibration is not None else {}


PLUGIN: Plugin[OnnxConfig, EdgeModel] = Plugin(OnnxConfig, Onnx)
