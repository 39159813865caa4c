"""The adapter against its simulator: what every adapter keeps, types, structures, a changed program."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("s7commplus", reason="the extra s7plus is not installed")

from adapters.s7plus import PLUGIN
from adapters.s7plus.config import check
from adapters.s7plus.simulator import Emulator
from schemas import quality as q
from schemas.errors import ConfigError, NotConnected
from schemas.values import Duration
from tests.adapters.s7plus import rig
from tests.conformance.adapter import AdapterConformance, PollingConformance


class TestS7Plus(PollingConformance, AdapterConformance):
    plugin = PLUGIN
    kind = "s7plus"
    places: ClassVar = {
        "temperature": {"address": '"Data".zone.temperature', "type": "real"},
        "pump": {"address": "Data.pump", "type": "bool"},
        "count": {"address": "Data.count", "type": "int"},
        "mode": {"address": "Data.mode", "type": "uint"},
        "recipe": {"address": "Data.recipe", "type": "string[32]"},
        "force": {"address": "Press.force[2]", "type": "int"},
        "energy": {"address": "Press.energy", "type": "lint"},
    }
    missing: ClassVar = {"address": "Data.absent", "type": "real"}
    replayed: ClassVar = {"address": "Data.series", "type": "lreal"}

    def endpoint(self, port: int) -> str:
        return f"s7://127.0.0.1:{port}"


KINDS: dict[str, tuple[str, float | str, str]] = {  # type, what it shows, the column it comes in
    "bool": ("bool", 1.0, "value"), "byte": ("byte", 200.0, "value"), "word": ("word", 65535.0, "value"), "dword": ("dword", 4e9, "value"),
    "sint": ("sint", -128.0, "value"), "usint": ("usint", 255.0, "value"), "int": ("int", -32768.0, "value"), "uint": ("uint", 65535.0, "value"),
    "dint": ("dint", -2147483648.0, "value"), "udint": ("udint", 4294967295.0, "value"), "real": ("real", -21.5, "value"),
    "lreal": ("lreal", 0.1, "value"), "lint": ("lint", -(2**40), "value_int"), "ulint": ("ulint", 2**50 + 1, "value_int"),
    "lword": ("lword", 2**40 + 1, "value_int"), "time": ("time", -86_400_000.0, "value"), "ltime": ("ltime", -1.5, "value"),
    "tod": ("tod", 86_399_999.0, "value"), "ltod": ("ltod", 1000.25, "value"), "s5time": ("s5time", 12_300.0, "value"),
    "char": ("char", "G", "text"), "wchar": ("wchar", "炉", "text"), "text": ("string[20]", "GENBA", "text"), "wide": ("wstring[12]", "炉の温度", "text"),
    "date": ("date", "2026-01-02", "text"), "dt": ("dt", "2026-01-02T03:04:05.678000Z", "text"), "ldt": ("ldt", "2026-01-02T03:04:05.678901Z", "text"),
}  # fmt: skip


async def test_every_type_out_of_structures_and_arrays(tmp_path: Path) -> None:
    places = ["Data.{}", '"Data block".inner.deep.{}', "Data.list_{}[3]", '"FB_DB".zone[2].{}']
    tags = {f"{name}{n}": (place.format(name), kind) for n, place in enumerate(places) for name, (kind, _, _) in KINDS.items()}
    config = rig.configure(tags)
    device = rig.make_simulator(
        config, {f"{name}{n}": value for n in range(len(places)) for name, (_, value, _) in KINDS.items()}
    )
    async with rig.connected(config, await device.start(), tmp_path) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    rows = rig.rows_of(config, batch)
    assert {name: row["quality"] for name, row in rows.items() if row["quality"]} == {}
    for name, (_, value, column) in KINDS.items():
        assert [rows[f"{name}{n}"][column] for n in range(len(places))] == [value] * len(places), name


async def test_more_variables_than_one_request_or_one_piece_of_a_list_holds(tmp_path: Path) -> None:
    config = rig.configure({f"t{n}": (f"Data.member_{n}", "int") for n in range(900)})
    device = rig.make_simulator(config, {f"t{n}": float(n) for n in range(900)})
    async with rig.connected(config, await device.start(), tmp_path) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("value").to_pylist() == list(range(900))


async def test_what_is_not_there_or_of_another_type_is_named_once_with_its_reason_over_reconnects(tmp_path: Path) -> None:
    device = rig.make_simulator(
        rig.configure({"a": ("Data.a", "int"), "b": ("Data.b", "real"), "text": ("Data.text", "string[8]")}), {"a": 7.0}
    )
    config = rig.configure(
        {
            "a": ("Data.a", "int"),
            "b": ("Data.b", "dword"),
            "c": ("Data.A", "int"),
            "short": ("Data.text", "string"),
            "d": ("8A0E0001.FF", "int"),
        }
    )
    endpoint = await device.start()
    capture = rig.Capture()
    adapter = rig.make_adapter(config, endpoint, tmp_path, capture.log)
    for _ in range(2):
        await adapter.connect()
        rows = rig.rows_of(config, (await rig.take(adapter, 2))[-1])
        assert (rows["a"]["value"], rows["short"]["quality"]) == (7.0, q.GOOD)
        assert rows["b"]["quality"] == q.BAD_TYPE_MISMATCH
        assert rows["c"]["quality"] == q.BAD_NODE_ID_UNKNOWN  # names are told apart by case, as the PLC shows them
        assert rows["d"]["quality"] == q.BAD_NOT_READABLE
    await adapter.aclose()
    await device.aclose()
    assert [(line["reason"], line["tags"]) for line in capture.lines] == [
        ("the PLC says that its type is real", ["b (Data.b)"]),
        ("the PLC has no variable of this name", ["c (Data.A)"]),
        ("the PLC does not give the value", ["d (8A0E0001.FF)"]),
    ]


async def test_access_strings_are_read_without_reading_all_names(tmp_path: Path) -> None:
    config = rig.configure({"a": ("8A0E0001.9", "int"), "b": ("8a0e0001.a.2", "real")})
    device = rig.make_simulator(config, {"a": 7.0, "b": 1.5})
    endpoint = await device.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapters.s7plus.session.Session.symbols", None)
        async with rig.connected(config, endpoint, tmp_path) as adapter:
            (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("value").to_pylist() == [7.0, 1.5]


async def test_a_changed_program_is_noticed_and_never_logs_one_variable_under_the_name_of_another(tmp_path: Path) -> None:
    """After the download `speed` is where `torque` was: the ids are the same and mean something else."""
    before = rig.configure({"speed": ("Data.speed", "real"), "torque": ("Data.torque", "real")})
    after = rig.configure({"torque": ("Data.torque", "real"), "speed": ("Data.speed", "real"), "more": ("New.more", "int")})
    values = {"speed": 100.0, "torque": 7.0}
    first, second = rig.make_simulator(before, values), rig.make_simulator(after, values)
    loaded = await second.emulator()
    current = await first.emulator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "emulator", lambda **_: _given(current))
        endpoint = await first.start()
    config = before.model_copy(update={"check_program": Duration("150ms")})
    capture = rig.Capture()
    async with rig.connected(config, endpoint, tmp_path, capture.log) as adapter, aclosing(adapter.batches()) as stream:
        assert (await anext(stream)).column("value").to_pylist() == [100.0, 7.0]
        current._program, current._cells, current._types = loaded._program, loaded._cells, loaded._types  # the download
        async with asyncio.timeout(5):
            async for batch in stream:
                if batch.column("value").to_pylist() == [100.0, 7.0]:
                    break
                assert batch.column("value").to_pylist() == [7.0, 100.0]  # until it is noticed, as check_program says
    await first.aclose()
    assert [line["event"] for line in capture.lines] == ["the program of the PLC was changed; names are looked up anew"]


async def _given(emulator: Emulator) -> Emulator:
    return emulator


async def test_a_library_that_computes_for_ever_costs_its_own_thread_and_not_the_gateway(tmp_path: Path) -> None:
    """A PLC may claim an array of four thousand million elements, and the library would write all their names down."""
    config = rig.configure({"a": ("Data.a[0]", "int")}, browse_timeout="300ms")
    device = rig.make_simulator(config)
    endpoint = await device.start()
    goes_on = threading.Event()

    def never(*_: object) -> None:
        goes_on.wait(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s7commplus.typeinfo.build_tree", never)
        adapter = rig.make_adapter(config, endpoint, tmp_path)
        began, lag = time.monotonic(), 0.0
        connecting = asyncio.create_task(adapter.connect())
        while not connecting.done():
            tick = time.monotonic()
            await asyncio.sleep(0.01)
            lag = max(lag, time.monotonic() - tick - 0.01)
        with pytest.raises(NotConnected, match=r"no answer within 0\.3 s"):
            await connecting
        assert time.monotonic() - began < 5
        assert lag < 0.25
        goes_on.set()
    await device.aclose()


async def test_a_missing_library_is_a_configuration_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rig.configure({"a": ("Data.a", "int")})
    adapter = rig.make_adapter(config, "s7://127.0.0.1:1", tmp_path)
    monkeypatch.setattr("adapters.s7plus.config.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        await adapter.connect()
    assert "pip install 'genba[s7plus]'" in caught.value.hint
    findings = list(check(config))
    assert [(finding.level, finding.loc) for finding in findings] == [("warning", ("kind",))]
    assert PLUGIN.simulate is not None
    with pytest.raises(ConfigError):
        PLUGIN.simulate(config, None)


async def test_nothing_that_writes_is_called() -> None:
    """The library can write, stop the CPU and load blocks; our code names none of it."""
    folder = Path(__file__).parents[3] / "adapters" / "s7plus"
    forbidden = re.compile(r"client\.(?!_writer\b)\w*(?:write|download|upload|set_plc|create_|delete_|subscribe)\w*")
    assert forbidden.search("self._client.write_tags({})")  # the control
    for file in folder.glob("*.py"):
        assert not forbidden.search(file.read_text(encoding="utf-8")), file
