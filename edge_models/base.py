"""What an edge model is. Pure: no I/O, no clock, no thread, no task; the same code scores the stream, a file and the lake.

A model watches many tags at once and holds its state in numpy arrays, one slot per tag, so that a poll of all its tags is one
vector update. A sample is scored against what the model knew before it, then learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol, runtime_checkable

from pydantic import Field, field_validator

from schemas.asset import matches_any
from schemas.tags import Severity, Tag
from schemas.values import Duration, Rate, Strict

if TYPE_CHECKING:
    import pyarrow as pa

    from .inference import OpenModel


Scope = Literal["tag", "asset", "gateway"]
"""Which rows a score can depend on: those of its own tag, of the tags of its asset, or any that the gateway reads."""


_COUNT: Final = re.compile(r"\s*([0-9]{1,2})\s*of\s*([0-9]{1,2})\s*")
MOST_VOTES: Final = 64


def votes(count: str) -> tuple[int, int]:
    """`3 of 5` as (3, 5). Raises ValueError with the way to write it."""
    match = _COUNT.fullmatch(count)
    few, many = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= few <= many <= MOST_VOTES:
        raise ValueError(f"write it like 3 of 5, at most {MOST_VOTES} of {MOST_VOTES}")
    return few, many


def longer_than_nothing(span: Duration) -> Duration:
    """A field validator for spans that cannot be 0. Raises ValueError."""
    if span <= 0:
        raise ValueError("must be longer than 0s")
    return span


class TagAlarm(Strict):
    """Settings of the alarm layer that differ for some tags of a model; what is not given is as for the others."""

    severity: Severity | None = Field(None, description="`info`, `warning` or `critical`.")
    action: str | None = Field(None, description="What a person does about it.")
    on_delay: Duration | None = Field(None, description="How long the score must stay above the limit.")
    off_delay: Duration | None = Field(None, description="How long the score must stay normal before the alarm clears.")
    hysteresis: float | None = Field(None, ge=0, lt=1, description="How far below the limit the score must fall.")
    count: str | None = Field(None, description="How many of the last scores must be abnormal.", examples=["3 of 5"])
    peak_first: Duration | None = Field(None, description="How long only a clearly higher peak is told again.")

    @field_validator("count")
    @classmethod
    def _count(cls, count: str | None) -> str | None:
        if count is not None:
            votes(count)
        return count


class AlarmConfig(Strict):
    """When a score becomes an alarm, and what it says. Shared by all models."""

    name: str | None = Field(None, description="Name of the alarm, the last level of its topic; by default the model's name.")
    severity: Severity = Field("warning", description="`info`, `warning` or `critical`.")
    action: str = Field("", description="What a person does about it.")
    on_delay: Duration = Field(Duration("0s"), description="How long the score must stay above the limit before the alarm comes.")
    off_delay: Duration = Field(Duration("0s"), description="How long the score must stay normal before the alarm clears.")
    hysteresis: float = Field(
        0.0, ge=0, lt=1, description="How far below the limit the score must fall before it is normal again."
    )
    count: str = Field(
        "1 of 1",
        description="How many of the last scores must be abnormal: `3 of 5` forgives single outliers.",
        examples=["3 of 5"],
    )
    peak_first: Duration = Field(
        Duration("10m"),
        description="The first peak is told. For so long after it has cleared, the same alarm is held back unless its peak is ten "
        "times less likely; what still holds then is told. Never limits, rules or `critical`; 0s tells each.",
    )
    budget_per_asset: Rate | None = Field(
        None, description="At most so many alarms of this model per asset; never hides limits or `critical`.", examples=["4/day"]
    )
    tags: Mapping[str, TagAlarm] = Field(
        {}, description="Tag patterns with settings of their own; the last one that fits a tag wins.",
    )  # fmt: skip

    @field_validator("count")
    @classmethod
    def _count(cls, count: str) -> str:
        votes(count)
        return count

    def of(self, path: str) -> AlarmConfig:
        """The settings for one tag."""
        given: dict[str, object] = {}
        for pattern, one in self.tags.items():
            if matches_any(path, (pattern,)):
                given |= {name: value for name in TagAlarm.model_fields if (value := getattr(one, name)) is not None}
        return self.model_copy(update=given) if given else self


class SiteAlarms(Strict):
    """What holds for the alarms of all models of this gateway together. Never holds back limits or `critical`."""

    budget: Rate | None = Field(None, description="At most so many alarms in all.", examples=["30/day"])
    flood: int = Field(
        10, ge=0, description="More alarms than this within `flood_within` are a flood: the rest is counted; 0: never."
    )
    flood_within: Duration = Field(Duration("10m"), description="See `flood`.")


class ModelConfig(Strict):
    """One entry below `models:`. Each model adds its own parameters."""

    kind: str = Field(description="The model.")
    tags: Sequence[str] = Field((), description="Tag paths or patterns (`*`, `?`, `**`), with or without enterprise/site.")
    active_when: str | None = Field(
        None, description="Condition on tags of the same asset: `mode == run`. Otherwise nothing is learnt or raised."
    )
    warm_up: Duration = Field(Duration("0s"), description="Time from the first good reading of a tag until it may raise alarms.")
    alarm: AlarmConfig = Field(AlarmConfig(), description="The alarm layer's settings for this model.")


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What the gateway (or a job over a file) hands to a model: its name, the tags that its patterns match, the plant's clock.

    `open_model` opens the files of models that lie in one (None: in this process); `whole` is False where the tags are a part of the
    plant, so that nothing is missed in them.
    """

    name: str
    tags: Sequence[Tag]
    time_zone: str = "UTC"  # IANA name
    open_model: OpenModel | None = None
    whole: bool = True


class EdgeModel(Protocol):
    """Scores readings. `now` (µs UTC) is its only clock and never decreases between calls; an empty batch is a tick."""

    def update(self, batch: pa.RecordBatch, now: int) -> list[pa.RecordBatch]:
        """READING(n) with `seq` -> SCORE batches (and HEALTH, and EVENT for what is worth knowing and no alarm).

        Each SCORE row names the `seq` it was made from.

        `batch` holds telemetry rows of any tags in `seq` order, several per tag allowed; rows of tags that are not the
        model's, and bad rows, are passed over (only `stuck` looks at bad ones). Causal: rows 0..k give the same scores
        whatever comes later and however they are cut into batches. `score` is null until warm. Where the model's entry has
        `active_when`, a boolean column `active` follows `seq`: rows in which it is false are scored null and not learnt.
        """
        ...

    def snapshot(self) -> bytes:
        """Versioned state; `restore(snapshot())` gives bit-equal later scores. Keyed by tag id. Never pickle."""
        ...

    def restore(self, state: bytes) -> None:
        """Take over a state. Tags it does not hold start cold, tags it holds in vain are dropped. Raises StateMismatch."""
        ...


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of a SCORE batch, as the alarm layer shows it to a model that explains itself. NaN where the row has null."""

    alarm: str
    time_us: int
    since_us: int | None
    value: float
    score: float
    limit: float
    low: float
    high: float
    contributions: str | None = None  # JSON {tag or feature: share}


@runtime_checkable
class Explains(Protocol):
    """A model that puts its findings into words. Without this an alarm says how unusual the value is, and no more."""

    def problem(self, tag: Tag, row: ScoreRow) -> str:
        """One plain sentence without a full stop, from the row alone: `Zone 1 temperature is 96.2 °C, above its limit of 90 °C`."""
        ...


@runtime_checkable
class Measures(Protocol):
    """A model whose rows bear another quantity than that of their tag: the velocity of an acceleration."""

    def measured(self, tag: Tag, alarm: str) -> Tag:
        """The tag as the `value` of this alarm's rows is to be read: the same with another unit."""
        ...


@runtime_checkable
class ExplainsAssets(Protocol):
    """The same of a model whose scores are about assets."""

    def asset_problem(self, asset: str, row: ScoreRow) -> str:
        """One plain sentence without a full stop; `asset` is its name, the last part of its path."""
        ...


@runtime_checkable
class Scoped(Protocol):
    """A model that says which rows its scores depend on, so that a job over the lake may give parts of the plant to many
    processors. Without this it gets all rows of a gateway, in one piece."""

    scope: ClassVar[Scope]


@runtime_checkable
class Marked(Protocol):
    """A model that is shown with a mark wherever it appears: versions, status, alarms."""

    mark: str
    """Such as `unsigned press.onnx, sha256:0123456789ab`."""


@runtime_checkable
class Grades(Protocol):
    """A model whose alarms differ in severity and action; others take both from their alarm settings."""

    def severity(self, tag: Tag, alarm: str) -> Severity:
        """How serious this alarm of this tag is."""
        ...

    def action(self, tag: Tag, alarm: str) -> str:
        """What a person does about it."""
        ...


@runtime_checkable
class Factual(Protocol):
    """A model whose scores are 1 or 0 because somebody wrote down what is wrong: none of its alarms is less of one than the others."""

    factual: ClassVar[bool]
