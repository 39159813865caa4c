"""Nothing is written to a device: there is no code for it, and nothing of the kind goes over the wire."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncua import Client, ua
from pymodbus.client import AsyncModbusTcpClient

from adapters.s7.wire import frame
from tests.chaos import services
from tests.chaos.bench import device, reading
from tests.chaos.proxy import CUTS, at, before

ROOT = Path(__file__).parents[2]
WRITES = re.compile(
    r"\w*_write_\w+|write_?(coil|register|area|multi|value|attribute|tag|var|params)\w*|(mask_?|read_?)write\w*|\w*write(request|single|multiple|file|area|var|parameters|value)\w*"
    r"|db_write|eb_write|ab_write|mb_write|as_(db|ab|eb|mb)_write|plc_(stop|hot_start|cold_start)|set_plc_\w+|set_(value|writable|attribute)\w*"
    r"|(add|delete)_?nodes\w*|(add|delete)nodesrequest|historyupdate\w*|history_update\w*|call_?method\w*|callrequest|delete_db|fill_db|download\w*",
    re.IGNORECASE,
)
"""Names of pymodbus, asyncua and python-snap7 with which something in a device is changed."""
CONDITIONS = re.compile(r"call_?method\w*|callrequest", re.IGNORECASE)
"""A method call is how OPC UA asks for the conditions that are active (ConditionRefresh); nothing else is called."""


def writes(source: str) -> Iterator[str]:
    """The names in a source by which something would be written to a device."""
    for node in ast.walk(ast.parse(source)):
        names = []
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names = [name]
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names = [alias.name.rpartition(".")[2] for alias in aliases]
        for name in names:
            if WRITES.fullmatch(name.lstrip("_")) and not (
                CONDITIONS.fullmatch(name.lstrip("_")) and "ConditionRefresh" in source
            ):
                yield f"{name} (line {getattr(node, 'lineno', '?')})"


def test_no_adapter_names_anything_that_writes() -> None:
    files = [file for file in sorted((ROOT / "adapters").rglob("*.py")) if file.name != "simulator.py"]
    assert len(files) > 30
    found = {str(file.relative_to(ROOT)): list(writes(file.read_text(encoding="utf-8"))) for file in files}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "from pymodbus.pdu.register_message import WriteSingleRegisterRequest",
        "from pymodbus.pdu.register_message import ReadWriteMultipleRegistersRequest as ask",
        "from pymodbus.pdu.register_message import MaskWriteRegisterRequest",
        "async def f(c): await c.write_registers(1, [2])",
        "def f(): return S7Protocol().build_write_request()",
        "def f(c): c.db_write(1, 0, b'x')",
        "request = ua.WriteRequest()",
        "async def f(n): await n.write_value(1)",
        "async def f(n): await n.set_value(1)",
        "request = ua.CallRequest()",
        "async def f(s): await s.history_update(p)",
    ],
)
def test_a_name_that_writes_is_seen(source: str) -> None:
    assert list(writes(source)), source


def test_a_simulator_is_what_writes() -> None:
    """The control in the tree: the simulated OPC UA server sets its own variables."""
    assert list(writes((ROOT / "adapters/opcua/simulator.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", services.READING)
async def test_what_goes_over_the_wire_only_reads(kind: str, tmp_path: Path) -> None:
    asked: set[int | None] = set()
    async with device(kind) as endpoint, before(endpoint, CUTS[kind]) as proxy:
        proxy.heard = lambda message: asked.add(services.OF[kind](message))
        async with reading(kind, at(proxy, endpoint), tmp_path) as seen, asyncio.timeout(20):
            while seen.rows["good"] < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            proxy.cut_off()
            while seen.rows["gap"] < 24:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    asked.discard(None)
    assert len(asked) >= {"modbus": 1, "rtu": 1, "s7": 2, "opcua": 8}[kind], "the record is empty"
    assert asked <= services.READING[kind], f"{asked - services.READING[kind]} is no reading"


async def test_a_write_that_goes_over_the_wire_is_seen() -> None:
    """The control: other clients, which write."""
    asked: dict[str, set[int | None]] = {"modbus": set(), "s7": set(), "opcua": set()}
    async with device("modbus") as endpoint, before(endpoint, CUTS["modbus"]) as proxy:
        proxy.heard = lambda message: asked["modbus"].add(services.modbus(message))
        client = AsyncModbusTcpClient("127.0.0.1", port=proxy.port, timeout=1, retries=0, reconnect_delay=0)
        await client.connect()
        await client.write_register(0, 1, device_id=1)
        client.close()
        await asyncio.sleep(0.05)
    async with device("s7") as endpoint, before(endpoint, CUTS["s7"]) as proxy:
        proxy.heard = lambda message: asked["s7"].add(services.s7(message))
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        parameters = bytes.fromhex("0501120a10020001000184000000")
        writer.write(frame(b"\x32\x01\0\0\0\x01" + len(parameters).to_bytes(2) + b"\0\5" + parameters + b"\0\4\0\x08\x07"))
        await asyncio.sleep(0.1)
        writer.close()
    async with device("opcua") as endpoint, before(endpoint, CUTS["opcua"]) as proxy:
        proxy.heard = lambda message: asked["opcua"].add(services.opcua(message))
        async with Client(at(proxy, endpoint), timeout=4) as other:
            value = ua.DataValue(ua.Variant(1.0, ua.VariantType.Double))
            request = ua.WriteRequest()
            request.Parameters.NodesToWrite = [
                ua.WriteValue(NodeId=ua.NodeId("W0", 2), AttributeId=ua.AttributeIds.Value, Value=value)
            ]
            await other.uaclient.protocol.send_request(request)
    for kind, codes in asked.items():
        assert {code for code in codes if code is not None} - services.READING[kind], kind
