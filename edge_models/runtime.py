"""All models of a site over the stream of readings: what the gateway, a file job, the lake and Spark run alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.asset import matches_any
from schemas.errors import ConfigError, StateMismatch
from schemas.kinds import SCORE, kind_of, make_batch
from schemas.plugin import Plugin
from schemas.tags import Tag

from . import limits
from .alarms import AlarmLayer
from .base import EdgeModel, Marked, ModelConfig, ModelContext, SiteAlarms
from .gate import Gate, parse
from .inference import Executor, Infers, Numbers, OpenModel, Request, answer_here
from .limits import LimitsConfig
from .slots import NEVER, Bools, Index, Readings, TagColumns, TakesReadings, Times, decode
from .state import array_text, pack, text_array, unpack

_KIND: Final = "model_set"
_VERSION: Final = 1
_LIMITS: Final = "limits"
_SCRATCH_BYTES: Final = 30 << 20
_MODEL, _ALARM = SCORE.get_field_index("model"), SCORE.get_field_index("alarm")
_ALARMS: Final = "\0alarms"  # no model can be called that


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one update brought: SCORE, ALERT, HEALTH and EVENT batches, any of them none."""

    scores: list[pa.RecordBatch] = field(default_factory=list)
    alerts: list[pa.RecordBatch] = field(default_factory=list)
    health: list[pa.RecordBatch] = field(default_factory=list)
    events: list[pa.RecordBatch] = field(default_factory=list)


class Warmth:
    """Since when each tag of a model has given good readings. Nothing more is looked up once all are warm."""

    def __init__(self, tags: Sequence[Tag], warm_up_us: int) -> None:
        self._warm_up_us = warm_up_us
        self.first: Times = np.full(max((tag.id for tag in tags), default=-1) + 2, NEVER)  # by tag id
        self._ids = np.array([tag.id for tag in tags], dtype=np.intp)
        self._wave = np.zeros(len(self.first), dtype=bool)
        self._wave[[tag.id for tag in tags if tag.value_type == "samples"]] = True
        self._latest = NEVER  # of the times in `first`
        self._unseen = np.ones(len(self.first), dtype=bool)  # by tag id: no good reading yet
        self._settled = warm_up_us == 0 or not tags

    def see(self, readings: Readings) -> None:
        """Take note of first good readings."""
        if self._settled:
            return
        ids = np.minimum(readings.tag, len(self.first) - 1)
        new = self._unseen[ids]
        if new.any():
            usable = self._usable(readings, ids)
            rows = np.flatnonzero(new if usable is None else new & usable)[::-1]  # the earliest row is written last
            if len(rows):
                self.first[ids[rows]] = readings.time[rows]
                self.first[-1] = NEVER
                self.look_again()

    def _usable(self, readings: Readings, ids: Index) -> Bools | None:
        """As in `Readings`, and a waveform, which has no number, is usable too unless it is bad."""
        usable = readings.usable
        wave = self._wave[ids]
        if usable is None or not wave.any():
            return usable
        given: Bools = (
            wave & ~q.is_bad(readings.quality) & readings.batch.column("samples").is_valid().to_numpy(zero_copy_only=False)
        )
        if readings.active is not None:
            given &= readings.active
        given |= usable
        return given

    def cold(self, scores: pa.RecordBatch) -> Bools | None:
        """True for SCORE rows of tags that are not warm yet; None when there are none. Rows of assets are the model's own affair."""
        if self._settled or scores.column("tag").null_count:
            return None
        ids = np.minimum(scores.column("tag").to_numpy(), len(self.first) - 1)
        time = scores.column("time").view(pa.int64()).to_numpy()
        cold: Bools = self._unseen[ids]
        if int(time.min()) - self._latest >= self._warm_up_us:  # whoever was seen at all is warm
            self._settled = not self._unseen[self._ids].any()
        else:
            waited = time - self.first[ids]
            # Before its first good reading a tag has waited nonsense; a clock that was set back has waited less than nothing.
            cold |= (waited >= 0) & (waited < self._warm_up_us)
        return cold if cold.any() else None

    def look_again(self) -> None:
        """`first` has been written to."""
        self._unseen = self.first == NEVER
        self._latest = int(self.first.max())


class _Member:
    """One model with its gate and its warm-up."""

    def __init__(self, name: str, config: ModelConfig, model: EdgeModel, gate: Gate | None, tags: Sequence[Tag]) -> None:
        self.name, self.model, self.gate = name, model, gate
        self._take = model.take if isinstance(model, TakesReadings) else None
        self.infers = model if isinstance(model, Infers) else None
        self.kind, self.alarm = config.kind, config.alarm.name or name
        self.warmth = Warmth(tags, config.warm_up.us)
        self.ids = np.zeros(max((tag.id for tag in tags), default=-1) + 2, dtype=bool)
        self.ids[[tag.id for tag in tags]] = True
        self.assets = list(dict.fromkeys(tag.asset for tag in tags))
        number = {asset: at for at, asset in enumerate(self.assets)}
        self._asset = np.zeros(len(self.ids), dtype=np.intp)
        self._asset[[tag.id for tag in tags]] = [number[tag.asset] for tag in tags]

    def begin(self, readings: Readings | None, passed: dict[Gate, tuple[Readings, Bools | None]]) -> _Turn:
        """Gate and warm-up of one batch, and what is to be inferred for it. `passed`: what gates have let through of it already."""
        shut: Bools | None = None
        if readings is not None:
            if self.gate is not None:
                if self.gate not in passed:
                    passed[self.gate] = self.gate.pass_on(readings)
                readings, shut = passed[self.gate]
            self.warmth.see(readings)
        request = None if readings is None or self.infers is None else self.infers.ask(readings)
        return _Turn(self, readings, shut, request)

    def finish(self, turn: _Turn, batch: pa.RecordBatch, now: int, answers: Numbers | None) -> list[pa.RecordBatch]:
        """SCORE and HEALTH batches of the turn."""
        if self.infers is not None:
            return [] if turn.request is None else self.infers.hear(answers)
        if turn.readings is None:
            return self.model.update(batch, now)
        if self._take is not None:
            return self._take(turn.readings)
        return self.model.update(turn.readings.batch, now)

    def falls_idle(self, readings: Readings, shut: Bools) -> pa.RecordBatch:
        """SCORE rows without a score for the assets whose gate is shut at a row of theirs and was not at the one before.

        A model over several tags makes no row of an idle asset, but its alarms about the asset are to clear.
        """
        ids = np.minimum(readings.tag, len(self.ids) - 1)
        own = np.flatnonzero(self.ids[ids])
        asset, idle = self._asset[ids[own]], shut[own]
        order = np.argsort(asset, kind="stable")
        asset, idle = asset[order], idle[order]
        begins = idle & ~(np.r_[False, idle[:-1]] & np.r_[False, asset[1:] == asset[:-1]])
        by_row = np.argsort(own[order[begins]], kind="stable")
        rows, names = own[order[begins]][by_row], [self.assets[at] for at in asset[begins][by_row].tolist()]
        return make_batch("score", len(rows), time=readings.time[rows], seq=readings.seq[rows], asset=names, limit=1.0)


_Event = tuple[str, str, int | None, str | None, int]
"""What is the same event: source, name, tag, asset, and time in µs."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One batch on its way through one model. `shut` says which of its rows are gated (None: none)."""

    member: _Member
    readings: Readings | None
    shut: Bools | None
    request: Request | None


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch that all models have taken and that some want something inferred for."""

    batch: pa.RecordBatch
    now: int
    readings: Readings | None
    turns: list[_Turn]

    @property
    def requests(self) -> list[tuple[str, Executor, Request]]:
        """What is to be inferred: name of the model, its executor, and the rows."""
        return [
            (turn.member.name, turn.member.infers.executor, turn.request)
            for turn in self.turns
            if turn.member.infers is not None and turn.request is not None
        ]


class ModelSet:
    """Runs the models in the order of the configuration and the alarm layer behind them.

    Rows go through in `seq` order; whatever way they are cut into batches, scores and alerts are the same. `alarms` is the one
    alarm layer, also for the gateway's own troubles.
    """

    def __init__(
        self,
        members: Mapping[str, tuple[ModelConfig, EdgeModel, Gate | None, Sequence[Tag]]],
        tags: Sequence[Tag],
        site: SiteAlarms | None = None,
    ) -> None:
        """`members` by name: configuration, model, gate and the tags it watches. Tags need their ids. `site`: see AlarmLayer."""
        self.alarms = AlarmLayer(tags, site)
        self._members: list[_Member] = []
        self._columns = TagColumns()
        for name, (config, model, gate, watched) in members.items():
            self._members.append(_Member(name, config, model, gate, watched))
            self.alarms.add(name, config.alarm, model, limits=config.kind == _LIMITS)
        self._fresh: set[str] = {*members}
        self._told: set[_Event] = set()  # events of models that are durable and may be made once more
        # glibc hands the memory of each batch's arrays back to the system and faults it in again for the next one, which costs
        # as much as the arithmetic, until it has seen something larger than a batch come and go. This is never touched.
        np.empty(_SCRATCH_BYTES, dtype=np.uint8)

    @classmethod
    def build(
        cls,
        configs: Mapping[str, ModelConfig],
        tags: Sequence[Tag],
        plugin_of: Callable[[str], Plugin[Any, EdgeModel]],
        site: SiteAlarms | None = None,
        time_zone: str = "UTC",
        *,
        open_model: OpenModel | None = None,
        whole: bool = True,
    ) -> ModelSet:
        """The models of a configuration over resolved tags; limits are watched without an entry. `time_zone` is the plant's.

        An entry whose patterns match nothing watches nothing. `open_model` and `whole` are for the context of the models. Raises ConfigError
        where a condition cannot be followed or a model's file cannot be used.
        """
        members: dict[str, tuple[ModelConfig, EdgeModel, Gate | None, Sequence[Tag]]] = {}
        gates: dict[tuple[str, ...], Gate] = {}  # models with one condition on the same tags stand behind one gate
        for name, config in configs.items():
            where = f"models.{name}"
            found = watched(config, tags)
            gate = None
            if config.active_when is not None:
                try:
                    condition = parse(config.active_when)
                except ValueError as error:
                    raise ConfigError(str(error), where=f"{where}.active_when") from error
                key = (config.active_when, *(tag.path for tag in found))
                gate = gates.get(key) or Gate(condition, found, tags, where=f"{where}.active_when")
                gates[key] = gate
            context = ModelContext(name, found, time_zone, open_model, whole)
            members[name] = (config, plugin_of(config.kind).build(config, context), gate, found)
        limited = [tag for tag in tags if tag.limits is not None]
        if limited and not any(config.kind == _LIMITS for config in configs.values()):
            config = LimitsConfig(kind=_LIMITS)
            name = _LIMITS if _LIMITS not in members else f"{_LIMITS}-of-tags"
            members[name] = (config, limits.PLUGIN.build(config, ModelContext(name, limited)), None, limited)
        return cls(members, tags, site)

    @property
    def names(self) -> list[str]:
        """Names of the models in the order in which they run."""
        return [member.name for member in self._members]

    @property
    def executors(self) -> dict[str, Executor]:
        """What runs the files of those models that lie in one, by name of the model."""
        return {member.name: member.infers.executor for member in self._members if member.infers is not None}

    @property
    def versions(self) -> dict[str, str]:
        """Kind and version of each model's algorithm by name: `stuck 1`; of a file, what it is: `onnx 1, unsigned press.onnx, sha256:…`."""
        found = {member.name: f"{member.kind} {getattr(member.model, 'version', '')}".strip() for member in self._members}
        for member in self._members:
            if isinstance(member.model, Marked):
                found[member.name] += f", {member.model.mark}"
        return found

    def update(self, batch: pa.RecordBatch, now: int) -> Outputs:
        """TELEMETRY(n) with `seq` at `now` (µs) -> scores, alerts, health and events."""
        begun = self.begin(batch, now)
        return self.finish(begun, {name: answer_here(executor, request) for name, executor, request in begun.requests})

    def begin(self, batch: pa.RecordBatch, now: int) -> Begun:
        """The first half of `update`: whoever lets models compute elsewhere answers the requests and calls `finish`, before the
        next `begin`, `snapshot` or `restore`."""
        readings = decode(batch, self._columns) if batch.num_rows else None
        passed: dict[Gate, tuple[Readings, Bools | None]] = {}
        return Begun(batch, now, readings, [member.begin(readings, passed) for member in self._members])

    def finish(self, begun: Begun, answers: Mapping[str, Numbers | None]) -> Outputs:
        """The second half: the answers by name of the model; one that has none here scores null."""
        out = Outputs()
        readings = begun.readings
        for turn in begun.turns:
            member, shut = turn.member, turn.shut
            found = member.finish(turn, begun.batch, begun.now, answers.get(member.name))
            about: set[str] = set()
            idle = None
            if shut is not None and readings is not None:
                about = self.alarms.about_assets(member.name)
                if about or any(kind_of(one) == "score" and one.column("tag").null_count for one in found):
                    idle = member.falls_idle(readings, shut)
            told: set[str] = set()
            for one in found:
                if kind_of(one) == "score":
                    told.add(self._score(member, one, readings, shut, idle, out))
                elif kind_of(one) == "event":
                    out.events.extend(self._untold(one))
                else:
                    out.health.append(one)
            if idle is not None:
                for alarm in about - told:
                    self.alarms.feed(member.name, alarm, idle, inactive=np.ones(idle.num_rows, dtype=bool))
        alerts = self.alarms.settle(readings, begun.now)
        if alerts is not None:
            out.alerts.append(alerts)
        return out

    def _untold(self, events: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Those that were not durable already before a restart."""
        if self._told:
            known = np.array([key in self._told for key in _event_keys(events)])
            self._told.difference_update(_event_keys(events))
            events = events.filter(pa.array(~known))
        return [events] if events.num_rows else []

    def tick(self, now: int) -> Outputs:
        """Time passes and nothing comes: missing readings are noticed, shelves end."""
        return self.update(_EMPTY, now)

    def _score(
        self,
        member: _Member,
        scores: pa.RecordBatch,
        readings: Readings | None,
        shut: Bools | None,
        idle: pa.RecordBatch | None,
        out: Outputs,
    ) -> str:
        """Take the scores of one alarm; returns its name."""
        if scores.num_rows == 0:
            return ""
        scores, alarm = _named(scores, member)
        inactive: Bools | None = None
        if shut is not None and readings is not None:
            # A score names the row it was made from. In a lake there are holes where rows went elsewhere.
            seq = scores.column("seq").to_numpy()
            if len(seq) == len(shut) and (seq == readings.seq).all():
                inactive = shut
            else:
                row = np.searchsorted(readings.seq, seq)
                inside = (row < len(shut)) & (readings.seq[np.minimum(row, len(shut) - 1)] == seq)
                inactive = np.zeros(len(row), dtype=bool)
                inactive[inside] = shut[row[inside]]
        cold = member.warmth.cold(scores)
        blank = cold if inactive is None else inactive if cold is None else cold | inactive
        if blank is not None:
            at = scores.schema.get_field_index("score")
            score = scores.column(at).to_numpy(zero_copy_only=False)
            if not np.isnan(score[blank]).all():
                scores = scores.set_column(
                    at, scores.schema.field(at), pa.array(np.where(blank, np.nan, score), from_pandas=True)
                )
        out.scores.append(scores)
        if idle is not None and idle.num_rows and scores.column("tag").null_count:
            order = np.argsort(np.r_[scores.column("seq").to_numpy(), idle.column("seq").to_numpy()], kind="stable")
            here = np.zeros(scores.num_rows, dtype=bool) if inactive is None else inactive
            inactive = np.r_[here, np.ones(idle.num_rows, dtype=bool)][order]
            scores = pa.Table.from_batches([scores, idle]).combine_chunks().to_batches()[0].take(pa.array(order))
        self.alarms.feed(member.name, alarm, scores, inactive=inactive)
        return alarm

    def snapshot(self) -> bytes:
        """The state of all models, gates, warm-ups and alarms."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for member in self._members:
            arrays[f"model/{member.name}"] = np.frombuffer(member.model.snapshot(), dtype=np.uint8)
            arrays[f"first/{member.name}"] = member.warmth.first
            if member.gate is not None:
                arrays[f"gate/{member.name}"] = member.gate.truth
                arrays[f"when/{member.name}"] = text_array(member.gate.signature)
        arrays[_ALARMS] = np.frombuffer(self.alarms.snapshot(), dtype=np.uint8)
        return pack(_KIND, _VERSION, "", arrays)

    def restore(self, state: bytes) -> dict[str, str]:
        """Take over a state. Returns which members start fresh and why, by name; a damaged state makes all of them.

        A model that the state does not know starts fresh without being named.
        """
        try:
            arrays = unpack(state, _KIND, _VERSION, "")
        except StateMismatch as error:
            return {member.name: str(error) for member in self._members}
        fresh: dict[str, str] = {}
        for member in self._members:
            stored = arrays.get(f"model/{member.name}")
            if stored is None:
                continue
            try:
                member.model.restore(stored.tobytes())
            except StateMismatch as error:
                fresh[member.name] = str(error)
                continue
            self._fresh.discard(member.name)
            first = arrays.get(f"first/{member.name}")
            if first is not None:
                n = min(len(first), len(member.warmth.first)) - 1
                member.warmth.first[:n] = first[:n].astype(np.int64)
                member.warmth.look_again()
            truth, when = arrays.get(f"gate/{member.name}"), arrays.get(f"when/{member.name}")
            if member.gate is not None and truth is not None and when is not None and array_text(when) == member.gate.signature:
                member.gate.restore(truth)
        try:
            self.alarms.restore(arrays[_ALARMS].tobytes() if _ALARMS in arrays else b"")
        except StateMismatch as error:
            fresh["alarms"] = str(error)
        return fresh

    def replay_alerts(
        self, alerts: Iterable[pa.RecordBatch], *, events: Iterable[pa.RecordBatch] = (), now: int = 0
    ) -> pa.RecordBatch | None:
        """Durable ALERT and EVENT rows, oldest first, after `restore` (or without it): nothing of them is told twice.

        Returns what is still to be told at `now` (µs): ALERT or None.
        """
        events = list(events)
        names = {*self.names} - self._fresh  # the others have lost their state: what they will say is of rows to come
        self._told = {key for batch in events for key in _event_keys(batch) if key[0] in names}
        return self.alarms.replay(alerts, fresh=self._fresh, events=events, now=now)

    def remember(self, batch: pa.RecordBatch) -> None:
        """TELEMETRY with `seq` that was scored before a restart, oldest first: the context of the alarms to come."""
        if batch.num_rows:
            self.alarms.remember(decode(batch))


def _event_keys(events: pa.RecordBatch) -> list[_Event]:
    source, name, tag, asset = (events.column(column).to_pylist() for column in ("source", "event", "tag", "asset"))
    return list(zip(source, name, tag, asset, events.column("time").view(pa.int64()).to_pylist(), strict=True))


def watched(config: ModelConfig, tags: Sequence[Tag]) -> list[Tag]:
    """The tags that an entry below `models:` is about: those that its patterns match; all tags for `limits` without patterns."""
    if config.kind == _LIMITS and not config.tags:
        return list(tags)
    return [tag for tag in tags if matches_any(tag.path, config.tags)]


def _named(scores: pa.RecordBatch, member: _Member) -> tuple[pa.RecordBatch, str]:
    """Model and alarm filled in where the model leaves them open. A batch is about one alarm."""
    for at, text in ((_MODEL, member.name), (_ALARM, member.alarm)):
        column = scores.column(at)
        if column.null_count:
            scores = scores.set_column(at, SCORE.field(at), column.fill_null(text))
    return scores, str(scores.column(_ALARM)[0].as_py())


def _empty() -> pa.RecordBatch:
    from schemas.kinds import make_batch, with_seq

    return with_seq(make_batch("telemetry", 0), 0)


_EMPTY: Final = _empty()
