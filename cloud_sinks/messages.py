"""What is published of a row: JSON messages, one per row, and their JSON Schema. One definition makes both.

Shared by every sink that sends messages. A field that does not apply to a row is absent, never null; numbers that JSON cannot
hold (NaN, infinity) are absent too. Times are ISO 8601 with microseconds: UTC with `Z`, local ones with the plant's offset.
`python -m cloud_sinks.messages docs/schemas` writes the published schemas anew.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from schemas import quality, units
from schemas.data import Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.span import SpoolSpan
    from schemas.tags import TagDirectory

VERSION: Final = 1
Row = Mapping[str, Any]
"""A row as plain Python values, times as µs."""
Severity = Literal["info", "warning", "critical"]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ORIGINS: Final = ("live", "backfill", "replay", "downsampled")


class Message(BaseModel):
    """What every message has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(1, description="Version of this schema. Fields may be added within a version.")
    time: Instant = Field(description="When it happened, UTC.")
    enterprise: str = Field(description="Enterprise of the plant.")
    site: str = Field(description="Site of the plant.")
    gateway: str = Field(description="The gateway that sends it.")
    epoch: int = Field(description="Rises when another gateway takes over.")
    kind: Kind = Field(description="The kind of data.")
    row: int = Field(description="Row number; (gateway, epoch, kind, row) is the same when a message is sent again.")


class Expected(BaseModel):
    """The band in which the value was expected; an open end is absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float | None = Field(None, description="Lower end.")
    high: float | None = Field(None, description="Upper end.")


class AlertMessage(Message):
    """One transition of one alarm."""

    id: str = Field(description="The same over all transitions of one occurrence, also after a restart.")
    alarm: str = Field(description="Name of the alarm.")
    model: str | None = Field(None, description="The model that raised it; `gateway` for the gateway's own troubles.")
    state: Literal["unacknowledged", "acknowledged", "returned", "normal", "shelved", "suppressed", "out_of_service"] = Field(
        description="ISA-18.2 state after this transition. `returned`: back to normal, not yet acknowledged."
    )
    transition: Literal[
        "raised", "cleared", "acknowledged", "shelved", "unshelved", "suppressed", "changed", "out_of_service", "in_service"
    ] = Field(description="What happened.")
    severity: Severity = Field(description="How urgent it is.")
    problem: str = Field(description="What is wrong, in one sentence.")
    action: str | None = Field(None, description="What a person does about it.")
    subject: str | None = Field(None, description="What it is about, for people: label of the tag, name of the adapter.")
    asset: str | None = Field(None, description="Full path of the asset.")
    tag: str | None = Field(None, description="Full path of the tag; absent when it is not about one.")
    label: str | None = Field(None, description="What people call the tag.")
    local_time: Instant = Field(description="`time` on the plant's clock.")
    since: Instant | None = Field(None, description="When the trouble began, UTC.")
    local_since: Instant | None = Field(None, description="`since` on the plant's clock.")
    onset_row: int | None = Field(None, description="Row of the reading with which it began.")
    value: float | None = Field(None, description="Value at the transition.")
    text: str | None = Field(None, description="Value at the transition where it is text.")
    unit: str | None = Field(None, description="Unit of value as people read it: °C.")
    unit_code: str | None = Field(None, description="UCUM code of the unit: Cel.")
    expected: Expected | None = Field(None, description="The band in which value was expected.")
    score: float | None = Field(None, description="How abnormal it is, 0 to 1.")
    limit: float | None = Field(None, description="The score, or the limit of the value, from which it is abnormal.")
    contributions: dict[str, float] | None = Field(None, description="Share of each tag or feature, for models over several.")
    context: list[tuple[int, float | None]] | None = Field(
        None, description="Values before the transition: pairs of µs since 1970 UTC and value."
    )


class TelemetryMessage(Message):
    """One reading. It has value, text or samples, or none of them when it is bad."""

    tag: str = Field(description="Full path of the tag.")
    value: float | int | None = Field(None, description="Number; a boolean is 0 or 1.")
    text: str | None = Field(None, description="Text, or the name of an enumerated value.")
    samples: list[float | None] | None = Field(None, description="Waveform.")
    unit: str | None = Field(None, description="UCUM code; absent for none.")
    quality: int = Field(description="OPC UA StatusCode, 0 is good.")
    quality_name: str = Field(description="Its standard name: Good, BadTimeout.")
    origin: Literal["live", "backfill", "replay", "downsampled"] = Field(description="Where it comes from.")
    lag_ms: int | None = Field(None, description="The gateway's clock minus time.")
    min: float | None = Field(None, description="Least value of a downsampled window.")
    max: float | None = Field(None, description="Greatest value of a downsampled window.")
    count: int | None = Field(None, description="Readings in a downsampled window.")


class EventMessage(Message):
    """Something happened: a state changed, a device reported, or the gateway itself did something."""

    event: str = Field(description="Constant name: adapter_up.")
    severity: Severity | None = Field(None, description="How urgent it is.")
    message: str | None = Field(None, description="One sentence for people.")
    source: str | None = Field(None, description="Adapter, sink, model or `gateway`.")
    asset: str | None = Field(None, description="Full path of the asset.")
    tag: str | None = Field(None, description="Full path of the tag; absent when it is not about one.")
    attributes: dict[str, Any] | None = Field(None, description="More about it.")


class HealthMessage(Message):
    """An estimate of how an asset is and how long it will last."""

    measure: str = Field(description="health_index, remaining_useful_life, time_to_limit, forecast, or a feature of a waveform.")
    model: str | None = Field(None, description="The model that made it.")
    asset: str | None = Field(None, description="Full path of the asset.")
    tag: str | None = Field(None, description="Full path of the tag; absent when it is about the asset.")
    value: float | None = Field(None, description="The estimate.")
    expected: Expected | None = Field(None, description="Its interval.")
    unit: str | None = Field(None, description="UCUM code.")
    reading_row: int | None = Field(None, description="Row of the newest reading behind it.")


class ScoreMessage(Message):
    """A model's opinion of one reading."""

    tag: str | None = Field(None, description="Full path of the tag.")
    model: str | None = Field(None, description="The model.")
    alarm: str | None = Field(None, description="The alarm that it can raise.")
    value: float | None = Field(None, description="The reading.")
    score: float | None = Field(None, description="0 to 1; absent until the model is warm.")
    limit: float | None = Field(None, description="A score at or above it is abnormal.")
    expected: Expected | None = Field(None, description="The expected band.")
    reading_row: int | None = Field(None, description="Row of the reading.")
    contributions: dict[str, float] | None = Field(None, description="Share of each tag or feature.")


class GapMessage(Message):
    """An interval in which data may be missing; `time` is its start."""

    end: Instant | None = Field(None, description="Its end, UTC.")
    tag: str | None = Field(None, description="Full path of the tag; absent for all of the source.")
    source: str | None = Field(None, description="Adapter, or `spool`.")
    sink: str | None = Field(None, description="Absent: the data never arrived; a name: dropped before that sink had it.")
    cause: str = Field(
        description="not_connected, gateway_stopped, replanned, overflow, dropped, downsampled, requested, quarantined, overrun or lost."
    )
    rows: int | None = Field(None, description="Rows given up, where known.")


class ImageMessage(Message):
    """The manifest of a file; its bytes travel elsewhere."""

    tag: str | None = Field(None, description="Full path of the tag.")
    file: str = Field(description="Where it lies.")
    sha256: str | None = Field(None, description="Of its bytes, hexadecimal.")
    bytes: int | None = Field(None, description="Its size.")
    media_type: str | None = Field(None, description="image/jpeg.")
    quality: int = Field(0, description="OPC UA StatusCode, 0 is good.")


MESSAGES: Final[Mapping[Kind, type[Message]]] = {
    "telemetry": TelemetryMessage,
    "event": EventMessage,
    "score": ScoreMessage,
    "alert": AlertMessage,
    "health": HealthMessage,
    "image": ImageMessage,
    "gap": GapMessage,
}


class Messages:
    """Makes messages for one gateway. Holds no state beyond what it was made with."""

    def __init__(self, tags: TagDirectory, *, enterprise: str, site: str, zone: tzinfo) -> None:
        self._tags, self._zone = tags, zone
        self._plant = {"enterprise": enterprise, "site": site}

    def of(self, row: Row, span: SpoolSpan) -> Message:
        """The message of one row of the span's kind. Raises pydantic.ValidationError for a row that no message can say."""
        number = row["row"] if "row" in row and span.kind in ("score", "health") else row["seq"]
        tag = None if row.get("tag") is None else self._tags[row["tag"]]
        fields: dict[str, Any] = {name: _finite(value) for name, value in row.items() if value is not None}
        for name in ("seq", "row", "tag", "low", "high"):
            fields.pop(name, None)
        fields |= self._plant | {"time": utc(row["time"]), "gateway": span.gateway, "epoch": span.epoch}
        fields |= {"kind": span.kind, "row": number}
        if tag is not None:
            fields["tag"] = tag.path
        low, high = _finite(row.get("low")), _finite(row.get("high"))
        if low is not None or high is not None:
            fields["expected"] = {"low": low, "high": high}
        if span.kind == "alert":
            self._alert(fields, row, "" if tag is None else tag.label)
        elif span.kind == "telemetry":
            _telemetry(fields, row, "1" if tag is None else tag.unit)
        elif span.kind in ("score", "health"):
            fields["reading_row"] = row.get("seq")
        elif span.kind == "gap" and row.get("end") is not None:
            fields["end"] = utc(row["end"])
        for name in ("contributions", "context", "attributes"):
            if isinstance(fields.get(name), str):
                fields[name] = json.loads(fields[name])
        return MESSAGES[span.kind](**fields)

    def _alert(self, fields: dict[str, Any], row: Row, label: str) -> None:
        fields["local_time"] = local(row["time"], self._zone)
        fields["label"] = label or None
        fields["onset_row"] = fields.pop("onset_seq", None)
        if row.get("since") is not None:
            fields |= {"since": utc(row["since"]), "local_since": local(row["since"], self._zone)}
        code = row.get("unit")
        fields |= (
            {"unit": None, "unit_code": None} if code in (None, "", "1") else {"unit": units.display(code), "unit_code": code}
        )


def payload(message: Message) -> bytes:
    """The message as compact UTF-8 JSON."""
    return message.model_dump_json(exclude_none=True).encode()


def rows(batches: Sequence[pa.RecordBatch]) -> Iterator[Row]:
    """Every row of the batches in order, as plain values with times as µs."""
    import pyarrow as pa

    for batch in batches:
        plain = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch.columns]
        yield from pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()


def utc(time_us: int) -> str:
    """ISO 8601 in UTC with microseconds and `Z`. A time outside the years 1 to 9999 becomes the nearest one inside."""
    return _moment(time_us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def local(time_us: int, zone: tzinfo) -> str:
    """ISO 8601 on the plant's clock with its offset."""
    return _moment(time_us).astimezone(zone).isoformat(timespec="microseconds")


def batch(messages: Sequence[bytes]) -> bytes:
    """Several messages of one kind as one: `{"version": 1, "rows": […]}`."""
    return b'{"version":%d,"rows":[%b]}' % (VERSION, b",".join(messages))


BATCH_BYTES: Final = len(batch([]))
"""What a batch has beside its messages and the commas between them."""


def batch_schema_text() -> str:
    """The published schema of a batch."""
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"genba batch, version {VERSION}",
        "description": "Several messages of one kind.",
        "type": "object",
        "properties": {
            "version": {"const": VERSION, "description": "Version of this schema."},
            "rows": {
                "type": "array",
                "description": "The messages, in order.",
                "items": {"anyOf": [{"$ref": f"{kind}.schema.json"} for kind in MESSAGES]},
            },
        },
        "required": ["version", "rows"],
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def json_schema(kind: Kind) -> JsonSchemaValue:
    """The JSON Schema (draft 2020-12) of a kind's messages."""
    made = MESSAGES[kind].model_json_schema(schema_generator=_Published)
    made["required"] = ["version", *made["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | made | {"title": f"genba {kind}, version {VERSION}"}


def schema_text(kind: Kind) -> str:
    """The published file."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


class _Published(GenerateJsonSchema):
    """Says of an optional field that it may be absent, because that is how it is sent: never as null. Open to fields added later."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default", ...) is None and schema["schema"]["type"] == "nullable":
            return self.generate_inner(schema["schema"]["schema"])
        return super().default_schema(schema)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("additionalProperties", None)
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _telemetry(fields: dict[str, Any], row: Row, unit: str) -> None:
    code = row["quality"] if row.get("quality") is not None else 0
    fields |= {"quality": code, "quality_name": quality.name(code), "origin": ORIGINS[row.get("origin") or 0]}
    fields |= {"lag_ms": fields.pop("lag", None), "min": fields.pop("value_min", None), "max": fields.pop("value_max", None)}
    if "value_int" in fields:
        fields["value"] = fields.pop("value_int")
    if unit != "1":
        fields["unit"] = unit
    if row.get("samples") is not None:
        fields["samples"] = [_finite(sample) for sample in row["samples"]]
    fields.pop("thinned", None)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moment(time_us: int) -> datetime:
    try:
        found = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        found = datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
    # A day inside either end, so that the plant's offset stays within the years that can be written.
    return min(
        max(found, datetime.min.replace(tzinfo=UTC) + timedelta(days=1)), datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    )


def _main(folder: Path) -> None:
    for kind in MESSAGES:
        (folder / f"{kind}.schema.json").write_text(schema_text(kind), encoding="utf-8")
    (folder / "batch.schema.json").write_text(batch_schema_text(), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
