"""Ten times the plant of examples/plant.yaml: every device and tag ten times over, and sinks on stand-ins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chaos.day.stands import BUCKET, Stands

EXAMPLES: Final = Path(__file__).parents[3] / "examples"
TIMES: Final = 10

SCENARIO: Final[dict[str, Any]] = {
    "signals": {
        "**/motor_temp": {"mean": 84, "amplitude": 12, "period": "90s", "noise": 0.3},  # crosses its limit each time
        "**/vibration": {"mean": 2.0, "noise": 0.08},
        "**/strokes": {"counter": 0.8},
        "**/mode": {"constant": 1},
        "**/press_force": {"mean": 850, "amplitude": 4, "period": "15s", "noise": 0.2},
        "**/axis*_torque": {"mean": 31, "amplitude": 6, "period": "9s", "noise": 0.4},
        "**/cycles": {"counter": 0.3},
        "**/speed": {"mean": 40, "amplitude": 8, "period": "20s", "noise": 0.3},
        "**/current": {"mean": 12, "amplitude": 3, "period": "20s", "noise": 0.2},
        "**/torque": {"mean": 31, "amplitude": 6, "period": "9s", "noise": 0.4},
        "**/zone1_temp": {"mean": 851, "noise": 0.5},
        "**/gas_total": {"counter": 0.05},
    }
}
"""Every analogue signal moves and has noise: a subscription does not make the load smaller than its period says."""

ROUTES: Final[dict[str, tuple[str, ...]]] = {
    "telemetry": ("s3", "local"), "event": ("s3", "local", "stream", "iot"), "alert": ("s3", "local", "stream", "iot"),
    "gap": ("s3", "local"),
}  # fmt: skip
STREAMED: Final = "hall-0/stamping/**"
"""Of the telemetry, only this also goes to the stream: its stand-in keeps everything in memory."""


def write(folder: Path, times: int = TIMES) -> dict[str, Any]:
    """The adapters and models, `times` over, with their files of tags in `folder`. Sinks are still missing.

    No deadbands: every row that is read has to be in the lake.
    """
    plant: dict[str, Any] = yaml.safe_load((EXAMPLES / "plant.yaml").read_text(encoding="utf-8"))
    (folder / "tags").mkdir()
    drive = (EXAMPLES / "tags" / "drive.csv").read_text(encoding="utf-8")
    (folder / "tags" / "drive.csv").write_text(re.sub(r",500ms,[\d.]+,", ",500ms,,", drive), encoding="utf-8")
    adapters: dict[str, Any] = {}
    for name, entry in plant["adapters"].items():
        if entry["kind"] == "opcua":
            adapters[name] = _one_server(entry, folder, times)
            continue
        for number in range(times):
            scheme = {"modbus": "tcp", "s7": "s7"}[entry["kind"]]
            adapters[f"{name}-{number}"] = _copied(entry, f"hall-{number}") | {"endpoint": f"{scheme}://127.0.0.1:1"}
    models = plant["models"]
    for model in models.values():
        model["tags"] = [f"*/{pattern}" for pattern in model["tags"]]
        if "warm_up" in model:
            model["warm_up"] = "30s"
    kept = {name: plant[name] for name in ("enterprise", "site", "time_zone", "templates")}
    return {**kept, "gateway": "gw-1", "adapters": adapters, "models": models}


def _one_server(entry: dict[str, Any], folder: Path, times: int) -> dict[str, Any]:
    """The server that speaks for many machines speaks for all halls. Logging in and certificates are tested elsewhere."""
    tags: dict[str, Any] = {}
    for number in range(times):
        listed = yaml.safe_load((EXAMPLES / entry["tags"]["file"]).read_text(encoding="utf-8"))
        for name, tag in listed.items():
            address = tag["address"].replace(";s=", f";s=Hall{number}.")
            tags[f"Hall{number}.{name}"] = _without_deadband(tag) | {"asset": f"hall-{number}/{tag['asset']}", "address": address}
    (folder / "tags" / "server.yaml").write_text(yaml.safe_dump(tags), encoding="utf-8")
    kept = {name: value for name, value in entry.items() if name != "auth"}
    return kept | {"endpoint": "opc.tcp://127.0.0.1:1", "security": {"policy": "None"}, "tags": {"file": "tags/server.yaml"}}


def _copied(entry: dict[str, Any], hall: str) -> dict[str, Any]:
    copy = {**entry}
    if "asset" in copy:
        copy["asset"] = f"{hall}/{copy['asset']}"
    if "asset" in copy and isinstance(copy.get("tags"), dict):
        copy["tags"] = {name: _without_deadband(tag) for name, tag in copy["tags"].items()}
    if "devices" in copy:
        copy["devices"] = {f"{name}-{hall}": _copied(device, hall) for name, device in copy["devices"].items()}
    return copy


def _without_deadband(tag: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tag.items() if name not in ("deadband", "report_at_least")}


def sinks(stands: Stands, lake: Path, roll: str) -> dict[str, Any]:
    """The sinks and routes: two lakes, a stream and the broker."""
    telemetry = [{"data": "telemetry", "tags": [STREAMED], "to": ["stream"]}]
    return {
        "spool": {"segment_size": "1 MiB", "max_size": "2 GB"},
        "status": {"listen": "127.0.0.1:0"},
        "sinks": {
            "iot": {
                "kind": "iot_core", "endpoint": "localhost", "port": stands.broker_proxy.port, "thing": "gw-1", "timeout": "3s",
                "certificate": str(stands.broker.certificate), "key": str(stands.broker.key), "ca": str(stands.broker.ca),
            },
            "stream": {
                "kind": "kinesis", "stream": "plant-json", "max_age": "500ms",
                "aws": {"endpoint": stands.stub.endpoint, "timeout": "2s"},
            },
            "s3": {
                "kind": "parquet", "location": f"s3://{BUCKET}/genba", "roll": {"max_age": roll},
                "aws": {"endpoint": stands.bucket.endpoint, "timeout": "2s"},
            },
            "local": {"kind": "parquet", "location": str(lake), "roll": {"max_age": roll}},
        },
        "routes": [*telemetry, *({"data": kind, "to": list(to)} for kind, to in ROUTES.items())],
    }  # fmt: skip
