"""`genba browse opcua` against node-opcua: units, ranges and states as another implementation gives them, real continuation points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from adapters.opcua import PLUGIN, services
from adapters.opcua.browsing import BrowseOptions
from schemas.plugin import Check, Point
from tests.adapters.opcua.rig import configure, read_some

pytestmark = pytest.mark.interop
URI = "urn:genba:interop"


class Started(Protocol):
    port: int


@pytest.fixture
async def endpoint(opcua_node_server: Callable[[], Started]) -> str:
    server = await asyncio.to_thread(opcua_node_server)
    return f"opc.tcp://127.0.0.1:{server.port}"


async def walked(endpoint: str, **options: object) -> tuple[dict[str, Point], str]:
    assert PLUGIN.browse is not None
    points: dict[str, Point] = {}
    said = []
    async with asyncio.timeout(30):
        async for told in PLUGIN.browse.walk(BrowseOptions(endpoint=endpoint, **options)):  # type: ignore[arg-type]
            if isinstance(told, Point):
                points[f"{told.asset}/{told.name}"] = told
            elif isinstance(told, Check):
                said.append(f"{told.result} {told.found}")
    return points, "\n".join(said)


async def test_units_ranges_states_and_the_addresses_that_are_read_afterwards(endpoint: str, tmp_path: Path) -> None:
    points, _ = await walked(endpoint, match=["Described/*"])
    assert {name: (dict(p.options), p.note) for name, p in points.items()} == {
        "described/level": ({"address": f"nsu={URI};s=level", "type": "float64", "unit": "%"}, "range 0 to 100"),
        "described/temp": ({"address": f"nsu={URI};s=temp", "type": "float64", "unit": "°C"}, "range 0 to 300"),
        "described/state": ({"address": f"nsu={URI};s=state", "type": "auto", "enum": {0: "off", 1: "on", 2: "fault"}}, ""),
        "described/door": ({"address": f"nsu={URI};s=door", "type": "bool", "enum": {0: "open", 1: "closed"}}, ""),
        "described/numbered": ({"address": f"/Objects/nsu={URI};Described/nsu={URI};numbered", "type": "int32"}, ""),
    }
    config = configure({name.rpartition("/")[2]: dict(point.options) for name, point in points.items()}, endpoint)
    rows = (await read_some(config, tmp_path)).rows
    assert {name: row[0]["value"] for name, row in rows.items()} == {"level": 1, "temp": 1, "state": 1, "door": 1, "numbered": 3}
    points, said = await walked(endpoint, match=["Press/*"])
    types = {name.removeprefix("press/"): point.options["type"] for name, point in points.items()}
    assert {name: types[name] for name in ("temperature", "small", "large", "float", "name", "started", "running", "counter")} == {
        "temperature": "float64", "small": "int16", "large": "int64", "float": "float32", "name": "string", "started": "datetime",
        "running": "bool", "counter": "uint32",
    }  # fmt: skip
    assert "Press/profile" in said or types["profile"] == "array of float64"


async def test_a_folder_of_1000_comes_in_pages(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_REFERENCES_PER_NODE", 130)
    points, said = await walked(endpoint, root="/Objects/1:Many")
    assert set(points) == {f"None/many_{n}" for n in range(1000)}
    assert "failure" not in said
