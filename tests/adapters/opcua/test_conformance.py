"""The OPC UA adapter keeps what every adapter keeps."""

from __future__ import annotations

from typing import ClassVar

from adapters.opcua import PLUGIN
from tests.conformance.adapter import AdapterConformance


class TestOpcua(AdapterConformance):
    plugin = PLUGIN
    kind = "opcua"
    places: ClassVar = {
        "temperature": {"address": "ns=2;s=Temperature", "type": "float32"},
        "pump": {"address": "ns=2;s=Pump", "type": "bool"},
        "count": {"address": "ns=2;i=17", "type": "int16"},
        "mode": {"address": "nsu=http://acme.example/plant;s=Mode", "type": "uint16"},
        "recipe": {"address": "/Objects/3:Plant/3:Recipe", "type": "string"},
        "force": {"address": "ns=2;s=Force", "type": "int16"},
        "energy": {"address": "ns=2;g=09087e75-8e5e-499b-954f-f2a9603db28a", "type": "int64"},
    }
    missing: ClassVar = {"address": "ns=2;s=Absent", "type": "float64"}

    def endpoint(self, port: int) -> str:
        return f"opc.tcp://127.0.0.1:{port}/plant"
