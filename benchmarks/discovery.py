"""What browsing a server and running it again over a tag file cost: 5,000 variables, the server in a process of its own.

The baseline of the walk is what a script on asyncua does: `get_children`, then the attributes node by node.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from asyncua import Client, Server, ua
from report import Figure, interleaved, parser, publish

from adapters.opcua.browse import browse
from adapters.opcua.browsing import BrowseOptions
from adapters.opcua.connection import quiet_library
from gateway.discovery.points import entries
from gateway.discovery.writing import draft
from schemas.plugin import Point

NODES, FOLDERS = 5000, 50
BY_HAND = 500
"""Nodes of the baseline, which is counted per node."""


def serve(told: Connection) -> None:
    """An OPC UA server with analog variables in folders, until it is ended."""

    async def run() -> None:
        quiet_library()
        server = Server()
        await server.init()
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
        space = await server.register_namespace("urn:bench")
        unit = ua.EUInformation(UnitId=4408652, DisplayName=ua.LocalizedText("°C"))
        for number in range(FOLDERS):
            folder = await server.nodes.objects.add_folder(ua.NodeId(f"M{number}", space), ua.QualifiedName(f"M{number}", space))
            for below in range(NODES // FOLDERS):
                node = ua.NodeId(f"M{number}.T{below}", space)
                variable = await folder.add_variable(node, ua.QualifiedName(f"T{below}", space), 1.0)
                await variable.add_property(0, "EngineeringUnits", unit)
        await server.start()
        assert server.bserver is not None
        told.send(f"opc.tcp://127.0.0.1:{server.bserver.port}/plant")
        await asyncio.Event().wait()

    asyncio.run(run())


async def by_hand(endpoint: str) -> None:
    """The first nodes as a script reads them: five attributes and the unit of each, one request at a time."""
    async with Client(endpoint) as client:
        seen = 0
        for folder in await client.nodes.objects.get_children():
            if folder.nodeid.NamespaceIndex == 0:
                continue
            for node in await folder.get_children():
                await node.read_data_type()
                await node.read_attribute(ua.AttributeIds.ValueRank)
                await node.read_attribute(ua.AttributeIds.AccessLevel)
                await node.read_description()
                await node.read_display_name()
                for prop in await node.get_properties():
                    await prop.read_value()
                seen += 1
                if seen == BY_HAND:
                    return


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__ or "").parse_args()
    quiet_library()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        endpoint = ours.recv()
        points: list[Point] = []

        async def walked() -> list[Point]:
            return [one async for one in browse(BrowseOptions(endpoint=endpoint)) if isinstance(one, Point)]

        def walk() -> float:
            nonlocal points
            began = time.perf_counter()
            points = asyncio.run(walked())
            return (time.perf_counter() - began) / NODES

        def script() -> float:
            began = time.perf_counter()
            asyncio.run(by_hand(endpoint))
            return (time.perf_counter() - began) / BY_HAND

        medians = interleaved({"walk": walk, "script": script}, 2 if options.quick else 5)
    finally:
        process.terminate()
        process.join()
    assert len(points) == NODES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tags.yaml"
        draft(path, entries(points, "opcua"), "opcua", scope="", whole=True).write(day="2026-01-01")
        began = time.process_time()
        again = draft(path, entries(points, "opcua"), "opcua", scope="", whole=True)
        again.write(day="2026-01-01")
        second = time.process_time() - began
        assert not again.difference
    publish(
        [
            Figure(f"browse {NODES} variables, wall", medians["walk"] * NODES, "s", "lower", 10.0),
            Figure("per variable", medians["walk"] / medians["script"], "ratio", "lower", 0.25, "node by node with asyncua"),
            Figure(f"second run over a file of {NODES} tags, CPU", second, "s", "lower", 3.0),
        ],
        options,
    )


if __name__ == "__main__":
    main()
