"""Modbus: devices over TCP and on serial lines, read in few block requests and decoded with numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Plugin

from .config import ModbusConfig, check

if TYPE_CHECKING:
    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext


def build(config: ModbusConfig, context: AdapterContext) -> Adapter:
    """The adapter of one Modbus connection; does no I/O."""
    from .adapter import ModbusAdapter

    return ModbusAdapter(config, context)


def simulate(config: ModbusConfig, context: SimulatorContext) -> Simulator:
    """A Modbus TCP server with the address map of this entry; `start` opens it."""
    from .simulator import ModbusSimulator

    return ModbusSimulator(config, context)


PLUGIN: Plugin[ModbusConfig, Adapter] = Plugin(ModbusConfig, build, check=check, simulate=simulate)
