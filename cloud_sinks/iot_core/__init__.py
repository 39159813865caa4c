"""AWS IoT Core over MQTT 5 with a device certificate. The spool is the only one who retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import IotCoreConfig, check

if TYPE_CHECKING:
    from cloud_sinks.base import Sink, SinkContext


def _build(config: IotCoreConfig, context: SinkContext) -> Sink:
    from .sink import IotCoreSink

    return IotCoreSink(config, context)


PLUGIN: Plugin[IotCoreConfig, Sink] = Plugin(IotCoreConfig, _build, check=check)
