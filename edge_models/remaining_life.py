"""`remaining_life`: how long will this machine last, by what became of others of its kind, and how sure is that?"""

from __future__ import annotations

from math import floor
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from schemas.errors import ConfigError
from schemas.kinds import make_batch
from schemas.plugin import Plugin
from schemas.values import Duration

from .aligned import Aligned
from .base import EdgeModel, ModelContext, ScoreRow, longer_than_nothing
from .conformal import Conformal
from .file_model import FileModel, FileModelConfig
from .onnx_file import Described
from .sentences import number
from .slots import Bools, Floats, Times

_KIND: Final = "remaining_life"
CYCLE: Final = "cycle"
"""The step of a file whose rows are cycles; otherwise it is a duration."""
_LASTS: Final = 3  # rows that a counter has fallen before that is a new life and no glitch


class RemainingLifeConfig(FileModelConfig):
    """Remaining useful life from a model trained on machines of the same kind that have failed, with an interval. For a file of the recipe `edge_models.train.remaining_life`."""

    cycle: str | None = Field(
        None,
        description="Tag that counts the asset's cycles (or hours of operation): a row whenever it rises, a new life when it has fallen for three steps. Required for a file that was trained by cycles; otherwise a row is a step of `every`, which such a file says itself.",
        examples=["cycles"],
    )
    within: float = Field(
        20.0, gt=0, description="Raise an alarm when the life ends within so many of the file's units (cycles, hours)."
    )
    limit: float = Field(0.9, gt=0.5, lt=1, description="A score at or above it is abnormal.")
    confidence: float = Field(0.9, ge=0.5, le=0.95, description="Share of the intervals that hold the truth.")


class RemainingLife(FileModel):
    """HEALTH `remaining_useful_life` for each row of an asset, with a conformal interval, and a score.

    READING(n) -> SCORE and HEALTH rows of assets. The interval comes from how far the model was off on lives that it was not trained on, for
    predictions of that size (`Conformal`, in the file); an upper bound at the file's cap is null, for longer lives are not told apart. The score is the
    probability, by the same errors, that the life ends `within`. 62 bytes per tag at a window of one row where an asset has eight; 4 for each
    further row.
    """

    kind: ClassVar[str] = _KIND
    version: ClassVar[int] = 2
    learnt_with: ClassVar[tuple[str, ...]] = ("every", "inputs", "cycle")

    def __init__(self, config: RemainingLifeConfig, context: ModelContext) -> None:
        super().__init__(config, context, limit=config.limit, further=() if config.cycle is None else (config.cycle,))
        said, where = self.executor.described, f"models.{context.name}.file"
        self._output = self._chosen(None, said).name
        try:
            self._conformal = Conformal.of(said.metadata["genba.conformal"])
            self._cap = float(said.metadata["genba.cap"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{config.file} does not say how far its predictions are off", where=where,
                hint="make it with the recipe edge_models.train.remaining_life, or use the kind onnx",
            ) from error  # fmt: skip
        self._unit = said.metadata.get("genba.unit", "cycles")
        self.mark = f"unsigned {config.file}, sha256:{said.digest[:12]}"
        self._name, self._within, self._confidence = context.name, config.within, config.confidence
        self._counter = None if config.cycle is None else self._line[config.cycle]
        self._cycle: Floats = np.full(len(self._assets_named), np.nan)
        self._earlier: Floats = self._cycle.copy()  # what it was before it rose
        self._fallen: npt.NDArray[np.uint8] = np.zeros(len(self._assets_named), dtype=np.uint8)
        self._found: list[tuple[Aligned, Floats]] = []

    def asset_problem(self, asset: str, row: ScoreRow) -> str:
        """See ExplainsAssets."""
        most = f"to {number(round(row.high, 1))}" if row.high == row.high else "or more"
        return (
            f"{asset} has about {number(round(row.value, 1))} {self._unit} left ({number(round(row.low, 1))} {most}), "
            f"and fails within {number(self._within)} with {floor(100 * row.score)} % certainty by what became of others"
        )

    def _enters(self, rows: Aligned) -> Bools:
        if self._counter is None:
            return super()._enters(rows)
        at, count = rows.groups, rows.value[self._counter]
        before, known = self._cycle[at], ~np.isnan(count)
        back = (count < before) & (count >= self._earlier[at])  # the rise before it was a glitch
        fallen = np.where((count < before) & ~back, self._fallen[at] + 1, np.where(known, 0, self._fallen[at]))
        anew = fallen >= _LASTS
        if anew.any():
            self._windows.begin(at[anew])
        enters: Bools = known & (np.isnan(before) | (count > before) | anew | (back & (count > self._earlier[at])))
        self._earlier[at] = np.where(anew, np.nan, np.where(count > before, before, self._earlier[at]))
        self._cycle[at] = np.where(enters | back, count, before)
        self._fallen[at] = np.where(anew, 0, fallen)
        return enters

    def _step(self, config: FileModelConfig, said: Described) -> Duration:
        step, where = said.metadata.get("genba.step", ""), self._where
        if not step or (isinstance(config, RemainingLifeConfig) and config.cycle is not None):
            return config.every
        if step == CYCLE:
            raise ConfigError(
                f"{config.file} was trained by cycles, and no tag says when one begins", where=f"{where}.cycle",
                hint="name the tag that counts them: cycle: …",
            )  # fmt: skip
        try:
            every = longer_than_nothing(Duration(step))
        except ValueError as error:
            raise ConfigError(
                f"the metadata genba.step of {config.file} are no time", where=f"{where}.file", hint="make the file again with the recipe"
            ) from error  # fmt: skip
        if "every" in config.model_fields_set and config.every != every:
            raise ConfigError(
                f"{config.file} was trained on rows {every} apart, and every: is {config.every}", where=f"{where}.every",
                hint="leave every: out",
            )  # fmt: skip
        return every

    def _answered(self, rows: Aligned, ready: Bools, answers: Floats) -> None:
        value = answers[:, -1]
        self._found.append((rows, np.where(np.isfinite(value) & ready, np.clip(value, 0.0, self._cap), np.nan)))

    def _batches(self) -> list[pa.RecordBatch]:
        found, self._found = self._found, []
        seq, time = np.concatenate([rows.seq for rows, _ in found]), np.concatenate([rows.time for rows, _ in found])
        order = np.argsort(seq, kind="stable")
        seq, time = seq[order], time[order]
        value = np.concatenate([one for _, one in found])[order]
        asset = self._assets.take(pa.array(np.concatenate([rows.groups for rows, _ in found])[order]))
        low, high, score = (np.full(len(value), np.nan) for _ in range(3))
        known = np.flatnonzero(~np.isnan(value))
        if len(known):
            low[known], high[known] = self._conformal.interval(value[known], self._confidence, self._cap)
            score[known] = self._conformal.share_within(value[known], self._within, self._cap)
            high[high >= self._cap] = np.nan
        batches = [self._rows.of_assets(time, seq, asset, score, {}, value=value, low=low, high=high)]
        if len(known):
            batches.append(
                self._health(time[known], seq[known], asset.take(pa.array(known)), value[known], low[known], high[known])
            )
        return batches

    def _health(self, time: Times, seq: Times, asset: pa.Array, value: Floats, low: Floats, high: Floats) -> pa.RecordBatch:
        return make_batch(
            "health", len(value), time=time, seq=seq, asset=asset, model=self._name, measure="remaining_useful_life", value=value,
            low=low, high=pa.array(high, from_pandas=True), unit=self._unit,
        )  # fmt: skip

    def _further(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"cycle": self._cycle, "earlier": self._earlier, "fallen": self._fallen}


PLUGIN: Plugin[RemainingLifeConfig, EdgeModel] = Plugin(RemainingLifeConfig, RemainingLife)
