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

from .aligned import Aligned
from .base import EdgeModel, ModelContext, ScoreRow
from .conformal import Conformal
from .file_model import FileModel, FileModelConfig
from .sentences import number
from .slots import Bools, Floats, Index, Times

_KIND: Final = "remaining_life"


class RemainingLifeConfig(FileModelConfig):
    """Remaining useful life from a model trained on machines of the same kind that have failed, with an interval. For a file of the recipe `edge_models.train.remaining_life`."""

    cycle: str | None = Field(
        None,
        description="Tag that counts the asset's cycles: a row whenever it changes, a new life when it falls. By default a row is a step of `every`.",
        examples=["cycles"],
    )
    within: float = Field(
        20.0, gt=0, description="Raise an alarm when the life ends within so many of the file's units (cycles, hours)."
    )
    limit: float = Field(0.9, gt=0.5, lt=1, description="A score at or above it is abnormal.")
    confidence: float = Field(0.9, ge=0.5, le=0.95, description="Share of the intervals that hold the truth.")


class RemainingLife(FileModel):
    """HEALTH `remaining_useful_life` for each row of an asset, with a conformal interval, and a score.

    READING(n) -> SCORE and HEALTH rows of assets. The interval comes from how far the model was off on lives that it was not trained on, by what
    it predicted (`Conformal`, in the file); an upper bound at the file's cap is null, for a longer life is not told from it. The score is the
    probability, by the same errors, that the life ends `within`. 60 bytes per tag at a window of one row where an asset has eight; 4 for each
    further row.
    """

    kind: ClassVar[str] = _KIND
    version: ClassVar[int] = 1
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
        self._counted = config.cycle is not None
        self._cycle: Floats = np.full(len(self._assets_named), np.nan)
        self._found: list[tuple[Aligned, Floats]] = []

    def asset_problem(self, asset: str, row: ScoreRow) -> str:
        """See ExplainsAssets."""
        most = f"to {number(round(row.high, 1))}" if row.high == row.high else "or more"
        return (
            f"{asset} has about {number(round(row.value, 1))} {self._unit} left ({number(round(row.low, 1))} {most}), "
            f"and fails within {number(self._within)} with {floor(100 * row.score)} % certainty by what became of others"
        )

    def _enters(self, rows: Aligned) -> Bools:
        if not self._counted:
            return super()._enters(rows)
        at, count = rows.groups, rows.value[self._inputs]
        before = self._cycle[at]
        fallen: Index = at[count < before]
        if len(fallen):
            self._windows.begin(fallen)
        enters: Bools = ~np.isnan(count) & (count != before)
        self._cycle[at] = np.where(np.isnan(count), before, count)
        return enters

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
        return {"cycle": self._cycle}


PLUGIN: Plugin[RemainingLifeConfig, EdgeModel] = Plugin(RemainingLifeConfig, RemainingLife)
