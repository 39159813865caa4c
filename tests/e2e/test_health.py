"""Health rows of a model, from a device over the wire into the lake."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.simulation import Replay
from cloud_sinks import lake
from tests.e2e import plant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]
MODEL = """
models:
  wear: {kind: trend_to_limit, tags: ["**/temp"], window: 3s, within: 1s, warm_up: 0s, confidence: 0.5, min_samples: 10}
"""


async def test_the_time_until_a_limit_arrives_in_the_lake_with_its_interval(tmp_path):
    press = plant.PRESS.replace("scan: 50ms", "scan: 10ms")
    path = plant.write(tmp_path, plant.HEAD + press + MODEL + "sinks:\n" + plant.LAKE)
    wear = np.append(np.linspace(20, 100, 800), np.full(50, 100.0)) + np.random.default_rng(3).normal(0, 0.2, 850)
    (tmp_path / "machine.csv").write_text("value\n" + "".join(f"{v:.3f}\n" for v in wear), encoding="utf-8")
    replay = Replay(tag="press/temp", file=tmp_path / "machine.csv", column="value")
    simulator = plant.simulator_of(await plant.load(path), "press", replays=(replay,))
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(lambda: pipeline.spool.end("health") >= 5, "five forecasts", 40)
    await simulator.aclose()
    account = pipeline.spool.account("health", "lake")
    assert account.read == account.delivered == pipeline.spool.end("health")
    rows = lake.scan(tmp_path / "lake", kind="health").sort("row").collect()
    assert rows.height == account.read
    assert set(rows["model"]) == {"wear"}
    assert set(rows["measure"]) == {"time_to_limit"}
    assert set(rows["unit"]) == {"s"}
    assert all(tag.endswith("press/temp") for tag in rows["tag"])
    told = rows.drop_nulls("value")
    assert told.height >= 4
    assert (told["low"] <= told["value"]).all()
    assert (told["value"] > 0).all()
    telemetry = set(plant.telemetry_of(tmp_path / "lake", "temp")["seq"])
    assert set(rows["seq"]) <= telemetry  # each names the reading that it was made from
