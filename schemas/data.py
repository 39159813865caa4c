"""The kinds of data by name. Apart from `kinds`, so that reading a configuration or naming a file needs no Arrow."""

from __future__ import annotations

from typing import Final, Literal, get_args

Kind = Literal["telemetry", "event", "score", "alert", "health", "image", "gap"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PRIORITY: Final[tuple[Kind, ...]] = ("alert", "event", "health", "gap", "image", "telemetry", "score")
"""The order in which kinds are delivered: alerts drain before bulk."""
