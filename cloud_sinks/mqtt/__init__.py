"""Any MQTT broker: one message a row, alarm states retained, the gateway's own state with a last will."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import MqttConfig, check

if TYPE_CHECKING:
    from cloud_sinks.base import Sink, SinkContext


def _build(config: MqttConfig, context: SinkContext) -> Sink:
    from .sink import MqttSink

    return MqttSink(config, context)


PLUGIN: Plugin[MqttConfig, Sink] = Plugin(MqttConfig, _build, check=check)
