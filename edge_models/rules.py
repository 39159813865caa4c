"""`rules`: what the plant knows already, written down: thresholds, rates of change, silence, dead heartbeats, conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from schemas.errors import StateMismatch
from schemas.plugin import Plugin
from schemas.tags import Severity, Tag
from schemas.values import Duration, Strict

from .base import EdgeModel, ModelConfig, ModelContext, Scope, ScoreRow
from .gate import parse
from .rule_clock import Moments, Part
from .rule_state import Found, RuleState, Seen
from .scores import ScoreRows
from .sentences import quantity, span
from .slots import Index, Readings, Slots, decode
from .state import array_text, pack, text_array, unpack

_LIMIT: Final = 0.5


class Rule(Strict):
    """One rule: what is wrong with `tag`, or `when` alone. It holds for each asset that has the tags that it names."""

    tag: str | None = Field(
        None,
        description="Name of the tag within its asset, or a pattern for several: `zone*_temp`. Without it `when` says it all.",
    )
    above: float | None = Field(None, description="Abnormal above this value.", examples=[85])
    below: float | None = Field(None, description="Abnormal below this value.")
    hysteresis: float = Field(0.0, ge=0, description="How far the value must come back before it is normal again.")
    rate_above: float | None = Field(None, description="Abnormal when it rises by more than this per second.", examples=[0.5])
    rate_below: float | None = Field(
        None, description="Abnormal when it changes by less than this per second: -0.5 is a fast fall."
    )
    over: Duration = Field(Duration("0s"), description="Time over which a rate is taken; 0s is from one reading to the next.")
    timeout: Duration | None = Field(None, description="Abnormal when there is no good reading for so long.", examples=["30s"])
    heartbeat: Duration | None = Field(None, description="Abnormal when the value does not change for so long.", examples=["10s"])
    when: str | None = Field(
        None, description="Condition on tags of the same asset that must hold too.", examples=["motor_temp > 85 and mode == run"]
    )
    until: str | None = Field(
        None, description="Where given, the rule holds until this condition is true, not only while `when` is."
    )
    on_delay: Duration = Field(Duration("0s"), description="How long it must be abnormal before the alarm comes.")
    severity: Severity | None = Field(None, description="Of this rule's alarms; by default that of `alarm`.")
    action: str = Field("", description="What a person does about it; by default that of `alarm`.")
    message: str = Field("", description="What the alarm says, before the value.", examples=["Winding too hot"])

    @model_validator(mode="after")
    def _one_check(self) -> Self:
        checks = [
            name
            for name, given in (
                ("above/below", (self.above, self.below)), ("rate_above/rate_below", (self.rate_above, self.rate_below)),
                ("timeout", (self.timeout,)), ("heartbeat", (self.heartbeat,)),
            )
            if any(one is not None for one in given)
        ]  # fmt: skip
        if len(checks) > 1:
            raise ValueError(f"{' and '.join(checks)} in one rule; write one rule for each")
        if self.tag is None and checks:
            raise ValueError(f"{checks[0]} needs `tag`: the name of the tag that is meant")
        if self.tag is not None and not checks:
            raise ValueError("what is wrong with the tag is missing: above, below, rate_above, rate_below, timeout or heartbeat")
        if self.tag is None and self.when is None:
            raise ValueError("a rule needs `tag` with a check, or `when`")
        if self.until is not None and checks:
            raise ValueError("`until` goes with `when` alone; a threshold takes `hysteresis`")
        if self.on_delay and (self.timeout is not None or self.heartbeat is not None):
            raise ValueError("a timeout or heartbeat is a delay itself: leave `on_delay` away")
        for text in (self.when, self.until):
            if text is not None:
                parse(text)
        return self


class RulesConfig(ModelConfig):
    """Alarms without code: each rule is one alarm, bearing the rule's name. `tags` must match every tag that the rules name."""

    rules: Mapping[str, Rule] = Field({}, description="The rules by name.")


class Rules:
    """Follows rules over tags of one asset. READING(n) -> one SCORE batch per rule.

    A row per judgement: score 1 while the rule holds (and has held for `on_delay`), 0 while it does not, null while an input that
    matters is bad, unknown or gated; null changes nothing. Its tag is the rule's tag, or the first that `when` names. A rule over
    one tag is judged at each of its readings, also at a live one that is older than the last. One over several tags is judged
    once a moment of the gateway's clock, when all its inputs of that moment are there or the next moment begins: so a poll
    is never seen half. Silence is measured as in `stuck`, but while nothing at all arrives the clock of ticks goes on; after a pause
    of everything that is longer than the timeout it is measured anew. 49 bytes per tag, and 34 to 58 for each rule on it.
    """

    kind: ClassVar[str] = "rules"
    version: ClassVar[int] = 1
    scope: ClassVar[Scope] = "gateway"  # moments and silence are told by the clock of all rows
    factual: ClassVar[bool] = True

    def __init__(self, config: RulesConfig, context: ModelContext) -> None:
        """Raises ConfigError for a rule that fits no asset, or whose condition a tag can never fulfil."""
        self._config = config
        self.slots = Slots([tag.id for tag in context.tags])
        self._rules = {
            name: RuleState(rule, context.tags, self.slots, where=f"models.{context.name}.rules.{name}")
            for name, rule in config.rules.items()
        }
        self._rows = {name: ScoreRows(context.name, name, _LIMIT) for name in config.rules}
        self._seen = Seen(context.tags)
        limits = [state.timeout_us for state in self._rules.values() if state.timeout_us]
        self._moments = Moments(min(limits, default=None))

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """See EdgeModel."""
        return self.take(decode(batch)) if batch.num_rows else self._tick(now)

    def take(self, readings: Readings) -> list[pa.RecordBatch]:
        """See TakesReadings."""
        found: dict[str, list[Found]] = {}
        gateway = readings.gateway_time()
        slots = self.slots.of(readings.tag)
        if readings.backfilled().any():
            slots = self._without_late(readings, slots)
        for part in self._moments.cut(slots, gateway, self._seen.moment):
            if part.rows is None:
                self._pass(part, found)
            else:
                self._seen.take(readings, part.rows, slots[part.rows], self._moments.number, gateway)
                self._judge(slots[part.rows], found)
        return self._batches(found)

    def _without_late(self, readings: Readings, slots: Index) -> Index:
        """-1 for rows that are not live and not newer than their tag's last; live ones count however old they say they are."""
        slots, last, backfilled = slots.copy(), self._seen.time.copy(), readings.backfilled()
        for part in self.slots.plan(readings.tag).rounds:
            rows = np.arange(len(readings))[part.rows]
            late = backfilled[rows] & (readings.time[rows] <= last[part.slots])
            last[part.slots[~late]] = readings.time[rows[~late]]
            slots[rows[late]] = -1
        return slots

    def _tick(self, now: int) -> list[pa.RecordBatch]:
        """Time passes without a reading."""
        found: dict[str, list[Found]] = {}
        for part in self._moments.tick(now):
            self._pass(part, found)
        return self._batches(found)

    def _pass(self, part: Part, found: dict[str, list[Found]]) -> None:
        """A moment is over."""
        for name, rule in self._rules.items():
            for one in rule.passed(self._seen, self._moments.number, self._moments.clock, part.before, part.clock):
                found.setdefault(name, []).append(one)

    def _judge(self, slots: Index, found: dict[str, list[Found]]) -> None:
        """These slots have news in the present moment."""
        for name, rule in self._rules.items():
            if rule.touched(slots):
                one = rule.judge(self._seen, self._moments.number, self._moments.clock)
                if one is not None:
                    found.setdefault(name, []).append(one)

    def _batches(self, found: Mapping[str, list[Found]]) -> list[pa.RecordBatch]:
        made = []
        for name, parts in found.items():
            at, time, seq, score, value, low, high, since = (np.concatenate(column) for column in zip(*parts, strict=True))
            rule = self._rules[name]
            why = rule.contributions(at, score) if rule.several else None
            ids = self.slots.ids[rule.subject[at]]
            made.append(self._rows[name].at(time, seq, ids, value, score, low, high, since, why))
        return made

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """See Explains."""
        rule = self._config.rules[row.alarm]
        is_now = f"{tag.display} is {quantity(row.value, tag)}" if row.value == row.value else tag.display
        lasted = span(row.time_us - row.since_us) if row.since_us is not None else ""
        if rule.timeout is not None:
            said = f"{tag.display} has sent no good reading for {lasted}"
        elif rule.heartbeat is not None:
            said = f"{tag.display} has not changed for {lasted}"
        elif rule.above is not None and row.value > rule.above - rule.hysteresis:
            said = f"{is_now}, above {quantity(rule.above, tag)}"
        elif rule.below is not None:
            said = f"{is_now}, below {quantity(rule.below, tag)}"
        elif rule.rate_above is not None and rule.rate_below is not None:
            said = f"{is_now} and changes faster than it may"
        elif rule.rate_above is not None:
            said = f"{is_now} and rises by more than {quantity(rule.rate_above, tag)} per second"
        elif rule.rate_below is not None:
            way = "falls by more" if rule.rate_below < 0 else "rises by less"
            said = f"{is_now} and {way} than {quantity(abs(rule.rate_below), tag)} per second"
        else:
            said = is_now
        said = f"{rule.message}: {said}" if rule.message else said
        return f"{said}, and {rule.when}" if rule.when is not None else said

    def severity(self, tag: Tag, alarm: str) -> Severity:
        """See Grades."""
        return self._config.rules[alarm].severity or self._config.alarm.severity

    def action(self, tag: Tag, alarm: str) -> str:
        """See Grades."""
        return self._config.rules[alarm].action

    def snapshot(self) -> bytes:
        """See EdgeModel. Each rule is stored with its definition: a rule that has changed since starts anew."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, rule in self._rules.items():
            arrays[f"{name}/rule"] = text_array(self._config.rules[name].model_dump_json())
            arrays |= {f"{name}/{part}": array for part, array in rule.arrays().items()}
            arrays[f"{name}/ids"] = self.slots.ids[rule.subject]
        held = {"ids": self.slots.ids, "moments": self._moments.state, **self._seen.arrays(), **arrays}
        return pack(self.kind, self.version, "", held)

    def restore(self, state: bytes) -> None:
        """See EdgeModel."""
        stored = unpack(state, self.kind, self.version, "")
        seen = self._seen.arrays()
        if not {"ids", "moments", *seen} <= stored.keys() or stored["moments"].shape != self._moments.state.shape:
            raise StateMismatch("the stored state holds other arrays than this version writes")
        ids = stored["ids"]
        if any(stored[name].shape != ids.shape for name in seen):
            raise StateMismatch("the stored state holds arrays of different lengths")
        wanted: list[tuple[RuleState, str]] = []
        for name, rule in self._rules.items():
            text = stored.get(f"{name}/rule")
            if text is not None and json.loads(array_text(text)) == json.loads(self._config.rules[name].model_dump_json()):
                mine = rule.arrays()
                held = stored.get(f"{name}/ids")
                if held is None or any(
                    f"{name}/{part}" not in stored or stored[f"{name}/{part}"].shape != (len(held), *array.shape[1:])
                    for part, array in mine.items()
                ):
                    raise StateMismatch(f"the stored state of the rule {name!r} is damaged")
                wanted.append((rule, name))
        place = self.slots.of(np.clip(ids.astype(np.int64), -1, 2**31 - 1).astype(np.int32))
        for name, array in seen.items():
            array[place[place >= 0]] = stored[name][place >= 0]
        self._moments.state[:] = stored["moments"]
        for rule, name in wanted:
            by_id = {int(tag): at for at, tag in enumerate(self.slots.ids[rule.subject])}
            at = np.array([by_id.get(int(tag), -1) for tag in stored[f"{name}/ids"]], dtype=np.intp)
            for part, array in rule.arrays().items():
                array[at[at >= 0]] = stored[f"{name}/{part}"][at >= 0]


PLUGIN: Plugin[RulesConfig, EdgeModel] = Plugin(RulesConfig, Rules)
