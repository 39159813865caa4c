"""A configuration entry as plain data and back: what a child is built from, and what stands at the head of a capture.

Only what a person wrote is handed over, so that defaults and inheritance between connection and devices come out the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter

from adapters.base import AdapterConfig, BoundTag, Mark, TagConfig, devices_of
from schemas.data import Kind
from schemas.tags import Tag

from . import catalogue

_TAGS: Final = TypeAdapter(list[Tag])
HIDDEN: Final = "(left out)"
"""Stands for a secret where secrets are left out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `adapters:` with its tags, as an adapter is built from it."""

    name: str
    config: AdapterConfig
    tags: Sequence[BoundTag[TagConfig]]
    time_zone: str
    base: Path
    directory: Path
    last_seen_us: int | None = None
    reached: Mapping[Kind, Mark] = field(default_factory=dict)


def to_plain(entry: Entry, *, secrets: bool) -> dict[str, Any]:
    """`entry` as JSON can hold it. Without `secrets` each secret is replaced; paths of this machine go along only with them."""
    keys = {id(config): key for device in devices_of(entry.name, entry.config).values() for key, config in device.tags.items()}
    plain: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.config.kind,
        "config": _plain(entry.config.model_dump(exclude_unset=True), secrets=secrets),
        "tags": _TAGS.dump_python([bound.tag for bound in entry.tags], mode="json"),
        "keys": [keys[id(bound.config)] for bound in entry.tags],
        "time_zone": entry.time_zone,
    }
    if secrets:
        reached = {kind: [mark.time_us, mark.rows] for kind, mark in entry.reached.items()}
        plain |= {"base": str(entry.base), "directory": str(entry.directory)}
        plain |= {"last_seen_us": entry.last_seen_us, "reached": reached}
    return plain


def from_plain(plain: Mapping[str, Any], *, base: Path = Path(), directory: Path = Path()) -> Entry:
    """The entry again. Raises ConfigError for a kind that is not installed, ValueError for what `to_plain` did not write."""
    config: AdapterConfig = catalogue.plugin("adapters", str(plain["kind"])).config.model_validate(plain["config"])
    devices = devices_of(plain["name"], config)
    tags = _TAGS.validate_python(plain["tags"])
    bound = [BoundTag(tag, devices[tag.device].tags[key], tag.device) for tag, key in zip(tags, plain["keys"], strict=True)]
    return Entry(
        plain["name"],
        config,
        bound,
        plain["time_zone"],
        Path(plain["base"]) if "base" in plain else base,
        Path(plain["directory"]) if "directory" in plain else directory,
        plain.get("last_seen_us"),
        {kind: Mark(*mark) for kind, mark in plain.get("reached", {}).items()},
    )


def to_json(entry: Entry, *, secrets: bool) -> bytes:
    """`to_plain` as JSON."""
    return json.dumps(to_plain(entry, secrets=secrets), ensure_ascii=False).encode()


def _plain(value: object, *, secrets: bool) -> object:
    match value:
        case SecretStr():
            return value.get_secret_value() if secrets else HIDDEN
        case SecretBytes():
            return value.get_secret_value().decode("latin-1") if secrets else HIDDEN
        case BaseModel():
            return _plain(value.model_dump(exclude_unset=True), secrets=secrets)
        case Mapping():
            return {str(key): _plain(item, secrets=secrets) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item, secrets=secrets) for item in value]
        case None | bool() | int() | float() | str():
            return value
    return str(value)
