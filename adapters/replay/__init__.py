"""Replay: a recording (a lake, Parquet or CSV) is played with its own times, and goes on behind what is durable after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import ReplayConfig

if TYPE_CHECKING:
    from adapters.base import Adapter, AdapterContext


def build(config: ReplayConfig, context: AdapterContext) -> Adapter:
    """The adapter of one recording; does no I/O."""
    from .adapter import ReplayAdapter

    return ReplayAdapter(config, context)


PLUGIN: Plugin[ReplayConfig, Adapter] = Plugin(ReplayConfig, build)
