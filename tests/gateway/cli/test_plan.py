"""`genba plan`: each request on the wire, and the time it takes on a serial line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Genba = Callable[..., Any]
PLANT = """\
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  press:
    kind: modbus
    endpoint: tcp://10.0.0.7:502
    tags:
      a: {address: "hr:0", type: float32, scan: 100ms}
      b: {address: "hr:10", type: uint16}
      c: {address: "hr:60", type: uint16}
  ovens:
    kind: modbus
    endpoint: rtu:/dev/ttyUSB0
    serial: {baud: 9600}
    scan: SCAN
    devices:
      one: {unit_id: 1, tags: {temp: {address: "hr:0", type: int16}, far: {address: "hr:100", type: int16}}}
      two: {unit_id: 2, tags: {temp: {address: "hr:0", type: int16}}}
  source: {kind: opcua, endpoint: "opc.tcp://10.0.0.9:4840", tags: {x: {address: "ns=2;s=x", type: float64}}}
sinks:
  lake: {kind: parquet, location: ./lake}
"""


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    return written(tmp_path, "500ms")


def written(folder: Path, scan: str) -> Path:
    file = folder / "plant.yaml"
    file.write_text(PLANT.replace("SCAN", scan), encoding="utf-8")
    return file


def test_each_request_is_shown(genba: Genba, plant: Path) -> None:
    done = genba("plan", plant, "--explain")
    assert done.status == 0
    assert done.out.splitlines() == [
        "press: modbus tcp://10.0.0.7:502",
        "  every 100ms: 1 tag in 1 request, 0 read in vain",
        "    function 3 unit 1 table hr start 0 count 2: 1 tag, 0 in vain",
        "  every 1s: 2 tags in 1 request, 49 read in vain",
        "    function 3 unit 1 table hr start 10 count 51: 2 tags, 49 in vain",
        "ovens: modbus rtu:/dev/ttyUSB0",
        "  every 500ms: 3 tags in 3 requests, 0 read in vain, 105.6 ms on the line",
        "    function 3 unit 1 table hr start 0 count 1: 1 tag, 0 in vain, 35.2 ms",
        "    function 3 unit 1 table hr start 100 count 1: 1 tag, 0 in vain, 35.2 ms",
        "    function 3 unit 2 table hr start 0 count 1: 1 tag, 0 in vain, 35.2 ms",
        "  the line is taken 21% of the time",
        "source: opcua opc.tcp://10.0.0.9:4840",
        "  the adapter opcua does not plan requests ahead",
    ]


def test_without_explain_only_the_scan_classes(genba: Genba, plant: Path) -> None:
    assert "function" not in genba("plan", plant).out


def test_json_has_every_request(genba: Genba, plant: Path) -> None:
    told = json.loads(genba("plan", plant, "--json").out)
    assert told["press"][1] == {
        "scan_us": 1_000_000,
        "request": {"function": 3, "unit": 1, "table": "hr", "start": 10, "count": 51},
        "tags": 2,
        "wasted": 49,
        "time_s": None,
    }
    assert [request["time_s"] for request in told["ovens"]] == pytest.approx([0.0352] * 3, abs=1e-4)
    assert told["source"] is None


def test_a_scan_class_that_the_line_cannot_keep_is_an_error_of_check(genba: Genba, tmp_path: Path) -> None:
    assert genba("check", written(tmp_path, "110ms")).status == 0
    done = genba("check", written(tmp_path, "100ms"))
    assert done.status == 2
    assert "the scan class 100ms cannot be kept: one poll takes 0.11 s on the line" in done.out
