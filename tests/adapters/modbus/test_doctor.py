"""The doctor names the one cause, with the way out: against devices that have it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import termios
import tty
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.modbus import PLUGIN, ModbusConfig, ModbusExamination
from schemas.plugin import Check, Place
from tests.adapters.modbus.lines import Line, on_pty, on_tcp
from tests.adapters.modbus.mapped import Mapped, put, serving, words
from tests.adapters.modbus.test_tls import server
from tests.authority import Authority


async def examine(endpoint: str, **options: Any) -> dict[str, Check]:
    """Checks by name, in order."""
    assert PLUGIN.doctor is not None
    given = ModbusExamination.model_validate({"endpoint": endpoint, "timeout": "100ms", **options})
    async with asyncio.timeout(20), aclosing(PLUGIN.doctor.examine(given)) as checks:
        return {check.name: check async for check in checks}


def failures(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.result == "failure"]


def floats() -> Mapped:
    """21.5 in every order at 0, 10, 20 and 30; more registers at 100 to 109."""
    table = words(range(40), range(100, 110))
    a, b, c, d = struct.pack(">f", 21.5)
    for at, data in ((0, (a, b, c, d)), (10, (c, d, a, b)), (20, (b, a, d, c)), (30, (d, c, b, a))):
        put(table, at, bytes(data))
    return Mapped({3: table, 4: words(range(200, 210)), 1: words(range(8))})


async def test_a_device_that_can_be_read_is_all_ok_and_its_values_are_told() -> None:
    async with serving(floats()) as device:
        checks = await examine(device.endpoint, address=["hr:0:float32", "hr:100", "co:3", "40001:float32"])
    assert failures(checks) == []
    assert list(checks)[:3] == ["network", "Modbus", "unit 1"]
    assert checks["hr:0:float32"].found == "can be read: 21.5"
    assert device.functions <= {1, 2, 3, 4}


async def test_nothing_named_says_what_could_be() -> None:
    async with serving(floats()) as device:
        assert "--address hr:100:float32" in (await examine(device.endpoint))["addresses"].way_out


async def test_a_closed_port_is_the_network() -> None:
    async with serving(floats()) as device:
        pass
    checks = await examine(device.endpoint)
    assert failures(checks) == ["network"]
    assert "refuses port" in checks["network"].found


async def test_a_closed_udp_port_is_the_network_and_no_question_of_units() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    checks = await examine(f"udp://127.0.0.1:{port}")
    assert failures(checks) == ["network"]
    assert f"refuses UDP port {port}" in checks["network"].found


@pytest.mark.parametrize("order", ["CDAB", "BADC", "DCBA"])
async def test_a_number_in_another_order_is_told(order: str) -> None:
    at = {"CDAB": 10, "BADC": 20, "DCBA": 30}[order]
    async with serving(floats()) as device:
        check = (await examine(device.endpoint, address=[f"hr:{at}:float32"]))[f"hr:{at}:float32"]
    assert (check.result, check.way_out) == ("warning", f"write `order: {order}`")
    assert f"as {order} it is 21.5" in check.found


async def test_one_register_off_is_told_by_value_and_by_refusal() -> None:
    table = words(range(50, 60))
    put(table, 50, struct.pack(">ff", 21.53, 1450.6))
    async with serving(Mapped({3: table})) as device:
        checks = await examine(device.endpoint, address=["hr:60:uint16", "hr:49", "hr:53:float32"])
    assert failures(checks) == ["hr:60:uint16", "hr:49"]
    assert "hr:59 can be read" in checks["hr:60:uint16"].found
    assert "count from 1" in checks["hr:60:uint16"].way_out
    assert "hr:50 can be read" in checks["hr:49"].found
    assert "hr:52 is 1450.6" in checks["hr:53:float32"].found


async def test_the_other_table_and_a_value_that_is_too_wide_are_told() -> None:
    async with serving(floats()) as device:
        checks = await examine(device.endpoint, address=["hr:204", "hr:109:float32", "hr:900", "di:0"])
    assert "ir:204 can be read" in checks["hr:204"].found
    assert "hr:109 alone can be read" in checks["hr:109:float32"].found
    assert checks["hr:900"].found == "exception 2: illegal data address"
    assert "genba probe modbus" in checks["hr:900"].way_out
    assert "co:0 can be read" in checks["di:0"].found


@pytest.mark.parametrize(("code", "said"), [(11, "the unit behind it is silent"), (10, "routing table")])
async def test_a_gateway_that_does_not_reach_the_unit_is_told(code: int, said: str) -> None:
    async with serving(Mapped({3: {}}, answer=lambda _unit, pdu: bytes((pdu[0] | 0x80, code)))) as device:
        checks = await examine(device.endpoint, unit=7, address=["hr:0"])
    assert failures(checks) == ["unit 7"]
    assert said in checks["unit 7"].way_out
    assert "hr:0" not in checks


async def test_another_unit_that_answers_is_named() -> None:
    async with serving(Mapped({3: words(range(10))}, units=(255,), silent=True)) as device:
        checks = await examine(device.endpoint)
    assert failures(checks) == ["unit 1"]
    assert checks["unit 1"].way_out == "write `unit_id: 255`"


async def test_a_silent_device_says_what_to_look_at() -> None:
    async with serving(Mapped(units=(), silent=True)) as device:
        checks = await examine(device.endpoint, timeout="50ms")
    assert failures(checks) == ["unit 1"]
    assert "unit_id" in checks["unit 1"].way_out


async def test_a_converter_that_speaks_rtu_is_recognised_and_the_other_way_round() -> None:
    async with on_tcp(Line()) as line:
        checks = await examine(line.endpoint.replace("rtu+tcp", "tcp"))
        assert failures(checks) == ["Modbus"]
        assert checks["Modbus"].way_out == f"write `endpoint: {line.endpoint}`"
    async with serving(floats()) as device:
        checks = await examine(device.endpoint.replace("tcp", "rtu+tcp"))
        assert checks["Modbus"].way_out == f"write `endpoint: {device.endpoint}`"


@asynccontextmanager
async def listener(respond: bytes | None) -> AsyncIterator[str]:
    """A server that answers whatever comes with `respond`, or hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while respond is not None and await reader.read(1000):
            writer.write(respond)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    srv = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with srv:
        yield f"tcp://127.0.0.1:{srv.sockets[0].getsockname()[1]}"
        srv.close()
        await asyncio.sleep(0.05)


async def test_something_else_at_the_port_is_told() -> None:
    async with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        checks = await examine(endpoint)
    assert failures(checks) == ["Modbus"]
    assert "belongs to something else" in checks["Modbus"].way_out


async def test_a_device_that_hangs_up_is_told() -> None:
    async with listener(None) as endpoint:
        checks = await examine(endpoint)
    assert failures(checks) == ["Modbus"]
    assert "allowed IP addresses" in checks["Modbus"].way_out


async def test_tls_that_fails_names_the_option(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "plant-ca")
    device = floats()
    srv = await asyncio.start_server(device.serve, "127.0.0.1", 0, ssl=server(authority))
    port = srv.sockets[0].getsockname()[1]
    async with srv:
        checks = await examine(f"tls://127.0.0.1:{port}", timeout="2s")
        assert failures(checks) == ["TLS"]
        assert "`ca`" in checks["TLS"].way_out
        checks = await examine(f"tls://127.0.0.1:{port}", timeout="2s", ca=str(tmp_path / "plant-ca.pem"))
        assert failures(checks) == [], checks
        assert checks["TLS"].found == "the device's certificate is verified"
        checks = await examine(f"tls://127.0.0.1:{port}", timeout="2s", insecure=True)
        assert checks["TLS"].result == "warning"
        srv.close()
        for client in device.clients:
            client.close()
        await asyncio.sleep(0.05)


async def test_a_line_at_another_speed_is_found_out() -> None:
    class At9600(Line):
        fd = -1

        def take(self, data: bytes, write: Any) -> None:
            speed = termios.tcgetattr(self.fd)[4]
            if speed == termios.B9600:
                super().take(data, write)

    line = At9600()
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    line.fd = master
    loop = asyncio.get_running_loop()

    def ready() -> None:
        with suppress(OSError):
            line.take(os.read(master, 4096), lambda data: os.write(master, data))

    loop.add_reader(master, ready)
    try:
        checks = await examine(f"rtu:{os.ttyname(slave)}", timeout="50ms", baud=19200, address=["hr:5"])
        assert failures(checks) == ["line"]
        assert "9600 baud" in checks["line"].found
        assert checks["line"].way_out.startswith("write `serial: {baud: 9600, parity:")
        checks = await examine(os.ttyname(slave), timeout="50ms", baud=9600, parity="none", address=["hr:5"])
        assert failures(checks) == [], checks
        assert checks["hr:5"].found == "can be read: 5"
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)


async def test_a_dead_line_says_what_to_look_at() -> None:
    async with on_pty(Line(lambda _: None)) as line:
        checks = await examine(line.endpoint, timeout="10ms")
    assert failures(checks) == ["unit 1"]
    assert "RS-485" in checks["unit 1"].way_out


async def test_a_port_that_is_not_there_is_told() -> None:
    checks = await examine("rtu:/dev/no-such-port")
    assert failures(checks) == ["serial port"]
    assert "by-id" in checks["serial port"].way_out


def test_the_options_of_a_file_s_entry_are_those_of_its_first_device(tmp_path: Path) -> None:
    assert PLUGIN.doctor is not None
    assert PLUGIN.doctor.of is not None
    tags = {"t": {"address": "40101", "type": "float32"}, "s": {"address": "hr:7", "type": "string[8]"}}
    config = ModbusConfig.model_validate(
        {
            "kind": "modbus",
            "endpoint": "rtu:/dev/ttyUSB0",
            "serial": {"baud": 9600, "stop_bits": 2},
            "devices": {"a": {"unit_id": 4, "tags": tags}},
        }
    )
    options = PLUGIN.doctor.of(config, Place("x", tmp_path / "state", tmp_path))
    assert (options.unit, options.address) == (4, ["hr:100:float32", "hr:7:string[8]"])
    assert options.config.serial == config.serial
    with pytest.raises(ValidationError, match="unknown type"):
        ModbusExamination.model_validate({"endpoint": "x", "address": ["hr:1:flaot"]})
