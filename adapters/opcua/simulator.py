"""A real OPC UA server on loopback with the nodes of one configuration entry; values come from the simulated plant."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit

from asyncua import Server, ua

from adapters.base import SimulatorContext
from adapters.polling import Schedule
from schemas import quality as q

from .address import Address, NodeAddress, PathAddress
from .config import OpcuaConfig, OpcuaTag
from .connection import quiet_library
from .plan import Plan, compile_plan
from .resolve import node_id
from .simulated import Layout, Scalar, Variable, Whole, bad, type_of


class OpcuaSimulator:
    """Serves the address map without security and for anybody, on loopback; each sampling class is written on its period.

    Where writing fails the tags of that class turn bad (BadDeviceFailure), so that nobody takes old values for new ones, and
    `aclose` raises.
    """

    def __init__(self, config: OpcuaConfig, context: SimulatorContext) -> None:
        self._context = context
        self._path = urlsplit(config.endpoint).path or "/genba"
        self._plan = _one_variable_each(compile_plan(context.tags))
        self._server: Server | None = None
        self._writers: list[asyncio.Task[None]] = []
        self._variables: dict[int, Variable] = {}

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
            for sampling in (*self._plan.classes, *self._plan.polls)
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
        every = (p for sampling in (*self._plan.classes, *self._plan.polls) for p in sampling.positions)
        for position in sorted(every):
            variable = await _add(server, self._context, self._plan, position, spaces, folders)
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


def _one_variable_each(plan: Plan) -> Plan:
    """`plan` with all parts of one address below the first of them, also where their options differ, so that they are read apart."""
    first: dict[Address, int] = {}
    parts: dict[int, tuple[int, ...]] = {}
    for position, members in sorted(plan.parts.items()):
        whole = first.setdefault(plan.addresses[position], position)
        parts[whole] = (*parts.get(whole, ()), *members)
    return replace(plan, parts=parts)


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
    context: SimulatorContext,
    plan: Plan,
    position: int,
    spaces: Mapping[str, int],
    folders: dict[tuple[tuple[int, str], ...], ua.NodeId],
) -> Variable | None:
    """Add one variable; None for a node that the server has anyway (two tags on one node, the standard's nodes)."""
    address = plan.addresses[position]
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
    if node in server.iserver.aspace:
        return None
    variable = await _variable(server, context, plan, position, node)
    data_type = variable.layout.structures[-1].type_id if isinstance(variable, Whole) and variable.layout.structures else None
    await server.get_node(parent).add_variable(
        node, ua.QualifiedName(name, index), variable.empty, variable.empty.VariantType, data_type
    )
    await server.write_attribute_value(node, variable.value(context.signals, watched=False))
    return variable


async def _variable(server: Server, context: SimulatorContext, plan: Plan, position: int, node: ua.NodeId) -> Variable:
    """One tag, or the whole that several tags are parts of, its structures described."""

    def scalar(at: int) -> Scalar:
        bound = context.tags[at]
        config = cast(OpcuaTag, bound.config)
        return Scalar(node, bound.tag, config, type_of(bound.tag, config))

    if position not in plan.parts:
        return scalar(position)
    layout = Layout()
    leaves = {plan.selections[part]: scalar(part) for part in plan.parts[position]}
    for way, leaf in leaves.items():
        layout.put(way, leaf)
    for number, structure in enumerate(layout.structures):
        name = f"Simulated{position}_{number}"
        structure.type_id = ua.NodeId(name, 1)
        structure.encoding_id = ua.NodeId(f"{name}.Binary", 1)
        made = await server.get_node(ua.NodeId(ua.ObjectIds.Structure)).add_data_type(
            structure.type_id, ua.QualifiedName(name, 1)
        )
        definition = ua.StructureDefinition(
            DefaultEncodingId=structure.encoding_id,
            BaseDataType=ua.NodeId(ua.ObjectIds.Structure),
            StructureType=ua.StructureType.Structure,
            Fields=[one.definition(field) for field, one in structure.fields.items()],
        )
        await made.write_data_type_definition(definition)
    return Whole(node, layout, leaves)


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
