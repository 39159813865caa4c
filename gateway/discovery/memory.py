"""What was found last time, beside the tag file (`robot.yaml.found.json`): it tells the edits of people from the changes of the device.

Without it (deleted, or not copied along) nothing is lost: what the file says then wins over what the device says, and tags that
somebody deleted from the file come back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigError

_VERSION: Final = 1
SUFFIX: Final = ".found.json"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A tag as it was found: the key that it would have, its options, and the scope of the walk that found it last."""

    key: str
    options: Mapping[str, Any]
    scope: str


@dataclass(slots=True)
class Memory:
    """Tags by identity. `known` is False where nothing was remembered for this file."""

    tags: dict[str, Remembered] = field(default_factory=dict)
    known: bool = False


def path_of(file: Path) -> Path:
    """The memory of a tag file."""
    return file.with_name(file.name + SUFFIX)


def read(file: Path) -> Memory:
    """The memory of a tag file; an empty one where there is none. Raises ConfigError for one that cannot be read."""
    path = path_of(file)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise ValueError(f"it has version {data['version']}")
        tags = {
            str(identity): Remembered(str(one["key"]), dict(one["options"]), str(one["scope"]))
            for identity, one in data["tags"].items()
        }
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=str(path), hint="delete it: then what the tag file says wins where both differ"
        ) from error
    return Memory(tags, known=True)


def text(memory: Memory) -> str:
    """The memory as JSON, a line a tag and in one order, so that a difference is easy to see under version control."""
    lines = [
        f" {json.dumps(identity, ensure_ascii=False)}: "
        + json.dumps({"key": one.key, "scope": one.scope, "options": _plain(one.options)}, ensure_ascii=False)
        for identity, one in sorted(memory.tags.items())
    ]
    about = "What genba found last time; it tells your edits of the tag file from changes of the device."
    return f'{{"about": {json.dumps(about)}, "version": {_VERSION}, "tags": {{\n' + ",\n".join(lines) + "\n}}\n"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else value if isinstance(value, (int, float, str, bool)) else str(value)
        for key, value in ((str(name), below) for name, below in options.items())
    }
