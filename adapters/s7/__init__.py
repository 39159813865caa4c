"""Siemens S7: classic S7 communication with S7-300, 400, 1200 and 1500, read in blocks over one connection per PLC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Check, Doctor, PlannedRequest, Plugin

from .config import S7Config, check
from .examination import S7Examination, examination_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from adapters.base import Adapter, AdapterContext, BoundTag, Simulator, SimulatorContext, TagConfig


def build(config: S7Config, context: AdapterContext) -> Adapter:
    """The adapter of one PLC; does no I/O."""
    from .adapter import S7Adapter

    return S7Adapter(config, context)


def simulate(config: S7Config, context: SimulatorContext) -> Simulator:
    """A real S7 server with the address map of this entry; `start` opens it."""
    from .simulator import S7Simulator

    return S7Simulator(config, context)


def examine(options: S7Examination) -> AsyncGenerator[Check, None]:
    """Why a PLC cannot be read, one check after the other."""
    from .doctor import examine

    return examine(options)


def plan(config: S7Config, tags: Sequence[BoundTag[TagConfig]]) -> Sequence[PlannedRequest]:
    """Every request of one poll of each scan class."""
    from .requests import requests_of

    return requests_of(config, tags)


PLUGIN: Plugin[S7Config, Adapter] = Plugin(
    S7Config, build, check=check, simulate=simulate, doctor=Doctor(S7Examination, examine, of=examination_of), plan=plan
)
