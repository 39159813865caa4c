"""OPC UA: subscriptions with one sampling class per scan, decoded with numpy straight from the publish answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.plugin import Discovery, Doctor, Plugin

from .access import OpcuaAccess
from .browsing import SCOPE, BrowseOptions
from .config import OpcuaConfig, check

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from adapters.base import Adapter, AdapterContext, Simulator, SimulatorContext
    from schemas.certificates import TrustStore
    from schemas.plugin import Check, Place, Point, Settings


def build(config: OpcuaConfig, context: AdapterContext) -> Adapter:
    """The adapter of one OPC UA server; does no I/O."""
    from .adapter import OpcuaAdapter

    return OpcuaAdapter(config, context)


def simulate(config: OpcuaConfig, context: SimulatorContext) -> Simulator:
    """A real OPC UA server with the nodes of this entry; `start` opens it."""
    from .simulator import OpcuaSimulator

    return OpcuaSimulator(config, context)


def trust(config: OpcuaConfig | None, place: Place) -> TrustStore | None:
    """Whom an entry trusts; None where it uses no security. Without an entry: the trust list in a directory."""
    from .store import Store, at

    if config is None:
        return at(place.directory)
    if not config.secured and config.auth is None:
        return None
    named = config.security.trust if config.security is not None else None
    own = place.directory / "pki"
    return Store(place.base / named if named else own, own if config.secured else None, f"genba {place.name}")


def examine(options: OpcuaAccess) -> AsyncGenerator[Check, None]:
    """Why a server cannot be read, one check after the other."""
    from .doctor import examine

    return examine(options)


def walk(options: BrowseOptions) -> AsyncGenerator[Check | Point | Settings, None]:
    """Every variable of a server, as it would be written as a tag."""
    from .browse import browse

    return browse(options)


PLUGIN: Plugin[OpcuaConfig, Adapter] = Plugin(
    OpcuaConfig,
    build,
    check=check,
    simulate=simulate,
    doctor=Doctor(OpcuaAccess, examine, of=OpcuaAccess.of),
    browse=Discovery(BrowseOptions, walk, of=BrowseOptions.of, scope=SCOPE),
    trust=trust,
)
