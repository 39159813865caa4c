"""The counterparts themselves: each answers a foreign client, dies and comes back on the same port."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Protocol

import paho.mqtt.client as paho
import pytest
from asyncua import Client, ua

pytestmark = pytest.mark.interop


class Started(Protocol):
    port: int
    pid: int

    def kill(self) -> None: ...
    def restart(self) -> None: ...


def _ask_modbus(port: int, function: int, first: int, count: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(struct.pack(">HHHBBHH", 1, 0, 6, 1, function, first, count))
        answer = connection.recv(260)
    return answer[9:]


def test_libmodbus_serves_its_map_and_survives_a_kill(libmodbus_server: Callable[[], Started]) -> None:
    server = libmodbus_server()
    assert struct.unpack(">f", _ask_modbus(server.port, 3, 0, 2)) == (21.5,)
    assert struct.unpack(">hHIi", _ask_modbus(server.port, 3, 4, 6)) == (-1234, 54321, 3_000_000_000, -100_000)
    assert struct.unpack(">dQ8s", _ask_modbus(server.port, 3, 10, 12)) == (3.141592653589793, 9007199254740993, b"GENBA-01")
    assert _ask_modbus(server.port, 3, 2, 2) == struct.pack(">f", -7.25)[2:] + struct.pack(">f", -7.25)[:2]
    assert _ask_modbus(server.port, 1, 0, 10) == bytes([0b01001101, 0b11])
    assert _ask_modbus(server.port, 2, 0, 10) == bytes([0b10010110, 0b10])
    pid, port = server.pid, server.port
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        _ask_modbus(port, 3, 0, 2)
    server.restart()
    assert (server.port, server.pid != pid) == (port, True)
    assert struct.unpack(">f", _ask_modbus(port, 3, 0, 2)) == (21.5,)


def test_modbus_serial_serves_its_map_and_survives_a_kill(modbus_serial_server: Callable[[], Started]) -> None:
    server = modbus_serial_server()
    assert struct.unpack(">f", _ask_modbus(server.port, 3, 0, 2)) == (21.5,)
    assert struct.unpack(">dQ8s", _ask_modbus(server.port, 3, 10, 12)) == (3.141592653589793, 9007199254740993, b"GENBA-01")
    assert _ask_modbus(server.port, 1, 0, 10) == bytes([0b01001001, 0b10])
    assert _ask_modbus(server.port, 2, 0, 10) == bytes([0b00010001, 0b01])
    pid, port = server.pid, server.port
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        _ask_modbus(port, 3, 0, 2)
    server.restart()
    assert (server.port, server.pid != pid) == (port, True)
    assert struct.unpack(">f", _ask_modbus(port, 3, 0, 2)) == (21.5,)


async def test_node_opcua_serves_types_states_and_changes(opcua_node_server: Callable[[], Started]) -> None:
    server = await asyncio.to_thread(opcua_node_server)
    async with Client(f"opc.tcp://127.0.0.1:{server.port}") as client:
        read = {}
        for name in ("temperature", "small", "large", "float", "name", "profile", "counter"):
            read[name] = await client.get_node(f"ns=1;s={name}").read_value()
        assert read == read | {
            "temperature": 21.5,
            "small": -1234,
            "large": 9007199254740993,
            "float": -7.25,
            "name": "GENBA",
            "profile": [1.0, 2.0, 3.0],
        }
        broken = await client.get_node("ns=1;s=broken").read_data_value(raise_on_bad_status=False)
        assert broken.StatusCode.value == ua.StatusCodes.BadSensorFailure
        await asyncio.sleep(0.25)
        assert await client.get_node("ns=1;s=counter").read_value() > read["counter"]


def test_node_snap7_serves_its_blocks(snap7_node_server: Callable[[], Started]) -> None:
    server = snap7_node_server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(bytes.fromhex("0300001611e00000000100c1020100c2020101c0010a"))
        assert connection.recv(64)[5] == 0xD0  # connection confirmed
        connection.sendall(bytes.fromhex("0300001902f08032010000000000080000f0000001000101e0"))
        assert connection.recv(64)[8] == 3
        connection.sendall(bytes.fromhex("0300001f02f080320100000001000e00000401120a10020004000184000000"))
        assert struct.unpack(">f", connection.recv(64)[25:29]) == (21.5,)
    port = server.port
    server.restart()
    assert server.port == port


def _publish_and_receive(port: int, context: ssl.SSLContext | None) -> list[bytes]:
    got: list[bytes] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    if context:
        client.tls_set_context(context)

    def on_message(client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        got.append(message.payload)
        client.disconnect()

    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("there", 1)
    client.on_subscribe = lambda client, *_: client.publish("there", b"back", 1)
    client.connect("127.0.0.1", port)
    client.loop_forever()
    return got


def test_mosquitto_speaks_mqtt_5_plain_and_tls_and_restarts(mosquitto: Callable[..., Any]) -> None:
    broker = mosquitto(tls=True)
    assert _publish_and_receive(broker.port, None) == [b"back"]
    assert _publish_and_receive(broker.tls_port, ssl.create_default_context(cafile=broker.ca)) == [b"back"]
    stranger = ssl.create_default_context()  # does not know the authority
    with (
        socket.create_connection(("127.0.0.1", broker.tls_port), timeout=5) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        stranger.wrap_socket(plain, server_hostname="localhost")
    broker.restart()
    assert _publish_and_receive(broker.port, None) == [b"back"]
