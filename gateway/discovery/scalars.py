"""Values as YAML text on one line, quoted where YAML (or a reader of version 1.1) would take them for something else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

_PLAIN: Final = re.compile(r"[^\W\d_](?:[\w./°²³·%-]|(?<! ) (?! ))*(?<! )|°\w+")
_WORDS: Final = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])
_UNSEEN: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|[\ud800-\udfff]")


def text(value: str) -> str:
    """A text. `${` is written as `$${`: what a device says is no reference to a variable."""
    escaped = value.replace("${", "$${")
    if _PLAIN.fullmatch(escaped) and escaped.casefold() not in _WORDS:
        return escaped
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(escaped, ensure_ascii=False))


def flow(value: object) -> str:
    """Any value of an option: text, number, boolean, mapping or list."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return _number(value)
        case Mapping():
            return "{" + ", ".join(f"{flow(key)}: {flow(below)}" for key, below in value.items()) + "}"
        case Sequence() if not isinstance(value, str):
            return "[" + ", ".join(flow(below) for below in value) + "]"
        case _:
            return text(str(value))


def _number(value: float) -> str:
    """A finite number, as YAML 1.2 reads it back exactly."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
