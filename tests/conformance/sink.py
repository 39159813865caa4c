"""What every sink keeps, whatever its service. A test class inherits `SinkConformance` and gives a `harness` fixture."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pytest
import structlog

from cloud_sinks.base import Sink, SinkContext
from schemas.clock import Clock
from schemas.errors import NotConnected
from schemas.kinds import Kind, make_batch, with_seq
from schemas.span import SpoolSpan
from schemas.tags import Tag

T0 = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC
ODD_NAMES = ("a b", "x#y", "x+y", "$SYS", "100%", "主モータ温度", "ü" * 300, "a,b;c'd\"e\\f", "=", "*?[1]", "tab.le", "😀")


class Tags:
    """A tag directory of the given paths, ids in that order."""

    def __init__(self, *paths: str, **changes: object) -> None:
        self._tags = [
            replace(_tag(path, i), **changes)  # type: ignore[arg-type]
            for i, path in enumerate(paths)
        ]

    def __getitem__(self, tag_id: int) -> Tag:
        if not 0 <= tag_id < len(self._tags):
            raise KeyError(tag_id)
        return self._tags[tag_id]

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, path: str) -> Tag:
        self._tags.append(_tag(path, len(self._tags)))
        return self._tags[-1]


def _tag(path: str, tag_id: int) -> Tag:
    asset, _, name = path.rpartition("/")
    return Tag(path=path, asset=asset, name=name, adapter="plc", device="plc", address=f"hr:{tag_id}", unit="Cel", id=tag_id)


def context_of(directory: Path, clock: Clock, tags: Tags | None = None, **changes: object) -> SinkContext:
    """A context as the gateway makes it; `directory` is the directory of the YAML file."""
    made = SinkContext(
        name="out",
        enterprise="acme",
        site="osaka",
        gateway="gw-1",
        tags=tags or Tags("acme/osaka/press-07/temp", "acme/osaka/press-07/vibration", "acme/osaka/fan-1/speed"),
        clock=clock,
        directory=directory / "spool",
        base=directory,
        log=structlog.stdlib.get_logger(),
        time_zone="Asia/Tokyo",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def span_of(kind: Kind, first: int, rows: int, *, gateway: str = "gw-1", epoch: int = 1) -> SpoolSpan:
    return SpoolSpan(gateway, epoch, kind, first, first + rows - 1)


def batch_of(kind: Kind, first: int, rows: int, tags: Tags, *, time_us: int = T0) -> pa.RecordBatch:
    """`rows` numbered rows of a kind, a second apart, over the tags in turn; deterministic in `first` and `rows`."""
    seq = np.arange(first, first + rows)
    ids = (seq % len(tags)).astype(np.int32)
    columns: dict[str, object] = {"time": time_us + seq * 1_000_000, "tag": ids}
    assets = [tags[i].asset for i in ids.tolist()]
    more: Mapping[Kind, dict[str, object]] = {
        "telemetry": {"value": seq * 0.5, "quality": 0, "lag": 3, "origin": 0},
        "event": {"asset": assets, "source": "gateway", "event": "adapter_up", "severity": "info", "message": "is up"},
        "score": {"seq": seq + 1000, "value": seq * 0.5, "score": 0.25, "limit": 0.9, "model": "m", "alarm": "a"},
        "alert": {
            "id": [f"id-{n}" for n in seq.tolist()], "alarm": "high", "model": "limits", "asset": assets, "subject": "Motor",
            "state": "unacknowledged", "transition": "raised", "severity": "warning", "problem": "too hot", "action": "call",
            "since": time_us + seq * 1_000_000, "onset_seq": seq, "value": seq * 0.5, "unit": "Cel", "low": 0.0, "high": 90.0,
            "score": 1.0, "limit": 1.0,
        },
        "health": {"seq": seq + 1000, "asset": assets, "model": "m", "measure": "health_index", "value": 0.9, "unit": "1"},
        "image": {"file": [f"{n}.jpg" for n in seq.tolist()], "sha256": "00", "bytes": 10, "media_type": "image/jpeg", "quality": 0},
        "gap": {"end": time_us + seq * 1_000_000 + 5, "source": "plc", "cause": "not_connected", "rows": 4},
    }  # fmt: skip
    return with_seq(make_batch(kind, rows, **columns, **more[kind]), first)


class Harness(Protocol):
    """A service under test. `exactly_once` says that a repeated span leaves no second row."""

    exactly_once: bool
    kinds: Sequence[Kind]

    def build(self, context: SinkContext) -> Sink: ...
    async def down(self) -> None: ...
    async def up(self) -> None: ...
    async def rows(self, kind: Kind, context: SinkContext, expected: int) -> list[tuple[int, str]]:
        """(row number, tag path) of every row the service holds, per tag in the order that a consumer meets them.

        Waits until there are `expected` where the service shows them with a delay.
        """
        ...


class SinkConformance:
    """Inherit, and define an async fixture `harness`."""

    @pytest.fixture
    def context(self, tmp_path: Path, manual_clock: Clock) -> SinkContext:
        return context_of(tmp_path, manual_clock)

    async def test_delivers_every_row_of_a_span(self, harness: Harness, context: SinkContext) -> None:
        sink = harness.build(context)
        await sink.connect()
        for kind in harness.kinds:
            tags = context.tags
            assert isinstance(tags, Tags)
            await sink.write([batch_of(kind, 10, 7, tags), batch_of(kind, 17, 5, tags)], span_of(kind, 10, 12))
        await sink.aclose()
        for kind in harness.kinds:
            found = await harness.rows(kind, context, 12)
            assert sorted(seq for seq, _ in found) == list(range(10, 22)), kind
            assert all(path == context.tags[seq % 3].path for seq, path in found), kind

    async def test_a_repeated_span_is_harmless(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        for _ in range(2):  # the second sink is the one after a crash
            sink = harness.build(context)
            await sink.connect()
            await sink.write([batch_of(kind, 0, 30, context.tags)], span_of(kind, 0, 30))
            await sink.write([batch_of(kind, 0, 10, context.tags), batch_of(kind, 10, 20, context.tags)], span_of(kind, 0, 30))
            await sink.aclose()
        found = await harness.rows(kind, context, 30 if harness.exactly_once else 120)
        assert {seq for seq, _ in found} == set(range(30))
        if harness.exactly_once:
            assert len(found) == 30

    async def test_filtered_rows_are_absent(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        sink = harness.build(context)
        await sink.connect()
        whole = batch_of(kind, 0, 20, context.tags)
        await sink.write([whole.filter(pa.array([n % 2 == 1 for n in range(20)]))], span_of(kind, 0, 20))
        await sink.write([], span_of(kind, 20, 5))
        await sink.write([batch_of(kind, 25, 3, context.tags).slice(0, 0)], span_of(kind, 25, 3))
        await sink.aclose()
        assert sorted(seq for seq, _ in await harness.rows(kind, context, 10)) == list(range(1, 20, 2))

    async def test_order_is_kept_per_tag(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        sink = harness.build(context)
        await sink.connect()
        for first in range(0, 200, 50):
            await sink.write([batch_of(kind, first, 50, context.tags)], span_of(kind, first, 50))
        await sink.aclose()
        found = await harness.rows(kind, context, 200)
        for tag in context.tags:
            mine = [seq for seq, path in found if path == tag.path]
            assert mine == sorted(mine)
            assert len(mine) > 60

    async def test_service_away_at_the_start_and_back(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        sink = harness.build(context)
        await harness.down()
        for _ in range(2):
            with pytest.raises(NotConnected):
                await sink.connect()
        with pytest.raises(NotConnected):
            await sink.write([batch_of(kind, 0, 3, context.tags)], span_of(kind, 0, 3))
        await harness.up()
        await sink.connect()
        await sink.write([batch_of(kind, 0, 3, context.tags)], span_of(kind, 0, 3))
        await sink.aclose()
        assert sorted(seq for seq, _ in await harness.rows(kind, context, 3)) == [0, 1, 2]

    async def test_service_away_in_the_middle_and_back(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        sink = harness.build(context)
        await sink.connect()
        await sink.write([batch_of(kind, 0, 3, context.tags)], span_of(kind, 0, 3))
        await harness.down()
        with pytest.raises(NotConnected):
            await sink.write([batch_of(kind, 3, 3, context.tags)], span_of(kind, 3, 3))
        await harness.up()
        await sink.connect()
        await sink.write([batch_of(kind, 3, 3, context.tags)], span_of(kind, 3, 3))
        await sink.aclose()
        assert {3, 4, 5} <= {seq for seq, _ in await harness.rows(kind, context, 3)}

    async def test_aclose_is_legal_before_connect_and_idempotent(self, harness: Harness, context: SinkContext) -> None:
        await harness.build(context).aclose()
        sink = harness.build(context)
        await sink.connect()
        await sink.aclose()
        await sink.aclose()

    async def test_nothing_is_left_behind(self, harness: Harness, context: SinkContext) -> None:
        assert isinstance(context.tags, Tags)
        kind = harness.kinds[0]
        warm = harness.build(context)  # libraries open files and threads of their own once
        await warm.connect()
        await warm.write([batch_of(kind, 0, 3, context.tags)], span_of(kind, 0, 3))
        await warm.aclose()
        before = await _settled()
        sink = harness.build(context)
        listening = asyncio.ensure_future(_all(sink))
        await sink.connect()
        await sink.write([batch_of(kind, 3, 3, context.tags)], span_of(kind, 3, 3))
        await sink.aclose()
        assert await asyncio.wait_for(listening, 5) == 0
        for _ in range(50):
            after = await _settled()
            if not (left := _more(after, before)):
                break
            await asyncio.sleep(0.05)
        assert not left, f"{before} has become {after}"

    async def test_odd_names(self, harness: Harness, tmp_path: Path, manual_clock: Clock) -> None:
        tags = Tags(*(f"acme/osaka/{name}/{name}" for name in ODD_NAMES))
        context = context_of(tmp_path, manual_clock, tags)
        kind = harness.kinds[0]
        sink = harness.build(context)
        await sink.connect()
        await sink.write([batch_of(kind, 0, 2 * len(tags), tags)], span_of(kind, 0, 2 * len(tags)))
        await sink.aclose()
        found = await harness.rows(kind, context, 2 * len(tags))
        assert sorted(found) == [(n, tags[n % len(tags)].path) for n in range(2 * len(tags))]

    async def test_a_connected_sink_is_not_lost(self, harness: Harness, context: SinkContext) -> None:
        sink = harness.build(context)
        await sink.connect()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sink.lost(), 0.2)
        await sink.aclose()

    async def test_policy_is_constant_and_bounds_memory(self, harness: Harness, context: SinkContext) -> None:
        sink = harness.build(context)
        for kind in harness.kinds:
            policy = sink.policy(kind)
            assert policy == sink.policy(kind)
            assert policy.max_rows >= 1
            assert policy.max_bytes >= 1
            assert policy.max_age_s >= 0
        await sink.aclose()


async def _all(sink: Sink) -> int:
    return len([command async for command in sink.commands()])


async def _settled() -> tuple[list[str], int, int]:
    """Threads by name, tasks, open file descriptors, once a service in this process has stopped tidying up after its client."""
    now = _open_things()
    for _ in range(40):
        await asyncio.sleep(0.05)
        before, now = now, _open_things()
        if now == before:
            break
    return now


def _more(after: tuple[list[str], int, int], before: tuple[list[str], int, int]) -> bool:
    """Whether anything is held that was not held before; what a test before this one had held may have ended meanwhile."""
    return bool(Counter(after[0]) - Counter(before[0])) or after[1] > before[1] or after[2] > before[2]


def _open_things() -> tuple[list[str], int, int]:
    pool = "asyncio_"  # the loop's own: it grows to its bound, whoever asks
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(pool))
    return threads, len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
