"""The main job: recorded data over the wire into the lake, alerts in order, a kill in the middle."""

from __future__ import annotations

import asyncio
import urllib.request

import polars as pl
import pytest

from adapters.simulation import Replay
from cloud_sinks import lake
from gateway.demo import broker, operator
from tests.e2e import plant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_a_replayed_recording_comes_out_of_the_lake_value_for_value(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS.replace("scan: 50ms", "scan: 10ms") + "sinks:\n" + plant.LAKE)
    recorded = [20.0 + 0.1 * n + (n * 7919 % 13) / 7 for n in range(300)]
    (tmp_path / "machine.csv").write_text(
        "timestamp,value\n" + "".join(f"2026-01-01 00:{n // 60:02d}:{n % 60:02d},{v!r}\n" for n, v in enumerate(recorded)),
        encoding="utf-8",
    )
    replay = Replay(tag="press/temp", file=tmp_path / "machine.csv", column="value")
    simulator = plant.simulator_of(await plant.load(path), "press", replays=(replay,))
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(
            lambda: pipeline.latest.value[0] == recorded[-1] and pipeline.latest.count > 600, "the whole recording", 30
        )
    await simulator.aclose()
    values = plant.telemetry_of(tmp_path / "lake", "temp")["value"].to_list()
    assert values[:300] == recorded
    assert set(values[300:]) <= {recorded[-1]}
    account = pipeline.spool.account("telemetry", "lake")
    assert account.read == account.delivered + account.filtered + account.spooled + account.dropped + account.dead_lettered
    assert account.spooled == 0


async def test_alerts_raised_while_the_broker_is_away_arrive_in_order_when_it_is_back(tmp_path):
    sinks = "sinks:\n  alerts: {kind: mqtt, endpoint: mqtt://127.0.0.1:1}\n" + plant.LAKE
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + sinks)
    wave = [50.0, 50.0, 95.0, 95.0, 95.0, 50.0, 50.0, 50.0]
    (tmp_path / "machine.csv").write_text("value\n" + "".join(f"{v}\n" for v in (wave * 8)), encoding="utf-8")
    simulator = plant.simulator_of(
        await plant.load(path), "press", replays=(Replay(tag="press/temp", file=tmp_path / "machine.csv"),)
    )
    endpoint = await simulator.start()
    async with plant.gateway(path, {"press": endpoint}, grace_s=1.0) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 2 * 64, "the whole recording", 30)
        await asyncio.sleep(0.3)
    waiting = pipeline.spool.account("alert", "alerts")
    assert waiting.delivered == 0
    assert waiting.spooled >= 16
    seen: list = []
    async with broker() as address, operator(address, seen.append):
        await asyncio.sleep(0.3)
        async with plant.gateway(path, {"press": endpoint, "alerts": address}) as pipeline:
            await plant.until(lambda: pipeline.spool.account("alert", "alerts").spooled == 0, "all alerts delivered")
    await simulator.aclose()
    mine = [(alert.message["time"], alert.transition) for alert in seen if alert.alarm == "temp.high"]
    assert [transition for _, transition in mine[:16]] == ["raised", "cleared"] * 8
    assert [time for time, _ in mine] == sorted(time for time, _ in mine)
    ids = [(alert.message["id"], alert.transition) for alert in seen]
    assert len(ids) == len(set(ids))


async def test_after_kill_9_acknowledged_rows_are_in_the_lake_once_and_the_outage_is_a_gap(tmp_path):
    head = plant.HEAD.replace("listen: null", "listen: 127.0.0.1:0")
    path = plant.write(tmp_path, head + plant.PRESS.replace("scan: 50ms", "scan: 20ms") + "sinks:\n" + plant.LAKE)
    configuration = await plant.load(path)
    recording = plant.replay_file(tmp_path, 20_000)
    simulator = plant.simulator_of(configuration, "press", replays=(Replay(tag="press/temp", file=recording),))
    endpoint = await simulator.start()
    gateway = plant.GatewayProcess(path, {"press": endpoint})
    acknowledged = 0
    try:
        for pause in (1.7, 1.1):
            await gateway.start()
            await asyncio.sleep(pause)
            served = gateway.said("metrics are served")
            assert served is not None
            acknowledged = await asyncio.to_thread(durable_rows, str(served["listen"]))
            await gateway.kill()
        await asyncio.sleep(0.5)
        await gateway.start()
        await asyncio.sleep(1.0)
    finally:
        status = await gateway.stop()
    assert status == 0, gateway.lines
    await simulator.aclose()
    assert acknowledged > 20
    rows = lake.scan(tmp_path / "lake").sort("seq").collect()
    seq = rows["seq"].to_list()
    assert len(seq) == len(set(seq))
    assert set(range(acknowledged)) <= set(seq)
    temp = rows.filter(pl.col("tag").cast(pl.String).str.ends_with("/temp") & (pl.col("quality") == 0))["value"].to_list()
    assert len(temp) == len(set(temp))
    assert temp == sorted(temp)
    assert all(value == int(value) + 0.5 and 0 <= value < 20_000 for value in temp)
    gaps = lake.scan(tmp_path / "lake", kind="gap", tags="**/temp").collect()
    assert gaps.filter(pl.col("cause") == "gateway_stopped").height == 2


def durable_rows(listen: str) -> int:
    """How many telemetry rows the gateway says are durable."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith('genba_durable_rows_total{kind="telemetry"}'):
                return int(float(line.split()[-1]))
    raise AssertionError("no such metric")
