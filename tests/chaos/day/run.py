"""One day: the gateway as a process, killed again and again, while the world around it fails. Then everything is looked at."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from gateway.clock import WallClock
from gateway.spool import Spool
from schemas.kinds import KINDS
from schemas.lake import LakeFile
from schemas.manifest import MANIFEST
from tests.e2e import plant as e2e

from . import check, recording
from .stands import BUCKET, CREDENTIALS, LIVE, PLANT, SINKS, STREAM, Stands, standing
from .weather import Weather

_DRAIN_S = 120.0


@dataclass
class Result:
    """What came out of one day. Well when `wrong` is empty."""

    seed: int
    kills: int
    rows: dict[str, int] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)
    sent_twice: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # acknowledged rows that a sink has not, all sinks together
    duplicated: int = 0  # rows that a lake has twice
    objects: int = 0
    looks: int = 0
    starts: int = 0
    seconds: float = 0.0
    verified: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def credentials() -> Iterator[None]:
    """The environment has the credentials of the stand-ins."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


async def run(folder: Path, *, seed: int, kills: int, hours: float = 24.0, program: Sequence[str] = ("-m", "gateway")) -> Result:
    """Play `hours` of the plant through `kills` kills in `folder` and look at everything. `program` is what runs as the gateway."""
    result, began = Result(seed, kills), time.monotonic()
    rng = random.Random(seed)
    readings, events = await asyncio.to_thread(recording.make, seed, hours)
    await asyncio.to_thread(recording.write, folder / "recording", readings, events)
    (folder / "live").mkdir()
    live = await e2e.load(e2e.write(folder / "live", LIVE))
    with credentials():
        async with standing(folder, lambda: e2e.simulator_of(live, "live")) as stands:
            path = e2e.write(folder, _plant(folder, stands, hours * 3600 / max(1.0, kills * 1.1)))
            day = _Day(path, stands, rng, result, program)
            try:
                await day.play(kills)
                await day.finish()
                await asyncio.to_thread(_look, folder, stands, day, readings, events, result)
            finally:
                await day.end()
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _plant(folder: Path, stands: Stands, speed: float) -> str:
    devices = []
    for number, asset in enumerate(recording.ASSETS):
        devices += [f"      m{number}:", f'        asset: "{asset}"', "        tags:"]
        for tag in recording.TAGS:
            limits = f", unit: Cel, limits: {{high: {recording.LIMIT}, hysteresis: 1}}" if tag.name == "temp" else ""
            devices.append(f'          {tag.name}: {{address: "{asset}/{tag.name}", type: {tag.type}{limits}}}')
    return PLANT.format(
        recording=folder / "recording", speed=f"{speed:.1f}", devices="\n".join(devices), machine=stands.machine_endpoint,
        broker=stands.broker_proxy.port, certificate=stands.broker.certificate, key=stands.broker.key, ca=stands.broker.ca,
        stub=stands.stub.endpoint, stream=stands.stream.endpoint, stream_name=STREAM, bucket=stands.bucket.endpoint,
        bucket_name=BUCKET, lake=stands.disk.inside / "lake",
    )  # fmt: skip


class _Day:
    """The gateway's life."""

    def __init__(self, path: Path, stands: Stands, rng: random.Random, result: Result, program: Sequence[str]) -> None:
        self.kills: list[check.Kill] = []
        self.ends: dict[str, int] = {}
        self._stands, self._rng, self._result = stands, rng, result
        self._gateway = e2e.GatewayProcess(path, {}, before=stands.disk.enter, program=program)
        self._spool = path.parent / "spool"
        self._durable: dict[str, int] = {}
        self._waiting = -1

    async def play(self, kills: int) -> None:
        """The troubles and the kills."""
        weather = Weather(self._stands, self._rng)
        blowing = asyncio.create_task(weather.run())
        try:
            for _ in range(kills):
                await self._one_life()
        finally:
            blowing.cancel()
            await asyncio.gather(blowing, return_exceptions=True)
            self._result.troubles = dict(sorted(weather.seen.items()))

    async def _one_life(self) -> None:
        """From a start to a kill; one in six does not live long enough to be ready."""
        self._result.starts += 1
        await self._gateway.spawn()
        if self._rng.random() < 1 / 6:
            await asyncio.sleep(self._rng.uniform(0.2, 2.0))
        else:
            await self._ready()
            end = time.monotonic() + self._rng.uniform(0.2, 2.2)
            while time.monotonic() < end:
                await self._look()
                await asyncio.sleep(max(0.0, min(0.35, end - time.monotonic())))
        assert self._gateway.process.returncode is None, self._gateway.lines[-5:]
        await self._gateway.kill()
        self.kills.append(check.Kill(time.time_ns() // 1000, dict(self._durable)))
        self._complain_of_crashes()

    async def _ready(self) -> None:
        await e2e.until(
            lambda: self._gateway.said("gateway is ready") is not None or self._gateway.process.returncode is not None,
            "ready",
            40,
        )
        assert self._gateway.process.returncode is None, self._gateway.lines[-5:]

    async def _look(self) -> None:
        """At /metrics."""
        served = self._gateway.said("metrics are served")
        if served is None:
            return
        text = await asyncio.to_thread(_get, f"http://{served['listen']}/metrics")
        if text is not None:
            wrong, durable, self._waiting = check.scrape_adds_up(text, self._durable)
            self._result.wrong += wrong
            self._result.looks += 1
            self._durable = durable

    async def finish(self) -> None:
        """In good weather, until everything has been played and delivered; then a stop in good order."""
        for _ in range(3):
            self._result.starts += 1
            await self._gateway.start()
            deadline = time.monotonic() + _DRAIN_S
            while not (self._gateway.said("source has no more data") and 0 <= self._waiting < 2_000):
                assert time.monotonic() < deadline, f"{self._waiting} rows wait; {self._gateway.lines[-8:]}"
                await asyncio.sleep(0.25)
                await self._look()
            status = await self._gateway.stop()
            self._complain_of_crashes()
            if status:
                self._result.wrong.append(f"the gateway ended with {status}")
            spool = await Spool.open(self._spool, gateway="gw-1", clock=WallClock(), log=structlog.get_logger())
            try:
                accounts = {(kind, sink): spool.account(kind, sink) for kind in KINDS for sink in SINKS.get(kind, ())}
                self.ends = {kind: spool.durable(kind) for kind in KINDS}
            finally:
                await spool.close()
            if not any(account.spooled for account in accounts.values()):
                break
        self._result.wrong += check.accounts_hold(accounts)
        self._result.rows = {kind: end for kind, end in self.ends.items() if end}

    async def end(self) -> None:
        """Whatever happened."""
        with suppress(AttributeError):  # it was never started
            if self._gateway.process.returncode is None:
                await self._gateway.kill()

    def _complain_of_crashes(self) -> None:
        """A crash of a task is a bug, and so is a word of what nobody may see twice."""
        for line in self._gateway.lines:
            if line["event"] in ("task crashed and is restarted", "rows were rejected for good", "a person must act"):
                self._result.wrong.append(json.dumps(line, ensure_ascii=False)[:2000])


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _look(folder: Path, stands: Stands, day: _Day, readings: pa.Table, events: pa.Table, result: Result) -> None:
    """At everything that the stand-ins have."""
    local, bucket = folder / "local", folder / "bucket"
    shutil.copytree(stands.disk.outside / "lake", local)
    result.objects = download(stands.client("s3"), bucket)
    lines = [json.loads(line) for _, data in list(stands.stub.taken) for line in data.splitlines()]
    keys = [key for key, data in list(stands.stub.taken) for _ in data.splitlines()]
    named = [(line["kind"], key, line["row"]) for key, line in zip(keys, lines, strict=True)]
    arrow = _arrow_rows(stands.client("kinesis"))
    iot = [(kind, "all", row["row"]) for kind in ("alert", "event") for row in stands.listener.rows(kind)]
    wrong: list[str] = []
    for name, where in (("s3", bucket), ("local", local)):
        wrong += check.rows_once_each(name, where, day.ends, day.kills)
        wrong += check.values_are_the_recorded(name, where, readings, events)
        for kind in (kind for kind, sinks in SINKS.items() if name in sinks):
            lost, twice = check.lost_and_twice(check.numbers(where, kind), day.ends[kind])
            result.lost, result.duplicated = result.lost + lost, result.duplicated + twice
    wrong += check.lakes_agree(bucket, local)
    wrong += check.alarms_are_those_of_the_recording(local, readings)
    wrong += check.gaps_cover_what_was_not_read(local, day.kills)
    for name, rows in (("stream", named), ("arrow", arrow), ("iot", iot)):
        wrong += check.stream_is_complete(name, rows, day.ends)
        seen = {(kind, number) for kind, _, number in rows}
        result.sent_twice[name] = len(rows) - len(seen)
        result.lost += sum(day.ends[kind] for kind, sinks in SINKS.items() if name in sinks) - len(seen)
    if not wrong:
        wrong += check.lines_say_what_the_lake_says(lines, local)
    wrong += _told(result, "s3", _verify(folder, "s3", _at(stands)))
    wrong += _told(result, "local", _verify(folder, "local", [str(local)]))
    if not wrong:
        wrong += _what_verify_says_of_a_lost_file(folder, local)
        wrong += _after_compaction(folder, stands, result, local)
    result.wrong += wrong


def _after_compaction(folder: Path, stands: Stands, result: Result, before: Path) -> list[str]:
    """The bucket's small files are merged: nothing is there twice or not at all."""
    status, told = _genba(folder, "lake", "compact", *_at(stands), "--older-than", "0s", "--grace", "0s")
    if status:
        return [f"genba lake compact: {told}"]
    merged = folder / "merged"
    download(stands.client("s3"), merged)
    wrong = _told(result, "s3, merged", _verify(folder, "s3", _at(stands)))
    wrong += check.lakes_agree(before, merged)
    if not list(merged.rglob(MANIFEST)):
        wrong.append(f"genba lake compact merged nothing: {told}")
    return wrong


def _told(result: Result, name: str, said: tuple[int, str]) -> list[str]:
    """What `genba lake verify` says, noted; a complaint where it is not well."""
    status, told = said
    result.verified[name] = told.strip().splitlines()[-1]
    return [f"genba lake verify, {name}: {told}"] if status else []


def _at(stands: Stands) -> list[str]:
    return [f"s3://{BUCKET}/genba", "--endpoint", f"http://127.0.0.1:{stands.aws.port}"]


def _verify(folder: Path, sink: str, arguments: Sequence[str]) -> tuple[int, str]:
    return _genba(folder, "lake", "verify", *arguments, "--spool", str(folder / "spool"), "--sink", sink, "--deep")


def _genba(folder: Path, *arguments: str) -> tuple[int, str]:
    """A command as a person calls it: exit status, and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _what_verify_says_of_a_lost_file(folder: Path, lake: Path) -> list[str]:
    """The control: without one file it must not be well, and name the rows."""
    files = sorted(lake.glob("telemetry/**/*.parquet"))
    file = files[len(files) // 2]
    lost = LakeFile.parse(file.relative_to(lake).as_posix()).span
    aside = file.rename(folder / "aside")
    status, told = _verify(folder, "local", [str(lake)])
    aside.rename(file)
    if status != 1 or "missing" not in told or str(lost.first) not in told:
        return [f"a file with rows {lost.first} to {lost.last} was lost, and genba lake verify says ({status}): {told}"]
    return []


def download(s3: Any, folder: Path, prefix: str = "genba/") -> int:
    """The lake below a prefix of the bucket, into a folder; how many objects it is."""
    names = [name for name in _objects(s3, prefix) if not name.startswith(f"{prefix}.")]
    for name in names:
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(BUCKET, name, str(path))
    return len(names)


def _objects(s3: Any, prefix: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [one["Key"] for page in pages for one in page.get("Contents", ())]


def _arrow_rows(kinesis: Any) -> list[tuple[str, str, int]]:
    """(kind, key, row number) of every row in the stream of Arrow records, shard by shard."""
    found: list[tuple[str, str, int]] = []
    for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]:
        given = {"StreamName": STREAM, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        at = kinesis.get_shard_iterator(**given)["ShardIterator"]
        while at:
            answer = kinesis.get_records(ShardIterator=at, Limit=1000)
            for record in answer["Records"]:
                table = pa.ipc.open_stream(record["Data"]).read_all()
                about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
                found += [(about["genba.kind"], record["PartitionKey"], row) for row in table.column("seq").to_pylist()]
            at = answer.get("NextShardIterator") if answer["Records"] or answer.get("MillisBehindLatest") else None
    return found
