"""A real OPC UA server on loopback with the nodes of one configuration entry; values come from the simulated plant."""

from __future__ import annotations

import asyncio
import math
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
from schemas import quality as q
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


_FLOAT_MAX: Final = (2 - 2**-23) * 2.0**127
_EMPTY: Final = {"bool": False, "string": "", "float32": 0.0, "float64": 0.0, "datetime": datetime(1970, 1, 1, tzinfo=UTC)}


@dataclass(frozen=True, slots=True)
class _Variable:
    node: ua.NodeId
    tag: Tag
    config: OpcuaTag
    type: str

    @property
    def empty(self) -> ua.Variant:
        """A value of its type."""
        return ua.Variant(_EMPTY.get(self.type, 0), _VARIANTS[self.type])

    def value(self, signals: Signals, *, watched: bool) -> ua.DataValue:
        """What the variable shows now, raw: scale and offset undone. Bad where its type has no value for that.

        A recording on a 64-bit floating point variable moves on by a row each time somebody is `watched`ing, and waits else.
        """
        stepwise = self.type == "float64"
        waiting = signals.upcoming(self.tag) if stepwise and not watched else None
        shown = waiting if waiting is not None else signals.value(self.tag, step=stepwise, boolean=self.type == "bool")
        now = datetime.now(UTC)
        raw = now if self.type == "datetime" else self._raw(shown)
        if raw is None:
            return bad(q.BAD_SENSOR_FAILURE)
        return ua.DataValue(ua.Variant(raw, _VARIANTS[self.type]), SourceTimestamp=now, ServerTimestamp=now)

    def _raw(self, shown: float | str) -> float | str | None:
        if self.type == "string":
            return str(shown)
        if self.type == "bool":
            return bool(shown)
        number = 0.0 if isinstance(shown, str) else shown
        if self.config.scale != 1 or self.config.offset != 0:
            number = (number - self.config.offset) / self.config.scale
        if self.type not in _RANGES:
            beyond = self.type == "float32" and math.isfinite(number)
            return min(max(float(number), -_FLOAT_MAX), _FLOAT_MAX) if beyond else float(number)
        low, high = _RANGES[self.type]
        return min(max(round(number), low), high) if math.isfinite(number) else None


def bad(status: int) -> ua.DataValue:
    """A data value without a value."""
    now = datetime.now(UTC)
    return ua.DataValue(ua.Variant(), ua.StatusCode(status), now, now)


class OpcuaSimulator:
    """Serves the address map without security and for anybody, on loopback; each sampling class is written on its period.

    Where writing fails the tags of that class turn bad (BadDeviceFailure), so that nobody takes old values for new ones, and
    `aclose` raises.
    """

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
        """Stop the writers, then the server. Raises RuntimeError, once, when a writer had failed before: a bug."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.cancel()
        if writers:
            await asyncio.wait(writers)
        server, self._server = self._server, None
        if server is not None:
            await stop(server)
        failed = next((error for w in writers if not w.cancelled() and (error := w.exception()) is not None), None)
        if failed is not None:
            raise RuntimeError(f"the simulated values of {self._context.name} stopped: {failed}") from failed

    async def _populate(self, server: Server) -> None:
        spaces = await _register_namespaces(server, self._plan.addresses)
        folders: dict[tuple[tuple[int, str], ...], ua.NodeId] = {((0, "Objects"),): ua.NodeId(ua.ObjectIds.ObjectsFolder)}
        for position, (bound, address) in enumerate(zip(self._context.tags, self._plan.addresses, strict=True)):
            variable = await _add(server, bound, address, spaces, folders, self._context.signals)
            if variable is not None:
                self._variables[position] = variable

    async def _write(self, server: Server, period_us: int, positions: Sequence[int]) -> None:
        variables = [self._variables[position] for position in positions if position in self._variables]
        space, signals = server.iserver.aspace, self._context.signals
        attributes = [space[variable.node].attributes[ua.AttributeIds.Value] for variable in variables]
        before = [False] * len(variables)  # whether somebody watched at the slot before
        schedule = Schedule([period_us])
        try:
            while True:
                await schedule.next()
                for number, (variable, attribute) in enumerate(zip(variables, attributes, strict=True)):
                    watched, before[number] = before[number], bool(attribute.datachange_callbacks)
                    value = variable.value(signals, watched=before[number])
                    if watched or not before[number]:  # who has just subscribed was sent this row at once
                        await server.write_attribute_value(variable.node, value)
        except Exception:
            for variable in variables:
                await server.write_attribute_value(variable.node, bad(q.BAD_DEVICE_FAILURE))
            raise


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
    numbers |= {space for a in addresses if isinstance(a, PathAddress) for space, _ in a.steps if isinstance(space, int)}
    named = [a.uris if isinstance(a, PathAddress) else (a.uri,) if a.uri is not None else () for a in addresses]
    uris = list(dict.fromkeys(uri for some in named for uri in some))
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
        steps = address.indexed(spaces)
        assert steps is not None, "every namespace was registered"
        parent = await _folder(server, steps[:-1], folders)
        index, name = steps[-1]
        node = ua.NodeId("/".join(f"{i}:{n}" for i, n in steps), max(index, 1))
    else:
        parent = ua.NodeId(ua.ObjectIds.ObjectsFolder)
        index = spaces[address.uri] if address.uri is not None else address.index
        name, node = str(address.identifier), node_id(address, index)
    variable = _Variable(node, bound.tag, config, kind)
    if node in server.iserver.aspace:
        return None
    await server.get_node(parent).add_variable(node, ua.QualifiedName(name, index), variable.empty, _VARIANTS[kind])
    await server.write_attribute_value(node, variable.value(signals, watched=False))
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
