"""A real OPC UA server on loopback with the nodes of one configuration entry; values come from the simulated plant."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast
from urllib.parse import urlsplit

from asyncua import Server, ua

from adapters.base import BoundTag, SimulatorContext, TagConfig
from adapters.polling import Schedule
from adapters.simulation import Signals
from schemas.tags import Tag

from .address import Address, NodeAddress, PathAddress
from .config import OpcuaConfig, OpcuaTag
from .connection import quiet_library
from .plan import compile_plan
from .resolve import node_id

_VARIANTS: Final = {
    "bool": ua.VariantType.Boolean,
    "int8": ua.VariantType.SByte,
    "uint8": ua.VariantType.Byte,
    "int16": ua.VariantType.Int16,
    "uint16": ua.VariantType.UInt16,
    "int32": ua.VariantType.Int32,
    "uint32": ua.VariantType.UInt32,
    "int64": ua.VariantType.Int64,
    "uint64": ua.VariantType.UInt64,
    "float32": ua.VariantType.Float,
    "float64": ua.VariantType.Double,
    "string": ua.VariantType.String,
    "datetime": ua.VariantType.DateTime,
}
_RANGES: Final = {
    f"{sign}int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if not sign else (0, 2**bits - 1)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True, slots=True)
class _Variable:
    node: ua.NodeId
    tag: Tag
    config: OpcuaTag
    type: str

    def value(self, signals: Signals) -> ua.Variant:
        """What the variable shows now, raw: scale and offset undone."""
        shown = signals.value(self.tag)
        kind = _VARIANTS[self.type]
        if self.type == "datetime":
            return ua.Variant(datetime.now(UTC), kind)
        if self.type == "string":
            return ua.Variant(str(shown), kind)
        raw = (float(shown) - self.config.offset) / self.config.scale if not isinstance(shown, str) else 0.0
        if self.type == "bool":
            return ua.Variant(raw != 0, kind)
        if self.type in _RANGES:
            low, high = _RANGES[self.type]
            return ua.Variant(min(max(round(raw), low), high), kind)
        return ua.Variant(raw, kind)


class OpcuaSimulator:
    """Serves the address map without security and for anybody, on loopback; each sampling class is written on its period."""

    def __init__(self, config: OpcuaConfig, context: SimulatorContext) -> None:
        self._context = context
        self._path = urlsplit(config.endpoint).path or "/genba"
        self._plan = compile_plan(context.tags)
        self._server: Server | None = None
        self._writers: list[asyncio.Task[None]] = []
        self._variables: dict[int, _Variable] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return `opc.tcp://host:port/path`. Raises OSError when the port is taken."""
        quiet_library()
        if port:
            with socket.create_server((host, port)):
                pass  # a taken port shows now, not after the second that the address space takes
        server = Server()
        await server.init()
        server.set_server_name(f"genba simulated {self._context.name}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_endpoint(f"opc.tcp://{host}:{port}{self._path}")
        await self._populate(server)
        await server.start()
        self._server = server
        self._writers = [
            asyncio.create_task(
                self._write(server, sampling.period_us, sampling.positions), name=f"simulated {sampling.period_us}"
            )
            for sampling in self._plan.classes
        ]
        assert server.bserver is not None
        return f"opc.tcp://{host}:{server.bserver.port}{self._path}"

    async def aclose(self) -> None:
        """Stop the writers, then the server."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.cancel()
        if writers:
            await asyncio.wait(writers)
        server, self._server = self._server, None
        if server is not None:
            await stop(server)

    async def _populate(self, server: Server) -> None:
        spaces = await _register_namespaces(server, self._plan.addresses)
        folders: dict[tuple[tuple[int, str], ...], ua.NodeId] = {((0, "Objects"),): ua.NodeId(ua.ObjectIds.ObjectsFolder)}
        for position, (bound, address) in enumerate(zip(self._context.tags, self._plan.addresses, strict=True)):
            variable = await _add(server, bound, address, spaces, folders, self._context.signals)
            if variable is not None:
                self._variables[position] = variable

    async def _write(self, server: Server, period_us: int, positions: Sequence[int]) -> None:
        variables = [self._variables[position] for position in positions if position in self._variables]
        schedule = Schedule([period_us])
        while True:
            await schedule.next()
            now = datetime.now(UTC)
            for variable in variables:
                value = ua.DataValue(variable.value(self._context.signals), SourceTimestamp=now, ServerTimestamp=now)
                await server.write_attribute_value(variable.node, value)


async def stop(server: Server) -> None:
    """Stop an asyncua server without waiting for its clock, which ticks once a second."""
    ticker, server.iserver.time_task = server.iserver.time_task, None
    if ticker is not None:
        ticker.cancel()
        await asyncio.wait([ticker])
    await server.stop()
    await asyncio.sleep(0)  # the transports close on the loop's next turn


async def _register_namespaces(server: Server, addresses: Sequence[Address]) -> Mapping[str, int]:
    """Give every namespace URI an index that no address names by number, and every number a namespace."""
    numbers = {address.index for address in addresses if isinstance(address, NodeAddress) and address.uri is None}
    numbers |= {index for address in addresses if isinstance(address, PathAddress) for index, _ in address.steps}
    uris = list(dict.fromkeys(a.uri for a in addresses if isinstance(a, NodeAddress) and a.uri is not None))
    index = 2  # 0 is OPC UA's, 1 the server's own
    while uris or index <= max(numbers, default=0):
        uri = uris.pop(0) if uris and index not in numbers else f"urn:genba:simulated:namespace:{index}"
        index = await server.register_namespace(uri) + 1
    return {uri: number for number, uri in enumerate(await server.get_namespace_array())}


async def _add(
    server: Server,
    bound: BoundTag[TagConfig],
    address: Address,
    spaces: Mapping[str, int],
    folders: dict[tuple[tuple[int, str], ...], ua.NodeId],
    signals: Signals,
) -> _Variable | None:
    """Add the variable of one tag; None for a node that the server has anyway (two tags on one node, the standard's nodes)."""
    config = cast(OpcuaTag, bound.config)
    kind = _type(bound.tag, config)
    if isinstance(address, PathAddress):
        parent = await _folder(server, address.steps[:-1], folders)
        index, name = address.steps[-1]
        node = ua.NodeId("/".join(f"{i}:{n}" for i, n in address.steps), max(index, 1))
    else:
        parent = ua.NodeId(ua.ObjectIds.ObjectsFolder)
        index = spaces[address.uri] if address.uri is not None else address.index
        name, node = str(address.identifier), node_id(address, index)
    variable = _Variable(node, bound.tag, config, kind)
    if node in server.iserver.aspace:
        return None
    first = variable.value(signals)
    await server.get_node(parent).add_variable(node, ua.QualifiedName(name, index), first, first.VariantType)
    return variable


async def _folder(
    server: Server, steps: tuple[tuple[int, str], ...], folders: dict[tuple[tuple[int, str], ...], ua.NodeId]
) -> ua.NodeId:
    if not steps:
        return ua.NodeId(ua.ObjectIds.RootFolder)
    if steps not in folders:
        parent = await _folder(server, steps[:-1], folders)
        index, name = steps[-1]
        node = ua.NodeId("/".join(f"{i}:{n}" for i, n in steps), max(index, 1))
        await server.get_node(parent).add_folder(node, ua.QualifiedName(name, index))
        folders[steps] = node
    return folders[steps]


def _type(tag: Tag, config: OpcuaTag) -> str:
    if config.type != "auto":
        return config.type
    if tag.enum:
        return "int32"
    return "string" if tag.value_type == "text" else "float64"
