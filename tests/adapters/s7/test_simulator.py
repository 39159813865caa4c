"""The simulator is a real S7 server: the library's own client reads it; a replayed series moves once per read of its tag."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from s7 import Area, Client
from s7.error import S7Error
from s7.type import WordLen

from adapters.s7.simulator import S7Simulator
from adapters.simulation import Replay, SignalConfig
from tests.adapters.s7 import rig

T = TypeVar("T")


async def ask(endpoint: str, work: Callable[[Client], T]) -> T:
    """What python-snap7's client gets."""

    def run() -> T:
        client = Client()
        client.connect("127.0.0.1", 0, 1, int(endpoint.rsplit(":", 1)[1]))
        try:
            return work(client)
        finally:
            client.disconnect()

    return await asyncio.to_thread(run)


async def test_the_library_s_client_reads_bytes_bits_words_and_several_items() -> None:
    config = rig.configure(
        {
            "a": ("DB10.DBD4", "real"),
            "b": ("DB10.DBX0.3", "bool"),
            "w": ("MW10", "word"),
            "t": ("DB11.DBB0", "string[8]"),
            "i": ("IB3", "byte"),
        }
    )
    constants = {"a": 21.5, "b": True, "w": 4242, "t": "GENBA", "i": 200}
    device = rig.make_simulator(config, {f"furnace/{name}": SignalConfig(constant=value) for name, value in constants.items()})
    endpoint = await device.start()

    def work(client: Client) -> None:
        assert bytes(client.db_read(10, 0, 8)) == b"\x08\0\0\0" + struct.pack(">f", 21.5)
        assert bytes(client.read_area(Area.DB, 10, 3, 1, WordLen.Bit)) == b"\x01"
        assert bytes(client.read_area(Area.MK, 0, 10, 1, WordLen.Word)) == struct.pack(">H", 4242)
        assert bytes(client.read_area(Area.PE, 0, 3, 1)) == b"\xc8"
        assert bytes(client.db_read(11, 0, 10)) == b"\x08\x05GENBA\0\0\0"
        _, results = client.read_multi_vars(
            [{"area": Area.DB, "db_number": 10, "start": 4, "size": 4}, {"area": Area.MK, "db_number": 0, "start": 10, "size": 2}]
        )
        assert [bytes(result) for result in results] == [struct.pack(">f", 21.5), struct.pack(">H", 4242)]

    await ask(endpoint, work)
    await device.aclose()


async def test_timers_and_counters_are_read_by_their_number_with_the_library_s_client() -> None:
    tags = {"delay": ("T5", "timer"), "parts": ("C12", "counter"), "shift": ("C13", "counter")}
    signals = {"furnace/delay": SignalConfig(constant=12_300), "furnace/parts": SignalConfig(constant=427.0)}
    signals["furnace/shift"] = SignalConfig(constant=3.0)
    config = rig.configure(tags)
    device = rig.make_simulator(config, signals)
    endpoint = await device.start()

    def work(client: Client) -> None:
        assert bytes(client.read_area(Area.TM, 0, 5, 1)) == bytes.fromhex("1123")  # 123 times 100 ms
        assert bytes(client.read_area(Area.CT, 0, 12, 2)) == bytes.fromhex("04270003")
        with pytest.raises((S7Error, RuntimeError)):
            client.read_area(Area.CT, 0, 13, 2)

    await ask(endpoint, work)
    async with rig.connected(config, endpoint) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("value").to_pylist() == [12_300, 427, 3]


async def test_an_array_is_a_waveform_scaled_like_a_number() -> None:
    config = rig.configure(
        {
            "curve": {"address": "DB1.DBD0", "type": "Array[0..299] of Real", "scale": 0.5, "offset": 1},
            "counts": ("DB1.DBB1200", "array[3] of int"),
            "plain": ("DB1.DBW1206", "int"),
        }
    )
    signals = {f"furnace/{name}": SignalConfig(constant=7.0) for name in ("curve", "counts", "plain")}
    device = rig.make_simulator(config, signals)
    async with rig.connected(config, await device.start()) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("samples").to_pylist() == [[7.0] * 300, [7.0] * 3, None]
    assert batch.column("value").to_pylist() == [None, None, 7]


async def test_arrays_of_every_kind_of_element_come_over_the_wire() -> None:
    kinds = {
        "bits": "bool",
        "name": "char",
        "wide": "wchar",
        "recipes": "string[6]",
        "parts": "lint",
        "made": "dtl",
        "delays": "s5time",
    }
    config = rig.configure({name: (f"DB1.DBB{100 * n}", f"array[5] of {kind}") for n, (name, kind) in enumerate(kinds.items())})
    shown: dict[str, float | str] = {"bits": 1.0, "name": "GENBA", "wide": "炉", "recipes": "A1", "parts": "7", "delays": 120.0}
    shown["made"] = "2026-01-02T03:04:05.678"
    device = rig.make_simulator(config, {f"furnace/{name}": SignalConfig(constant=value) for name, value in shown.items()})
    async with rig.connected(config, await device.start()) as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    rows = rig.rows_of(config, batch)
    assert {row["quality"] for row in rows.values()} == {0}
    assert (rows["bits"]["samples"], rows["delays"]["samples"]) == ([1.0] * 5, [120.0] * 5)
    assert (rows["name"]["text"], rows["wide"]["text"], rows["parts"]["text"]) == ("GENBA", "炉", "[7, 7, 7, 7, 7]")
    assert json.loads(rows["recipes"]["text"]) == ["A1"] * 5
    assert json.loads(rows["made"]["text"]) == ["2026-01-02T03:04:05.678000Z"] * 5


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda client: client.db_read(99, 0, 4),
        lambda client: client.db_read(10, 0, 100),
        lambda client: client.db_write(10, 0, bytearray(4)),
        lambda client: client.plc_stop(),
    ],
)
async def test_what_is_not_there_or_not_allowed_is_an_error_of_the_protocol(forbidden: Callable[[Client], object]) -> None:
    device = rig.make_simulator(rig.configure({"a": ("DB10.DBD4", "real")}))

    def work(client: Client) -> None:
        with pytest.raises((S7Error, RuntimeError)):
            forbidden(client)
        assert len(client.db_read(10, 0, 8)) == 8  # the connection lives on

    await ask(await device.start(), work)
    await device.aclose()


@pytest.mark.parametrize(("cpu", "pdu"), [("s7-300", 240), ("s7-400", 480), ("s7-1200", 240), ("s7-1500", 960)])
async def test_the_pdu_is_that_of_the_cpu_family(cpu: str, pdu: int) -> None:
    config = rig.configure({"a": ("DB10.DBD4", "real")}, cpu=cpu)
    device = rig.make_simulator(config)
    async with rig.connected(config, await device.start()) as adapter:
        assert adapter._connection is not None
        assert (adapter._connection.pdu, adapter._connection.window) == (pdu, 8)
    await device.aclose()


async def test_a_taken_port_is_an_os_error_and_the_end_frees_it() -> None:
    config = rig.configure({"a": ("DB10.DBD4", "real")})
    first, second = rig.make_simulator(config), rig.make_simulator(config)
    port = int((await first.start()).rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        await second.start(port=port)
    await second.aclose()
    await first.aclose()
    assert await second.start(port=port) == f"s7://127.0.0.1:{port}"
    await second.aclose()


async def test_garbage_costs_the_client_that_sent_it_only() -> None:
    device = rig.make_simulator(rig.configure({"a": ("DB10.DBD4", "real")}))
    endpoint = await device.start()
    port = int(endpoint.rsplit(":", 1)[1])

    def shout(noise: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            client.sendall(noise)
            try:
                return client.recv(100)
            except ConnectionResetError:
                return b""

    for noise in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes.fromhex("0300000702f080"),
        bytes.fromhex("0300000802f08032"),
        b"\x03\0\0\x07" + b"\xff" * 9,
    ):
        assert await asyncio.to_thread(shout, noise) == b""
    assert len(await ask(endpoint, lambda client: client.db_read(10, 4, 4))) == 4
    await device.aclose()


def replayed(tmp_path: Path, tags: dict[str, object]) -> S7Simulator:
    file = tmp_path / "series.csv"
    file.write_text("value\n" + "".join(f"{n}.25\n" for n in range(1000)))
    return rig.make_simulator(rig.configure(tags), replays=(Replay(tag="furnace/series", file=file),))  # type: ignore[arg-type]


async def test_a_faster_scan_class_that_reads_across_a_replayed_tag_does_not_move_it(tmp_path: Path) -> None:
    tags = {
        "low": ("DB1.DBD0", "real"),
        "series": {"address": "DB1.DBB4", "type": "lreal", "scan": "60ms"},
        "high": ("DB1.DBD12", "real"),
    }
    config = rig.configure(tags)
    device = replayed(tmp_path, tags)
    series = []
    async with rig.connected(config, await device.start()) as adapter:
        for batch in await rig.take(adapter, 40):
            rows = rig.rows_of(config, batch)
            if "series" in rows:
                series.append(rows["series"]["value"])
    await device.aclose()
    assert len(series) >= 8
    assert series == [n + 0.25 for n in range(len(series))]


async def test_a_series_in_single_precision_follows_its_own_time(tmp_path: Path) -> None:
    tags = {"series": ("DB1.DBD0", "real")}
    config = rig.configure(tags)
    device = replayed(tmp_path, tags)
    async with rig.connected(config, await device.start()) as adapter:
        values = {rig.rows_of(config, batch)["series"]["value"] for batch in await rig.take(adapter, 5)}
    await device.aclose()
    assert values == {0.25}  # a row is a second


async def test_a_missing_value_and_scaled_integers_over_the_wire(tmp_path: Path) -> None:
    file = tmp_path / "series.csv"
    file.write_text("value\n1.5\nnan\n2.5\n")
    config = rig.configure(
        {"series": ("DB1.DBB0", "lreal"), "force": {"address": "DB1.DBW8", "type": "int", "scale": 0.1, "offset": -40}}
    )
    signals = {"furnace/force": SignalConfig(constant=12.3)}
    device = rig.make_simulator(config, signals, (Replay(tag="furnace/series", file=file),))
    async with rig.connected(config, await device.start()) as adapter:
        rows = [rig.rows_of(config, batch) for batch in await rig.take(adapter, 4)]
    await device.aclose()
    assert [row["series"]["value"] for row in rows] == [1.5, None, 2.5, 2.5]
    assert [row["force"]["value"] for row in rows] == pytest.approx([12.3] * 4)


async def test_dates_are_those_of_the_plant_s_clock() -> None:
    config = rig.configure({"made": ("DB1.DBB0", "dtl"), "shift": ("DB1.DBB12", "dt"), "day": ("DB1.DBW20", "date")})
    signals = {f"furnace/{name}": SignalConfig(constant="2026-01-02T03:04:05") for name in ("made", "shift", "day")}
    device = rig.make_simulator(config, signals, time_zone="Asia/Tokyo")
    async with rig.connected(config, await device.start(), time_zone="Asia/Tokyo") as adapter:
        (batch,) = await rig.take(adapter, 1)
    await device.aclose()
    assert batch.column("text").to_pylist() == ["2026-01-01T18:04:05Z", "2026-01-01T18:04:05Z", "2026-01-02"]
