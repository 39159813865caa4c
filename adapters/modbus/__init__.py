"""Modbus: devices over TCP and on serial lines, read in few block requests and decoded with numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from schemas.plugin import Check, Discovery, Doctor, Finding, PlannedRequest, Plugin, Point, Settings

from .config import ModbusConfig
from .config import check as check_fields
from .options import ModbusExamination, ModbusProbe, examination_of, probe_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from adapters.base import Adapter, AdapterContext, BoundTag, Simulator, SimulatorContext, TagConfig


def build(config: ModbusConfig, context: AdapterContext) -> Adapter:
    """The adapter of one Modbus connection; does no I/O."""
    from .adapter import ModbusAdapter

    return ModbusAdapter(config, context)


def check(config: ModbusConfig) -> Iterator[Finding]:
    """What needs several fields: overlapping addresses, and scan classes for which a serial line is too slow."""
    from .budget import check_line

    yield from check_fields(config)
    yield from check_line(config)


def plan(config: ModbusConfig, tags: Sequence[BoundTag[TagConfig]]) -> Sequence[PlannedRequest]:
    """Every request on the wire, with its time on a serial line."""
    from .budget import requests_of

    return requests_of(config, tags)


def simulate(config: ModbusConfig, context: SimulatorContext) -> Simulator:
    """A Modbus TCP server with the address map of this entry; `start` opens it."""
    from .simulator import ModbusSimulator

    return ModbusSimulator(config, context)


def walk(options: ModbusProbe) -> AsyncGenerator[Check | Point | Settings, None]:
    """What a device has: units, identity, limits, readable addresses and what they probably mean."""
    from .probe import walk

    return walk(options)


def examine(options: ModbusExamination) -> AsyncGenerator[Check, None]:
    """Why a device cannot be read, one check after the other."""
    from .doctor import examine

    return examine(options)


PLUGIN: Plugin[ModbusConfig, Adapter] = Plugin(
    ModbusConfig,
    build,
    check=check,
    simulate=simulate,
    probe=Discovery(ModbusProbe, walk, probe_of, scope=("unit", "range", "step")),
    doctor=Doctor(ModbusExamination, examine, examination_of),
    plan=plan,
)
