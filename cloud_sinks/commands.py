"""Commands that come in as messages: what a person or the cloud may ask of the gateway, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from schemas.span import Command

COMMANDS: Final = frozenset({"acknowledge", "shelve", "unshelve"})
MAX_WAITING: Final = 100
"""Commands that a sink holds for the gateway at most."""
_MAX_BYTES: Final = 65_536


def parse(name: str, data: bytes, source: str) -> Command | str:
    """The command, or why it is none. `name` is the last level of the topic, `data` a JSON object of plain values."""
    if name not in COMMANDS:
        return f"unknown command; known are {', '.join(sorted(COMMANDS))}"
    if len(data) > _MAX_BYTES:
        return "too long"
    try:
        arguments = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(arguments, Mapping) or not all(isinstance(value, (str, int, float, bool)) for value in arguments.values()):
        return "not a JSON object of plain values"
    return Command(name, source, arguments)
