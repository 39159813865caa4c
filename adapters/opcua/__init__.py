"""OPC UA: subscriptions with one sampling class per scan, decoded with numpy straight from the publish answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import OpcuaConfig, check

if TYPE_CHECKING:
    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext


def build(config: OpcuaConfig, context: AdapterContext) -> Adapter:
    """The adapter of one OPC UA server; does no I/O."""
    from adapters.playback import Player

    if isinstance(context.tape, Player):
        from .taped import PlayedOpcua

        return PlayedOpcua(config, context, context.tape)
    from .adapter import OpcuaAdapter

    return OpcuaAdapter(config, context)


def simulate(config: OpcuaConfig, context: SimulatorContext) -> Simulator:
    """A real OPC UA server with the nodes of this entry; `start` opens it."""
    from .simulator import OpcuaSimulator

    return OpcuaSimulator(config, context)


PLUGIN: Plugin[OpcuaConfig, Adapter] = Plugin(OpcuaConfig, build, check=check, simulate=simulate)
