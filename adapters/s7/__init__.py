"""Siemens S7: classic S7 communication with S7-300, 400, 1200 and 1500, read in blocks over one connection per PLC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import S7Config, check

if TYPE_CHECKING:
    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext


def build(config: S7Config, context: AdapterContext) -> Adapter:
    """The adapter of one PLC; does no I/O."""
    from .adapter import S7Adapter

    return S7Adapter(config, context)


def simulate(config: S7Config, context: SimulatorContext) -> Simulator:
    """A real S7 server with the address map of this entry; `start` opens it."""
    from .simulator import S7Simulator

    return S7Simulator(config, context)


PLUGIN: Plugin[S7Config, Adapter] = Plugin(S7Config, build, check=check, simulate=simulate)
