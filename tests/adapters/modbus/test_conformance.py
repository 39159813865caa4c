"""The Modbus adapter keeps what every adapter keeps."""

from __future__ import annotations

from typing import ClassVar

from adapters.modbus import PLUGIN
from tests.conformance.adapter import AdapterConformance, PollingConformance


class TestModbus(PollingConformance, AdapterConformance):
    plugin = PLUGIN
    kind = "modbus"
    places: ClassVar = {
        "temperature": {"address": "hr:100", "type": "float32"},
        "pump": {"address": "co:3", "type": "bool"},
        "count": {"address": "hr:102", "type": "int16"},
        "mode": {"address": "ir:7", "type": "uint16"},
        "recipe": {"address": "hr:110", "type": "string[10]"},
        "force": {"address": 40151, "type": "int16"},
        "energy": {"address": "hr:200", "type": "int64", "order": "CDAB"},
    }
    missing: ClassVar = {"address": "hr:210", "type": "uint16"}
    replayed: ClassVar = {"address": "hr:0", "type": "float64"}

    def endpoint(self, port: int) -> str:
        return f"tcp://127.0.0.1:{port}"


class TestModbusByAnotherMap(TestModbus):
    """Bits in registers, input registers, swapped bytes, several units, and a missing tag far from all others."""

    places: ClassVar = {
        "temperature": {"address": "ir:4", "type": "float32", "order": "DCBA"},
        "pump": {"address": "hr:9.13", "type": "bool"},
        "count": {"address": "hr:8", "type": "int32", "order": "BADC"},
        "mode": {"address": "hr:11", "type": "uint8"},
        "recipe": {"address": "ir:300", "type": "string[9]", "order": "BADC"},
        "force": {"address": "hr:65535", "type": "int16"},
    }
    missing: ClassVar = {"address": "di:40000", "type": "bool"}
    options: ClassVar = {"unit_id": 17, "order": "CDAB"}


class TestModbusRtuOverTcp(TestModbus):
    """RTU frames; the simulator of a serial line is reached through TCP."""

    options: ClassVar = {"serial": {"baud": 115_200, "turnaround": "1ms"}}

    def endpoint(self, port: int) -> str:
        return f"rtu+tcp://127.0.0.1:{port}"


class TestModbusAsciiOverTcp(TestModbusRtuOverTcp):
    """ASCII frames."""

    def endpoint(self, port: int) -> str:
        return f"ascii+tcp://127.0.0.1:{port}"


class TestModbusUdp(TestModbus):
    """Datagrams."""

    def endpoint(self, port: int) -> str:
        return f"udp://127.0.0.1:{port}"
