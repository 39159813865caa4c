"""`ensemble`: several models watch a tag, one score and one alarm come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, ValidationError, model_validator

from schemas.errors import StateMismatch
from schemas.kinds import SCORE
from schemas.plugin import Plugin
from schemas.tags import Tag
from schemas.values import Duration

from . import drift, envelope, forecast_residual, novelty, shape
from .base import EdgeModel, ModelConfig, ModelContext, Scope, ScoreRow
from .per_tag import PerTagModel
from .sentences import interval, quantity
from .slots import Floats, Readings, Slots, decode
from .state import pack, unpack
from .tail import STATE, TAIL, learn_tail, tail_score

_PLUGINS: Final[Mapping[str, Plugin[Any, EdgeModel]]] = MappingProxyType(
    {
        "forecast_residual": forecast_residual.PLUGIN,
        "drift": drift.PLUGIN,
        "envelope": envelope.PLUGIN,
        "novelty": novelty.PLUGIN,
        "shape": shape.PLUGIN,
    }
)  # those that give one row a reading
_DEFAULT: Final = ("forecast_residual", "drift", "envelope")
_LEAST: Final = 1e-16  # a probability that no score tells from 0
_SHARE: Final = 0.01  # of normal readings have a combined probability below it: there the tail is learnt
_START: Final = -float(np.log(_SHARE))
_EXCESS: Final = 1.0  # mean of −ln p beyond `_START`, where the members are calibrated and what they say is exact
_SCORE, _LIMIT, _BECAUSE = (SCORE.get_field_index(name) for name in ("score", "limit", "contributions"))


class EnsembleConfig(ModelConfig):
    """Combines several models over the same tags into one calibrated score: one alarm instead of one from each."""

    warm_up: Duration = Field(Duration("1h"), description="Time from the first good reading of a tag until it may raise alarms.")
    members: Mapping[str, Mapping[str, object]] = Field(
        {},
        description="The models that are combined, each with its own parameters: `{forecast_residual: {}, drift: {threshold: 20}}`. "
        "There are forecast_residual, drift, envelope, novelty and shape; by default the first three.",
    )
    limit: float = Field(
        0.999999,
        gt=0.99,
        lt=1,
        description="A score at or above it is abnormal: 1 − probability that a normal reading looks like this to all members.",
    )
    min_samples: int = Field(30, ge=1, description="Readings with a score of some member before the first score of the ensemble.")

    @model_validator(mode="after")
    def _members(self) -> Self:
        for kind in self.members:
            self.member(kind)
        return self

    @property
    def kinds(self) -> Sequence[str]:
        """The members in order."""
        return tuple(self.members) or _DEFAULT

    def member(self, kind: str) -> ModelConfig:
        """The configuration of one member; tags, warm-up and alarm are the ensemble's. Raises ValueError naming what is wrong."""
        plugin = _PLUGINS.get(kind)
        if plugin is None:
            raise ValueError(f"{kind!r} cannot be a member; there are {', '.join(_PLUGINS)}")
        own = self.members.get(kind, {})
        shared = {"kind", "tags", "active_when", "warm_up", "alarm"} & own.keys()
        if shared:
            raise ValueError(f"{kind}: `{min(shared)}` stands at the ensemble and holds for all members")
        try:
            made: ModelConfig = plugin.config.model_validate({"kind": kind, **own})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = ", ".join(sorted(plugin.config.model_fields.keys() - ModelConfig.model_fields.keys()))
            raise ValueError(f"{kind}.{name}: {first['msg']}; it has {known}") from error
        return made.model_copy(update={"warm_up": self.warm_up, "alarm": self.alarm})


class Ensemble:
    """The harmonic mean of the members' tail probabilities, and its own tail.

    The harmonic mean p̄ = m / Σ 1/pᵢ of m probabilities holds however they hang together (Wilson 2019): m members that see the same
    fault with p count as p, one of m that sees it alone as m p. Members without a score do not count. Where the members are not as
    right as they claim, −ln p̄ beyond p̄ = 0.01 is longer than its due mean of 1; that mean is learnt per tag from the peak of each
    excursion that came back, never below 1, and stretches the tail. 40 bytes of state per tag besides the members': 316 bytes
    with the three default ones.
    """

    kind: ClassVar[str] = "ensemble"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "tag"

    def __init__(self, config: EnsembleConfig, context: ModelContext) -> None:
        self._config, self._context = config, context
        self._kinds = config.kinds
        self._members: list[PerTagModel] = []
        for kind in self._kinds:
            member = _PLUGINS[kind].build(config.member(kind), context)
            assert isinstance(member, PerTagModel)
            self._members.append(member)
        self.slots = Slots([tag.id for tag in context.tags])
        n = len(self.slots)
        self.state: dict[str, Floats] = {name: np.full(n, value) for name, value in {**STATE, "excess": _EXCESS}.items()}
        self.count = np.zeros(n)
        self._limit, self._min_samples = config.limit, config.min_samples
        self._parameters = json.dumps(self._kinds)

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        del now  # time runs by the rows
        return self.take(decode(batch)) if batch.num_rows else []

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        found = [rows[0] for member in self._members if (rows := member.take(readings))]
        if not found:
            return []
        scores = np.stack([rows.column("score").to_numpy(zero_copy_only=False) for rows in found])
        likely = 1.0 / np.maximum(1.0 - scores, _LEAST)
        given = ~np.isnan(likely)
        likely[~given] = 0.0
        total = likely[0].copy()
        for one in likely[1:]:
            total += one
        with np.errstate(all="ignore"):
            evidence = np.log(total / given.sum(axis=0))  # −ln of the harmonic mean; no member has spoken: NaN
        score = self._tail(readings, np.where(given.any(axis=0), evidence, np.nan))
        because: list[str | None] = [None] * len(score)
        abnormal = np.flatnonzero(score >= self._limit)
        if len(abnormal):
            shares = likely[:, abnormal] / total[abnormal]
            for row, of in zip(abnormal.tolist(), shares.T.tolist(), strict=True):
                because[row] = json.dumps({kind: round(share, 3) for kind, share in zip(self._kinds, of, strict=True)})
        made = found[0].set_column(_SCORE, SCORE.field(_SCORE), pa.array(score, from_pandas=True))
        made = made.set_column(_LIMIT, SCORE.field(_LIMIT), pa.array(np.full(len(score), self._limit)))
        return [made.set_column(_BECAUSE, SCORE.field(_BECAUSE), pa.array(because, pa.string()))]

    def _tail(self, readings: Readings, evidence: Floats) -> Floats:
        """The evidence of each reading as a score, by the tail of its tag; then the tail is learnt. NaN stays."""
        score = np.full(len(evidence), np.nan)
        plan = self.slots.plan(readings.tag)
        place = np.arange(len(evidence))
        for part in plan.rounds:
            out = place[part.out]
            out, slots = out[~np.isnan(evidence[out])], part.slots[~np.isnan(evidence[out])]
            mine = evidence[out]
            s = {name: array[slots] for name, array in self.state.items()}
            statistic = TAIL + mine - _START
            beyond = statistic > TAIL
            count = self.count[slots] + 1.0
            found = np.where(beyond, tail_score(statistic, s["excess"], _SHARE), 1.0 - np.exp(-np.maximum(mine, 0.0)))
            learn_tail(s, statistic, beyond)
            np.maximum(s["excess"], _EXCESS, out=s["excess"])
            for name, array in s.items():
                self.state[name][slots] = array
            self.count[slots] = count
            score[out] = np.where(count >= self._min_samples, found, np.nan)
        return score

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        shares: dict[str, float] = json.loads(row.contributions or "{}")
        most = [kind for kind, share in sorted(shares.items(), key=lambda one: -one[1]) if share >= 0.2]
        said = f"{tag.display} is unusual: {quantity(row.value, tag)}, normally {interval(row.low, row.high, tag)}"
        return f"{said}, by {' and '.join(most)}" if most else said

    def _arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        return {"count": self.count, **self.state}

    def snapshot(self) -> bytes:
        """See EdgeModel."""
        members = {
            f"member/{kind}": np.frombuffer(member.snapshot(), dtype=np.uint8)
            for kind, member in zip(self._kinds, self._members, strict=True)
        }
        return pack(self.kind, self.version, self._parameters, {"ids": self.slots.ids, **self._arrays(), **members})

    def restore(self, state: bytes) -> None:
        """See EdgeModel. When a member cannot take its part nothing is taken over."""
        stored = unpack(state, self.kind, self.version, self._parameters)
        new = Ensemble(self._config, self._context)
        mine = new._arrays()
        names = {"ids", *mine, *(f"member/{kind}" for kind in self._kinds)}
        if stored.keys() != names or any(stored[name].shape != stored["ids"].shape for name in mine):
            raise StateMismatch("the stored state holds other arrays than this version writes")
        for kind, member in zip(self._kinds, new._members, strict=True):
            member.restore(stored[f"member/{kind}"].tobytes())
        slots = new.slots.of(np.clip(stored["ids"].astype(np.int64), -1, 2**31 - 1).astype(np.int32))
        known = slots >= 0
        for name, array in mine.items():
            array[slots[known]] = stored[name][known]
        self._members, self.state, self.count = new._members, new.state, new.count


PLUGIN: Plugin[EnsembleConfig, EdgeModel] = Plugin(EnsembleConfig, Ensemble)
