"""The Modbus adapter, its probe and its doctor against npm's modbus-serial and libmodbus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest

from adapters.modbus import PLUGIN
from gateway.cli import main
from schemas import quality as q
from schemas.plugin import Check, Point, Settings
from tests.conformance.adapter import Rig
from tests.interop.test_modbus_libmodbus import Bench, cross_over

pytestmark = pytest.mark.interop


class Started(Protocol):
    port: int


Start = Callable[[], Started]
TAGS: dict[str, dict[str, Any]] = {
    "abcd": {"address": "hr:0", "type": "float32"},
    "cdab": {"address": "hr:2", "type": "float32", "order": "CDAB"},
    "int16": {"address": "hr:4", "type": "int16"},
    "uint32": {"address": "hr:6", "type": "uint32"},
    "float64": {"address": "hr:10", "type": "float64"},
    "uint64": {"address": "hr:14", "type": "uint64"},
    "text": {"address": "hr:18", "type": "string[8]"},
    "far": {"address": "hr:259", "type": "uint16"},
    "input": {"address": "ir:31", "type": "uint16"},
    "coil": {"address": "co:63", "type": "bool"},
    "contact": {"address": "di:5", "type": "bool"},
}
NUMBERS = {
    "abcd": 21.5, "cdab": -7.25, "int16": -1234, "uint32": 3_000_000_000, "float64": 3.141592653589793, "far": 259,
    "input": 31, "coil": 1, "contact": 0,
}  # fmt: skip


def rig_of(server: Started, tags: dict[str, dict[str, Any]], directory: Path, **more: Any) -> Rig:
    return Bench().rig(Bench().configure(f"tcp://127.0.0.1:{server.port}", tags, **more), directory)


@pytest.mark.parametrize("window", [1, 8])
async def test_every_type_is_what_modbus_serial_serves(modbus_serial_server: Start, tmp_path: Path, window: int) -> None:
    server = await asyncio.to_thread(modbus_serial_server)
    rig = rig_of(server, TAGS, tmp_path, window=window)
    await rig.adapter.connect()
    seen = await rig.read(lambda s: len(s.batches) == 3)
    await rig.adapter.aclose()
    got = {name: rows[-1] for name, rows in seen.rows.items()}
    assert {row["quality"] for row in got.values()} == {q.GOOD}
    assert {name: got[name]["value"] for name in NUMBERS} == NUMBERS
    assert (got["uint64"]["value_int"], got["text"]["text"]) == (9_007_199_254_740_993, "GENBA-01")
    assert not [entry for entry in rig.log if entry["log_level"] == "warning"]


async def test_a_hole_costs_the_tags_in_it_and_nobody_else(modbus_serial_server: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(modbus_serial_server)
    tags = {f"w{n}": {"address": f"hr:{n}", "type": "uint16"} for n in (5, 99, 100, 150, 200, 259, 260)}
    rig = rig_of(server, tags, tmp_path)
    await rig.adapter.connect()
    seen = await rig.read(lambda s: len(s.batches) == 3)
    await rig.adapter.aclose()
    bad = {name for name, rows in seen.rows.items() if rows[-1]["quality"] != q.GOOD}
    assert bad == {"w100", "w150", "w260"}


async def test_what_is_skipped_is_never_asked_for(modbus_serial_server: Start, tmp_path: Path) -> None:
    server = await asyncio.to_thread(modbus_serial_server)
    tags = {"before": {"address": "hr:99", "type": "uint16"}, "behind": {"address": "hr:200", "type": "uint16"}}
    rig = rig_of(server, tags, tmp_path, skip=["hr:100-199"])
    await rig.adapter.connect()
    assert (await rig.read(lambda s: len(s.batches) == 2)).all_good()
    await rig.adapter.aclose()
    assert rig.log == [], "no search was needed"


async def probe(endpoint: str, **options: Any) -> tuple[dict[str, Check], dict[str, Any], dict[str, Point]]:
    assert PLUGIN.probe is not None
    given = PLUGIN.probe.options.model_validate({"endpoint": endpoint, "pause": "0s", **options})
    checks, settings, points = dict[str, Check](), dict[str, Any](), dict[str, Point]()
    async with asyncio.timeout(30), aclosing(PLUGIN.probe.walk(given)) as walk:
        async for one in walk:
            if isinstance(one, Check):
                checks[one.name] = one
            elif isinstance(one, Point):
                points[one.name] = one
            else:
                assert isinstance(one, Settings)
                settings |= one.options
    return checks, settings, points


async def test_the_probe_learns_modbus_serial(modbus_serial_server: Start) -> None:
    server = await asyncio.to_thread(modbus_serial_server)
    checks, settings, points = await probe(f"127.0.0.1:{server.port}", range=["hr:0-999", "ir:0-99", "co:0-99", "di:0-99"])
    assert checks["identity"].found == ("vendor 'genba tests', product code 'modbus-serial', revision '1.0', model 'ServerTCP'")
    assert "readable hr:0-99, hr:200-259; refused hr:100-199, hr:260-999 (exception 2)" in checks["hr"].found
    assert settings == {"unit_id": 1, "skip": ["hr:100-199"]}
    assert (points["hr_0"].value, points["hr_18"].value, points["hr_259"].value) == ("21.5", "GENBA-01", "259")
    assert checks["window"].found.startswith("4 requests at once are answered")


async def test_the_probe_learns_libmodbus(libmodbus_server: Start) -> None:
    server = await asyncio.to_thread(libmodbus_server)
    checks, settings, points = await probe(f"127.0.0.1:{server.port}", range=["hr:0-999", "ir:0-99", "co:0-99", "di:0-99"])
    assert checks["identity"].result == "ok", "libmodbus does not know function code 43"
    assert "readable hr:0-255; refused hr:256-999" in checks["hr"].found
    assert checks["max registers"].found.startswith("125 in one request")
    assert settings == {"unit_id": 1}
    assert points["hr_18"].value == "GENBA-01"


async def test_the_probe_learns_libmodbus_on_a_serial_line(libmodbus_line: Callable[[str], Started]) -> None:
    async with AsyncExitStack() as stack:
        ours, theirs = cross_over(stack)
        await asyncio.to_thread(libmodbus_line, theirs)
        checks, settings, points = await probe(f"rtu:{ours}", baud=19200, parity="none", range=["hr:0-299"])
    assert "readable hr:0-255; refused hr:256-299" in checks["hr"].found
    assert settings == {"unit_id": 1, "serial": {"baud": 19200, "parity": "none"}}
    assert points["hr_0"].value == "21.5"


@pytest.mark.parametrize("server_of", ["libmodbus_server", "modbus_serial_server"])
async def test_the_doctor_finds_nothing_wrong_and_one_address_off(server_of: str, request: pytest.FixtureRequest) -> None:
    start: Start = request.getfixturevalue(server_of)
    server = await asyncio.to_thread(start)
    assert PLUGIN.doctor is not None
    options = PLUGIN.doctor.options.model_validate(
        {"endpoint": f"127.0.0.1:{server.port}", "address": ["hr:0:float32", "ir:5000", "hr:2:float32"]}
    )
    async with aclosing(PLUGIN.doctor.examine(options)) as found:
        checks = {check.name: check async for check in found}
    assert checks["hr:0:float32"].found == "can be read: 21.5"
    assert checks["ir:5000"].found == "exception 2: illegal data address"
    assert checks["hr:2:float32"].way_out == "write `order: CDAB`"


async def test_the_doctor_names_the_unit_that_answers(modbus_serial_server: Start) -> None:
    server = await asyncio.to_thread(modbus_serial_server)
    assert PLUGIN.doctor is not None
    options = PLUGIN.doctor.options.model_validate({"endpoint": f"127.0.0.1:{server.port}", "unit": 9, "timeout": "200ms"})
    async with aclosing(PLUGIN.doctor.examine(options)) as found:
        checks = {check.name: check async for check in found}
    assert checks["unit 9"].way_out == "write `unit_id: 1`"


def test_what_the_probe_writes_is_a_configuration_that_reads_the_device(
    modbus_serial_server: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = modbus_serial_server()
    run(
        "probe",
        "modbus",
        f"127.0.0.1:{server.port}",
        "--range",
        "hr:0-299",
        "--pause",
        "0s",
        "--out",
        str(tmp_path / "serial.yaml"),
    )
    snippet = capsys.readouterr().out
    entry = "\n".join(line.replace(f"{tmp_path}/", "") for line in snippet[snippet.index("adapters:") :].splitlines())
    plant = tmp_path / "plant.yaml"
    plant.write_text(f"enterprise: acme\nsite: osaka\ngateway: gw\n{entry}\n", encoding="utf-8")
    assert f"tcp://127.0.0.1:{server.port}" in entry
    run("check", str(plant))
    capsys.readouterr()
    run("probe", str(plant), "serial", "--range", "hr:0-299", "--pause", "0s", "--diff")
    run("doctor", "modbus", f"127.0.0.1:{server.port}", "--address", "hr:0:float32")
    assert "can be read: 21.5" in capsys.readouterr().out


def run(*arguments: str) -> None:
    """The command line; it must end well."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert (caught.value.code or 0) == 0
