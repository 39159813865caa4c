"""Siemens S7-1200 and 1500 by symbol, optimised blocks included, over S7CommPlus. Experimental; an extra of the installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from schemas.plugin import Check, Discovery, Doctor, Plugin, Point, Settings

from .access import S7PlusAccess, S7PlusExamination, access_of, examination_of
from .config import INSTALL, LIBRARY, S7PlusConfig, check, installed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext


def build(config: S7PlusConfig, context: AdapterContext) -> Adapter:
    """The adapter of one PLC; does no I/O."""
    from .adapter import S7PlusAdapter

    return S7PlusAdapter(config, context)


def simulate(config: S7PlusConfig, context: SimulatorContext) -> Simulator:
    """A simulated PLC with the symbols of this entry; `start` opens it. Raises ConfigError without the library."""
    _must_be_installed()
    from .simulator import S7PlusSimulator

    return S7PlusSimulator(config, context)


def examine(options: S7PlusExamination) -> AsyncGenerator[Check, None]:
    """Why a PLC cannot be read by symbol, one check after the other. Raises ConfigError without the library."""
    _must_be_installed()
    from .walk import examine

    return examine(options)


def browse(options: S7PlusAccess) -> AsyncGenerator[Check | Point | Settings, None]:
    """Every variable of a PLC. Raises ConfigError without the library."""
    _must_be_installed()
    from .walk import browse

    return browse(options)


def _must_be_installed() -> None:
    if not installed():
        raise ConfigError(f"s7plus needs the package {LIBRARY}, which is not installed", hint=INSTALL)


PLUGIN: Plugin[S7PlusConfig, Adapter] = Plugin(
    S7PlusConfig,
    build,
    check=check,
    simulate=simulate,
    doctor=Doctor(S7PlusExamination, examine, of=examination_of),
    browse=Discovery(S7PlusAccess, browse, of=access_of),
)
