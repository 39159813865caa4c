"""What every adapter keeps, whatever its protocol. A test class inherits `AdapterConformance`, and `PollingConformance` if it polls.

```python
class TestModbus(PollingConformance, AdapterConformance):
    plugin = PLUGIN
    kind = "modbus"
    places = {"temperature": {"address": "hr:0", "type": "float32"}, ...}
    missing = {"address": "hr:900", "type": "int16"}

    def endpoint(self, port: int) -> str:
        return f"tcp://127.0.0.1:{port}"
```
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import structlog

from adapters.base import Adapter, AdapterConfig, AdapterContext, BoundTag, Simulator, SimulatorContext, TagConfig, devices_of
from adapters.simulation import Replay, Scenario, SignalConfig, Signals
from schemas import quality as q
from schemas.errors import NotConnected
from schemas.kinds import TELEMETRY, kind_of
from schemas.plugin import Plugin
from schemas.tags import Tag

Row = dict[str, Any]
Value = float | int | str | bool
TIMEOUT_S = 0.5
SERVED: Mapping[str, Value] = {
    "temperature": 21.5,
    "pump": True,
    "count": -1234,
    "mode": 1,
    "recipe": "GENBA-01",
    "force": 12.3,
    "energy": 2**40 + 1,
}
"""What the simulated device shows in each role, in the unit of the tag."""
EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "mode": {"enum": {0: "idle", 1: "run", 2: "fault"}},
    "force": {"scale": 0.1, "offset": -40},
}
"""Options that a role has besides its place."""
FIRST_ID = 100


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def bind(name: str, config: AdapterConfig) -> list[BoundTag[TagConfig]]:
    """Bound tags as the gateway makes them; ids from 100 in the order of the configuration."""
    bound: list[BoundTag[TagConfig]] = []
    for key, device in devices_of(name, config).items():
        for tag_name, tag in device.tags.items():
            default: int | None = getattr(config, "scan", None)
            resolved = Tag(
                path=f"acme/osaka/{key}/{tag_name}",
                asset=f"acme/osaka/{key}",
                name=tag_name,
                adapter=name,
                device=key,
                address=tag.wire_address(),
                value_type=tag.value_type(),
                period_us=int(tag.scan or device.scan or default or 1_000_000),
                enum=tag.enum or {},
                id=FIRST_ID + len(bound),
            )
            bound.append(BoundTag(resolved, tag, key))
    return bound


@dataclass
class Seen:
    """What came out of an adapter: batches with the loop's time of their arrival, and rows by tag name."""

    names: Mapping[int, str]
    batches: list[tuple[float, pa.RecordBatch]] = field(default_factory=list)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch) -> None:
        self.batches.append((asyncio.get_running_loop().time(), batch))
        if kind_of(batch) == "telemetry":
            times = batch.column("time").cast(pa.int64()).to_pylist()
            for row, time_us in zip(batch.drop_columns(["time"]).to_pylist(), times, strict=True):
                self.rows.setdefault(self.names[row["tag"]], []).append(row | {"time": time_us})

    async def drain(self, stream: AsyncIterator[pa.RecordBatch], *, within_s: float) -> None:
        """Take batches until the stream raises or ends."""
        async with asyncio.timeout(within_s):
            async for batch in stream:
                self.add(batch)

    def good(self, name: str) -> bool:
        """The newest row of this tag is good."""
        return name in self.rows and self.rows[name][-1]["quality"] < q.BAD

    def bad(self, name: str) -> bool:
        """The newest row of this tag is bad."""
        return name in self.rows and self.rows[name][-1]["quality"] >= q.BAD

    def all_good(self) -> bool:
        """Every tag has a newest row and it is good."""
        return all(self.good(name) for name in self.names.values())


@dataclass
class Rig:
    """One adapter as the gateway would build it, and its log."""

    config: AdapterConfig
    adapter: Adapter
    log: list[Mapping[str, Any]]
    bound: Sequence[BoundTag[TagConfig]]

    def seen(self) -> Seen:
        return Seen({b.tag.id: b.tag.name for b in self.bound})

    def stream(self) -> AsyncGenerator[pa.RecordBatch, None]:
        return cast("AsyncGenerator[pa.RecordBatch, None]", self.adapter.batches())

    async def read(self, enough: Callable[[Seen], object] = Seen.all_good, *, within_s: float = 15.0) -> Seen:
        """Batches until `enough`; the stream is closed afterwards, the adapter is not."""
        seen = self.seen()
        async with asyncio.timeout(within_s), aclosing(self.stream()) as stream:
            async for batch in stream:
                seen.add(batch)
                if enough(seen):
                    return seen
        raise AssertionError("the stream ended")

    async def connect_and_drain(self, seen: Seen, *, within_s: float) -> None:
        """Connect and take batches until something raises."""
        async with asyncio.timeout(within_s):
            await self.adapter.connect()
            async with aclosing(self.stream()) as stream:
                await seen.drain(stream, within_s=within_s)


class Footprint:
    """Tasks, threads and sockets of this process, to tell what was left behind."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> set[object]:
        found: set[object] = {t for t in asyncio.all_tasks() if t is not asyncio.current_task()}
        found |= {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}  # the loop's own pool
        for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
            try:
                target = os.readlink(entry)
            except OSError:
                continue  # the directory's own descriptor
            if target.startswith("socket:"):
                found.add(target)
        return found

    async def nothing_left(self, within_s: float = 3.0) -> None:
        """Fails when something is there that was not before; the other side gets a moment to close its end."""
        deadline = time.monotonic() + within_s
        while left := self._now() - self._before:
            assert time.monotonic() < deadline, f"left behind: {left}"
            await asyncio.sleep(0.02)


class AdapterConformance:
    """Named properties of every adapter. Its own simulator is the device."""

    plugin: ClassVar[Plugin[Any, Adapter]]
    kind: ClassVar[str]
    places: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Address and type of each role: temperature (floating point), pump (boolean), count (signed integer of 16 bits or more), mode
    (integer, enum), recipe (text of 8 or more), force (16-bit integer, scaled), energy (64-bit integer; may be left out where
    the protocol has none)."""
    missing: ClassVar[Mapping[str, Any]]
    """Address and type of a tag that is spelled well and that the device does not have."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Further options of the entry."""

    def endpoint(self, port: int) -> str:
        """The endpoint of a device on loopback."""
        raise NotImplementedError

    # What tests build with. Subclasses may use it for tests of their own.

    def configure(self, endpoint: str, tags: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> AdapterConfig:
        """A configuration with every role, or with `tags`; scan 50 ms, timeout 500 ms."""
        if tags is None:
            tags = {role: {**place, **EXTRAS.get(role, {})} for role, place in self.places.items()}
        entry = {"kind": self.kind, "endpoint": endpoint, "scan": "50ms", "timeout": f"{round(TIMEOUT_S * 1000)}ms", "tags": tags}
        return cast(AdapterConfig, self.plugin.config.model_validate(entry | dict(self.options) | options))

    def rig(self, config: AdapterConfig, directory: Path) -> Rig:
        """The adapter of `config`, not connected."""
        capture = structlog.testing.LogCapture()
        log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger
        )
        bound = bind("device", config)
        context = AdapterContext("device", bound, SystemClock(), directory, log)
        return Rig(config, self.plugin.build(config, context), capture.entries, bound)

    @asynccontextmanager
    async def device(
        self,
        *,
        port: int = 0,
        config: AdapterConfig | None = None,
        values: Mapping[str, Value] = SERVED,
        replays: Sequence[Replay] = (),
    ) -> AsyncIterator[str]:
        """The simulated device, as its endpoint; it is gone at the end, as if its power went."""
        config = config or self.configure(self.endpoint(1))
        signals = {f"**/{name}": SignalConfig(constant=value) for name, value in values.items()}
        plant = Signals(Scenario(signals=signals), asyncio.get_running_loop().time, replays)
        assert self.plugin.simulate is not None
        simulator: Simulator = self.plugin.simulate(config, SimulatorContext("device", bind("device", config), plant))
        try:
            yield await simulator.start("127.0.0.1", port)
        finally:
            await simulator.aclose()
            await simulator.aclose()  # idempotent

    # Values

    async def test_values_of_every_type_are_the_device_s(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read()
            await rig.adapter.aclose()
        got = {name: rows[-1] for name, rows in seen.rows.items()}
        assert got.keys() == self.places.keys()
        assert {row["quality"] for row in got.values()} == {q.GOOD}
        expected = {"temperature": 21.5, "pump": 1.0, "count": -1234.0, "mode": 1.0, "force": 12.3}
        assert {name: got[name]["value"] for name in expected} == pytest.approx(expected)
        assert (got["mode"]["text"], got["recipe"]["text"], got["recipe"]["value"]) == ("run", "GENBA-01", None)
        if "energy" in got:
            assert (got["energy"]["value_int"], got["energy"]["value"]) == (2**40 + 1, None)

    async def test_every_batch_is_telemetry_of_its_tags_in_microseconds(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read()
            await rig.adapter.aclose()
        ids = {bound.tag.id for bound in rig.bound}
        now_us = time.time_ns() // 1000
        for _, batch in seen.batches:
            assert batch.schema.equals(TELEMETRY, check_metadata=True)
            batch.validate(full=True)
            assert batch.num_rows >= 1
            assert set(batch.column("tag").to_pylist()) <= ids
            for column in ("time", "tag", "quality", "origin", "lag"):
                assert batch.column(column).null_count == 0, column
            times = batch.column("time").cast(pa.int64()).to_numpy()
            assert (np.abs(times - now_us) < 60e6).all()
        for name, rows in seen.rows.items():
            for row in rows:
                full = {column for column in ("value", "value_int", "text", "samples") if row[column] is not None}
                assert len(full) == 1 or (name, full) == ("mode", {"value", "text"}), (name, row)

    async def test_not_a_number_becomes_a_bad_row(self, tmp_path: Path) -> None:
        async with self.device(values={**SERVED, "temperature": math.nan}) as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            others = self.places.keys() - {"temperature"}
            seen = await rig.read(lambda s: s.bad("temperature") and all(s.good(name) for name in others))
            await rig.adapter.aclose()
        assert [row["value"] for row in seen.rows["temperature"]] == [None] * len(seen.rows["temperature"])

    async def test_a_missing_tag_is_bad_and_named_and_takes_no_other_along(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            tags = {role: {**place, **EXTRAS.get(role, {})} for role, place in self.places.items()}
            rig = self.rig(self.configure(endpoint, {**tags, "absentee": self.missing}), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read(lambda s: s.bad("absentee") and all(s.good(name) for name in tags))
            await rig.adapter.aclose()
        assert all(row["value"] is None for row in seen.rows["absentee"])
        named = [entry for entry in rig.log if "absentee" in str(entry)]
        assert len(named) == 1, rig.log
        assert not [entry for entry in rig.log if any(f"/{name}" in str(entry) for name in tags)], "another tag was blamed"

    # Connections

    async def test_an_absent_device_is_not_connected_in_time(self, tmp_path: Path) -> None:
        rig = self.rig(self.configure(self.endpoint(_free_port())), tmp_path)
        began = time.monotonic()
        with pytest.raises(NotConnected) as raised:
            await rig.adapter.connect()
        assert time.monotonic() - began < TIMEOUT_S + 1
        assert str(raised.value)
        await rig.adapter.aclose()

    async def test_failed_attempts_leave_nothing_behind(self, tmp_path: Path) -> None:
        rig = self.rig(self.configure(self.endpoint(_free_port())), tmp_path)
        footprint = Footprint()
        for _ in range(10):
            with pytest.raises(NotConnected):
                await rig.adapter.connect()
        await footprint.nothing_left()
        await rig.adapter.aclose()
        await footprint.nothing_left()

    async def test_aclose_is_legal_before_connect_and_twice_after_anything(self, tmp_path: Path) -> None:
        rig = self.rig(self.configure(self.endpoint(_free_port())), tmp_path)
        await rig.adapter.aclose()
        with pytest.raises(NotConnected):
            await rig.adapter.connect()
        await rig.adapter.aclose()
        await rig.adapter.aclose()
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            await rig.read()
            await rig.adapter.aclose()
            await rig.adapter.aclose()

    async def test_nothing_is_left_behind_after_aclose(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            footprint = Footprint()
            for _ in range(3):
                rig = self.rig(self.configure(endpoint), tmp_path)
                await rig.adapter.connect()
                await rig.read()
                await rig.adapter.aclose()
                await footprint.nothing_left()
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            await rig.adapter.aclose()  # connected, never read
            await footprint.nothing_left()

    async def test_a_cancelled_reader_ends_at_once_and_leaves_nothing(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            footprint = Footprint()
            for delay_s in (0.0, 0.01, 0.06, 0.2):
                rig = self.rig(self.configure(endpoint), tmp_path)
                await rig.adapter.connect()
                reader = asyncio.create_task(rig.read(lambda _: False))
                await asyncio.sleep(delay_s)
                reader.cancel()
                done, _ = await asyncio.wait([reader], timeout=TIMEOUT_S + 1)
                assert done, "the cancelled reader goes on"
                assert reader.cancelled()
                await rig.adapter.aclose()
                await footprint.nothing_left()

    async def test_survives_a_restart_of_the_device(self, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            stream = rig.stream()
            seen = rig.seen()
            async with asyncio.timeout(15):
                while not seen.all_good():
                    seen.add(await anext(stream))
        async with aclosing(stream):  # the device is gone
            with pytest.raises(NotConnected):
                await seen.drain(stream, within_s=15)
        with pytest.raises(NotConnected):
            await rig.adapter.connect()
        async with self.device(port=urlsplit(endpoint).port or 0):
            began = time.monotonic()
            while True:  # as the supervisor does
                try:
                    await rig.adapter.connect()
                    break
                except NotConnected:
                    assert time.monotonic() - began < 5
                    await asyncio.sleep(0.1)
            await rig.read(within_s=5 - (time.monotonic() - began))
            await rig.adapter.aclose()

    async def test_a_silent_device_is_not_connected(self, tmp_path: Path) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):
                pass
            writer.close()

        await self._is_not_connected(silent, tmp_path)

    async def test_a_device_that_talks_nonsense_is_not_connected(self, tmp_path: Path) -> None:
        rng = random.Random(1)

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.read(1000):
                    writer.write(rng.randbytes(rng.randint(1, 300)))
                    await writer.drain()
            except ConnectionError:
                pass
            writer.close()

        await self._is_not_connected(nonsense, tmp_path)

    async def test_a_device_that_hangs_up_is_not_connected(self, tmp_path: Path) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        await self._is_not_connected(hang_up, tmp_path)

    async def _is_not_connected(
        self, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], directory: Path
    ) -> None:
        """Against a peer like `handler`, connect or batches raises NotConnected soon, no value comes, and nothing is left."""
        footprint = Footprint()
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        rig = self.rig(self.configure(self.endpoint(server.sockets[0].getsockname()[1])), directory)
        seen = rig.seen()
        try:
            with pytest.raises(NotConnected):
                await rig.connect_and_drain(seen, within_s=20)
        finally:
            await rig.adapter.aclose()
            server.close()
            await server.wait_closed()
        assert not [row for rows in seen.rows.values() for row in rows if row["quality"] < q.BAD]
        await footprint.nothing_left()


class PollingConformance:
    """What adapters that poll keep besides. Mixed into a subclass of `AdapterConformance`, before it."""

    replayed: ClassVar[Mapping[str, Any]]
    """Address and type of a 64-bit floating point tag."""

    async def test_a_poll_is_one_batch_with_every_tag_once(self: Any, tmp_path: Path) -> None:
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read(lambda s: len(s.batches) == 5)
            await rig.adapter.aclose()
        for _, batch in seen.batches:
            assert batch.column("tag").to_pylist() == [bound.tag.id for bound in rig.bound]
            assert len(set(batch.column("time").to_pylist())) == 1

    async def test_the_schedule_does_not_drift_behind_a_slow_consumer(self: Any, tmp_path: Path) -> None:
        period_s, polls = 0.05, 24
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint), tmp_path)
            await rig.adapter.connect()
            seen = rig.seen()
            async with asyncio.timeout(15), aclosing(rig.stream()) as stream:
                async for batch in stream:
                    seen.add(batch)
                    if len(seen.batches) == polls:
                        break
                    await asyncio.sleep(period_s * 0.4)  # would be 9 periods too late at the end
            await rig.adapter.aclose()
        times = [at for at, _ in seen.batches]
        slots = [(at - times[0]) / period_s for at in times]
        phases = [(slot + 0.5) % 1 - 0.5 for slot in slots]  # how far beside a slot each poll came
        assert abs(statistics.median(phases[-8:]) - statistics.median(phases[:8])) < 0.3, slots
        assert statistics.median(b - a for a, b in itertools.pairwise(times)) == pytest.approx(period_s, rel=0.3)

    async def test_scan_classes_are_polled_each_at_its_own_pace(self: Any, tmp_path: Path) -> None:
        fast, slow = sorted(self.places)[:2]
        tags = {
            fast: {**self.places[fast], **EXTRAS.get(fast, {}), "scan": "50ms"},
            slow: {**self.places[slow], **EXTRAS.get(slow, {}), "scan": "400ms"},
        }
        async with self.device() as endpoint:
            rig = self.rig(self.configure(endpoint, tags), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read(lambda s: len(s.rows.get(slow, ())) == 4)
            await rig.adapter.aclose()
        assert all(batch.num_rows == 1 for _, batch in seen.batches)
        assert 4 * len(seen.rows[slow]) < len(seen.rows[fast]) <= 8 * 3 + 3

    async def test_a_recording_comes_out_value_for_value(self: Any, tmp_path: Path) -> None:
        series = [round(math.sin(n) * 1000, 6) / 7 for n in range(60)]
        file = tmp_path / "recording.csv"
        file.write_text("value\n" + "".join(f"{value!r}\n" for value in series))
        tags = {"series": {**self.replayed, "scan": "20ms"}, "temperature": self.places["temperature"]}
        async with self.device(
            config=self.configure(self.endpoint(1), tags), replays=[Replay(tag="device/series", file=file)]
        ) as endpoint:
            rig = self.rig(self.configure(endpoint, tags), tmp_path)
            await rig.adapter.connect()
            seen = await rig.read(lambda s: len(s.rows.get("series", ())) == len(series) + 2)
            await rig.adapter.aclose()
        assert [row["value"] for row in seen.rows["series"]] == [*series, series[-1], series[-1]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
