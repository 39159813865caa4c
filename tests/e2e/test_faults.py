"""What goes wrong in plants, end to end: devices absent, dying, lying; sinks away; clocks set back."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest

from adapters.simulation import Scenario, SignalConfig
from cloud_sinks import lake
from schemas import quality as q
from schemas.errors import ConfigError
from tests.e2e import plant

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


async def test_a_device_absent_at_the_start_is_bad_rows_one_event_and_then_data(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(path), "press")
    endpoint = await simulator.start()
    await simulator.aclose()
    port = int(endpoint.rsplit(":", 1)[1])
    async with plant.gateway(path, {"press": endpoint}) as pipeline:
        await plant.until(lambda: pipeline.collectors[0].state == "down", "the device is known to be away")
        await asyncio.sleep(1.0)
        simulator = plant.simulator_of(await plant.load(path), "press")
        await simulator.start(port=port)
        await plant.until(lambda: pipeline.collectors[0].state == "up", "values within 5 s", 5)
        await asyncio.sleep(0.3)
        await simulator.aclose()
    rows = plant.telemetry_of(tmp_path / "lake", "temp")
    assert rows["quality"][0] == q.BAD_NO_COMMUNICATION
    assert rows["value"][0] is None
    assert (rows["quality"] == q.GOOD).sum() > 2
    events = lake.scan(tmp_path / "lake", kind="event").filter(pl.col("source") == "press").sort("seq").collect()
    assert events["event"].to_list()[:2] == ["adapter_down", "adapter_up"]
    gaps = lake.scan(tmp_path / "lake", kind="gap").collect()
    assert set(gaps["cause"]) == {"not_connected"}
    assert gaps.height >= 2  # one per tag


async def test_a_device_that_dies_and_returns_has_values_again_within_five_seconds_and_a_gap_row(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(path), "press")
    endpoint = await simulator.start()
    async with plant.gateway(path, {"press": endpoint}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 10, "values")
        await simulator.aclose()
        await plant.until(lambda: pipeline.collectors[0].state == "down", "the device is known to be away", 5)
        simulator = plant.simulator_of(await plant.load(path), "press")
        await simulator.start(port=int(endpoint.rsplit(":", 1)[1]))
        await plant.until(lambda: pipeline.collectors[0].state == "up", "values within 5 s", 5)
        await asyncio.sleep(0.2)
        await simulator.aclose()
    gaps = lake.scan(tmp_path / "lake", kind="gap", tags="**/temp").collect()
    assert gaps.height == 1
    start, end = gaps["time"][0], gaps["end"][0]
    inside = plant.telemetry_of(tmp_path / "lake", "temp").filter(
        (pl.col("time") > start) & (pl.col("time") < end) & (pl.col("quality") == 0)
    )
    assert inside.height == 0


async def test_a_wrong_address_costs_that_tag_only(tmp_path):
    text = plant.PRESS + '      wrong: {address: "hr:60000", type: float32, unit: bar}\n'
    served = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(served), "press")
    path = plant.write(tmp_path, plant.HEAD + text + "sinks:\n" + plant.LAKE)
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 30, "values")
    await simulator.aclose()
    wrong, right = (plant.telemetry_of(tmp_path / "lake", name) for name in ("wrong", "temp"))
    assert right.filter(pl.col("quality") == 0).height > 5
    assert wrong.height > 0
    assert wrong.filter(pl.col("quality") < q.BAD).height == 0


async def test_nan_and_infinity_are_bad_rows_without_a_value(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    (tmp_path / "recording.csv").write_text("value\n1.5\nnan\ninf\n-inf\n2.5\n", encoding="utf-8")
    replay = plant.Replay(tag="press/temp", file=tmp_path / "recording.csv")
    simulator = plant.simulator_of(await plant.load(path), "press", replays=(replay,))
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 16, "values")
    await simulator.aclose()
    rows = plant.telemetry_of(tmp_path / "lake", "temp")
    assert rows["value"].to_list()[:5] == [1.5, None, None, None, 2.5]
    assert rows["quality"].to_list()[:5] == [0, *[q.BAD_SENSOR_FAILURE] * 3, 0]


async def test_text_where_a_number_is_expected_is_refused_with_its_place(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS.replace("high: 90", "high: hot") + "sinks:\n" + plant.LAKE)
    with pytest.raises(ConfigError) as caught:
        await plant.load(path)
    assert "plant.yaml:15:71 " in str(caught.value)
    assert "adapters.press.tags.temp.limits.high" in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "torn"])
async def test_a_damaged_newest_segment_does_not_keep_the_gateway_from_starting(tmp_path, damage):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(path), "press")
    endpoint = await simulator.start()
    async with plant.gateway(path, {"press": endpoint}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 20, "values")
    newest = sorted((tmp_path / "spool" / "telemetry").glob("*.seg"))[-1]
    if damage == "empty":
        newest.write_bytes(b"")
    else:
        whole = newest.read_bytes()
        newest.write_bytes(whole[: len(whole.rstrip(b"\\0")) - 7])
    before = plant.telemetry_of(tmp_path / "lake", "temp").height
    async with plant.gateway(path, {"press": endpoint}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 20, "values")
    await simulator.aclose()
    rows = plant.telemetry_of(tmp_path / "lake", "temp")
    assert rows.height > before + 5
    assert rows.select("epoch", "seq").is_unique().all()


async def test_while_the_lake_is_unusable_the_spool_holds_an_alarm_is_raised_and_afterwards_everything_arrives(tmp_path):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(path), "press")
    (tmp_path / "lake").write_text("a file where the directory should be", encoding="utf-8")
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:

        def troubled() -> bool:
            return any(a.alarm == "sink_unreachable.lake" and a.state == "unacknowledged" for a in pipeline.alarms.active())

        await plant.until(troubled, "an alarm about the lake", 15)
        assert pipeline.spool.account("telemetry", "lake").delivered == 0
        assert pipeline.spool.account("telemetry", "lake").spooled > 0
        (tmp_path / "lake").unlink()
        await plant.until(lambda: pipeline.spool.account("telemetry", "lake").delivered > 0, "delivery resumes", 10)
        await plant.until(lambda: not troubled(), "the alarm clears", 10)
    await simulator.aclose()
    rows = lake.scan(tmp_path / "lake").select("seq").sort("seq").collect()["seq"].to_list()
    assert rows == list(range(len(rows)))
    assert len(rows) == pipeline.spool.account("telemetry", "lake").delivered


async def test_a_clock_that_is_set_back_is_an_alarm_and_data_and_models_go_on(tmp_path, monkeypatch):
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    configuration = await plant.load(path)
    scenario = Scenario(signals={"press/temp": SignalConfig(mean=50, noise=0.1), "press/mode": SignalConfig(constant=1)})
    simulator = plant.simulator_of(configuration, "press", scenario=scenario)
    async with plant.gateway(path, {"press": await simulator.start()}) as pipeline:
        await plant.until(lambda: pipeline.latest.count > 40, "values")
        real = pipeline.clock.now_us
        monkeypatch.setattr(pipeline.clock, "now_us", lambda: real() - 3_600_000_000)
        await plant.until(lambda: any("clock_unsynchronised" in str(alarm) for alarm in pipeline.alarms.active()), "the alarm", 5)
        seen = pipeline.latest.count
        await plant.until(lambda: pipeline.latest.count > seen + 40, "values go on")
        assert pipeline.runner is not None
        scored = pipeline.runner.cursor
        await plant.until(lambda: pipeline.runner.cursor > scored + 10, "models go on behind the step")
    await simulator.aclose()
    rows = plant.telemetry_of(tmp_path / "lake", "temp")
    assert rows["seq"].is_unique().all()
    assert (rows["time"].diff().dt.total_seconds() < -3000).sum() == 1
    assert rows.filter(pl.col("quality") != 0).height == 0
