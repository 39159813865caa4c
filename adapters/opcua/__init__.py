"""OPC UA: subscriptions with one sampling class per scan, decoded with numpy straight from the publish answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Discovery, Plugin

from .browsing import SCOPE, BrowseOptions
from .config import OpcuaConfig, check

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext
    from schemas.plugin import Check, Point, Settings


def build(config: OpcuaConfig, context: AdapterContext) -> Adapter:
    """The adapter of one OPC UA server; does no I/O."""
    from .adapter import OpcuaAdapter

    return OpcuaAdapter(config, context)


def simulate(config: OpcuaConfig, context: SimulatorContext) -> Simulator:
    """A real OPC UA server with the nodes of this entry; `start` opens it."""
    from .simulator import OpcuaSimulator

    return OpcuaSimulator(config, context)


def walk(options: BrowseOptions) -> AsyncGenerator[Check | Point | Settings, None]:
    """Every variable of a server, as it would be written as a tag."""
    from .browse import browse

    return browse(options)


PLUGIN: Plugin[OpcuaConfig, Adapter] = Plugin(
    OpcuaConfig,
    build,
    check=check,
    simulate=simulate,
    browse=Discovery(BrowseOptions, walk, of=BrowseOptions.of, scope=SCOPE),
)
