"""An asyncua server with what a browser must cope with: units, ranges, states, arrays, structures, closed variables, a cycle, limits."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from asyncua import Node, Server, ua

from adapters.opcua.connection import quiet_library
from adapters.opcua.simulator import stop

PLANT = "http://acme.example/plant;1"
OTHER = "urn:acme:other"
CEFACT = "http://www.opcfoundation.org/UA/units/un/cefact"


@asynccontextmanager
async def served(*, extra_namespaces: int = 0, many: int = 0) -> AsyncIterator[tuple[str, Server]]:
    """The server and its endpoint. `extra_namespaces` come first, so that the plant's number is another one."""
    quiet_library()
    server = Server()
    await server.init()
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    for number in range(extra_namespaces):
        await server.register_namespace(f"urn:acme:before:{number}")
    await populate(server, many)
    await server.start()
    try:
        assert server.bserver is not None
        yield f"opc.tcp://127.0.0.1:{server.bserver.port}/plant", server
    finally:
        await stop(server)


@contextmanager
def running(**options: int) -> Iterator[str]:
    """The endpoint of such a server on a loop and thread of its own, for many tests: starting one takes a second."""
    told: queue.Queue[str | BaseException] = queue.Queue()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def serve() -> None:
        try:
            async with served(**options) as (endpoint, _):
                told.put(endpoint)
                await stopping.wait()
        except BaseException as error:  # the test must not wait for ever
            told.put(error)
            raise

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    first = told.get(timeout=30)
    try:
        if isinstance(first, BaseException):
            raise first
        yield first
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()


async def populate(server: Server, many: int) -> None:
    plant = await server.register_namespace(PLANT)
    other = await server.register_namespace(OTHER)
    robot = await server.nodes.objects.add_folder(ua.NodeId("Robot 3", plant), ua.QualifiedName("Robot 3", plant))
    axis = await robot.add_object(ua.NodeId("Robot 3.Axis1", plant), ua.QualifiedName("Axis1", plant))

    async def add(parent: Node, name: str, value: object, kind: ua.VariantType, node: str | int = "", space: int = plant) -> Node:
        return await parent.add_variable(ua.NodeId(node or f"Robot 3.{name}", space), ua.QualifiedName(name, space), value, kind)

    temp = await add(axis, "MotorTemp", 21.5, ua.VariantType.Double)
    await temp.add_property(0, "EngineeringUnits", unit(4408652, "°C"))
    await temp.add_property(0, "EURange", ua.Range(Low=-20.0, High=120.0))
    await temp.write_attribute(ua.AttributeIds.DisplayName, value(ua.LocalizedText("主モータ温度")))
    await temp.write_attribute(ua.AttributeIds.Description, value(ua.LocalizedText("Winding of the\nmain motor")))
    torque = await add(axis, "Torque", 1.5, ua.VariantType.Float)
    await torque.add_property(0, "EngineeringUnits", unit(0, "Nm", space="urn:vendor"))
    odd = await add(axis, "Odd", 1, ua.VariantType.Int16)
    await odd.add_property(0, "EngineeringUnits", unit(0, "furlongs/fortnight", space="urn:vendor"))
    mode = await add(robot, "Mode", 1, ua.VariantType.Int32)
    await mode.add_property(0, "EnumStrings", [ua.LocalizedText("off"), ua.LocalizedText("auto")])
    door = await add(robot, "Door", True, ua.VariantType.Boolean)
    await door.add_property(0, "FalseState", ua.LocalizedText("open"))
    await door.add_property(0, "TrueState", ua.LocalizedText("closed"))
    await add(robot, "Program", "main", ua.VariantType.String)
    await add(robot, "Cycles", 7, ua.VariantType.UInt64, node=1234, space=other)
    await add(robot, "Profile", [1.0, 2.0], ua.VariantType.Double)
    await add(robot, "Picture", b"\x00", ua.VariantType.ByteString)
    await add(robot, "Limits", ua.Range(Low=0.0, High=1.0), ua.VariantType.ExtensionObject)
    closed = await add(robot, "Closed", 1.0, ua.VariantType.Double)
    await closed.write_attribute(ua.AttributeIds.AccessLevel, ua.DataValue(ua.Variant(0, ua.VariantType.Byte)))
    await closed.write_attribute(ua.AttributeIds.UserAccessLevel, ua.DataValue(ua.Variant(0, ua.VariantType.Byte)))
    loop = ua.ReferenceDescription(
        ReferenceTypeId=ua.NodeId(ua.ObjectIds.Organizes),
        IsForward=True,
        NodeId=robot.nodeid,
        BrowseName=ua.QualifiedName("Robot 3", plant),
        DisplayName=ua.LocalizedText("Robot 3"),
        NodeClass=ua.NodeClass.Object,
    )
    server.iserver.aspace[axis.nodeid].references.append(loop)  # the library refuses to add a cycle
    if many:
        folder = await server.nodes.objects.add_folder(ua.NodeId("Many", plant), ua.QualifiedName("Many", plant))
        for number in range(many):
            await folder.add_variable(ua.NodeId(f"Many.{number}", plant), ua.QualifiedName(f"v{number}", plant), float(number))


def unit(unit_id: int, name: str, space: str = CEFACT) -> ua.EUInformation:
    return ua.EUInformation(NamespaceUri=space, UnitId=unit_id, DisplayName=ua.LocalizedText(name))


def value(content: object) -> ua.DataValue:
    return ua.DataValue(ua.Variant(content))
