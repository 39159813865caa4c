"""The Parquet lake: batched, sorted, exactly once, on a local directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import ParquetConfig, check

if TYPE_CHECKING:
    from cloud_sinks.base import Sink, SinkContext


def _build(config: ParquetConfig, context: SinkContext) -> Sink:
    from .sink import ParquetSink

    return ParquetSink(config, context)


PLUGIN: Plugin[ParquetConfig, Sink] = Plugin(ParquetConfig, _build, check=check)
