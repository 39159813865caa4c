"""Asset paths: ISA-95, `enterprise/site/…/asset/tag`, any depth between.

The same path is the tag's identity, the MQTT topic and the asset column of an alert. `topic_level` and
`from_topic_level` are inverse, so every path has exactly one topic, and a topic names one path or is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, lone surrogates
SLUG_PATTERN: Final = "^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$"
_SLUG = re.compile(SLUG_PATTERN)
_TOPIC_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in "#+/%$") + " "


def segments(path: str) -> tuple[str, ...]:
    """The parts of a path. Raises ValueError for an empty part, `.`/`..`, a control character, or blanks at an end."""
    parts = tuple(path.split("/"))
    for part in parts:
        if not part:
            raise ValueError(f"{path!r} has an empty part")
        if part in (".", "..") or part != part.strip() or _FORBIDDEN.search(part):
            raise ValueError(f"{path!r}: {part!r} is not a usable part of a path")
    return parts


def join(*parts: str) -> str:
    """Parts and paths joined to one checked path; empty ones are left out. Raises ValueError as `segments` does."""
    path = "/".join(part for part in parts if part)
    segments(path)
    return path


def is_slug(text: str) -> bool:
    """Lower-case ASCII letters, digits and inner hyphens: what enterprise, site and gateway must be."""
    return _SLUG.fullmatch(text) is not None


def topic_level(part: str) -> str:
    """One part of a path as one MQTT topic level: `/`, `#`, `+`, `%`, `$` and what is not ASCII are percent-encoded UTF-8."""
    return quote(part, safe=_TOPIC_SAFE)


def from_topic_level(level: str) -> str:
    """The inverse of `topic_level`. Raises ValueError for a level that `topic_level` never makes (`a%2fb`, `+`, raw UTF-8)."""
    part = unquote(level, errors="strict")
    if topic_level(part) != level:
        raise ValueError(f"{level!r} is not a topic level of ours; it would be {topic_level(part)!r}")
    return part


def to_topic(path: str) -> str:
    """`acme/osaka/press 7/temp+` -> `acme/osaka/press 7/temp%2B`."""
    return "/".join(topic_level(part) for part in segments(path))


def from_topic(topic: str) -> str:
    """The inverse of `to_topic`. Raises ValueError for a topic that `to_topic` never makes."""
    path = "/".join(from_topic_level(level) for level in topic.split("/"))
    if to_topic(path) != topic:
        raise ValueError(f"{topic!r} is not a topic of ours")
    return path


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    out = []
    parts = pattern.split("/")
    for i, part in enumerate(parts):
        if part == "**":
            out.append("(?:[^/]+/)*" if i < len(parts) - 1 else "(?:[^/]+(?:/[^/]+)*)")
            continue
        body = "".join("[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in part)
        out.append(body + ("/" if i < len(parts) - 1 else ""))
    return re.compile("".join(out))


def matches(path: str, pattern: str) -> bool:
    """True when the whole path fits. `*` is any text within one part, `?` one character, `**` any number of parts."""
    return _compile(pattern).fullmatch(path) is not None


def matches_any(path: str, patterns: Iterable[str]) -> bool:
    """True when any pattern fits the path itself or the path below its first two parts (enterprise and site).

    So integrators may write `stamping/**/motor_temp` and need not repeat where the plant is.
    """
    parts = path.split("/", 2)
    below = parts[2] if len(parts) == 3 else ""
    return any(matches(path, pattern) or (below != "" and matches(below, pattern)) for pattern in patterns)
