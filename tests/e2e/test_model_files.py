"""Models in files in a whole gateway: one whose alarm says that nobody signed it, and one that overruns while everything else goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.simulation import Scenario, SignalConfig
from cloud_sinks import lake
from tests.e2e import plant
from tests.edge_models.graphs import mean_graph, slow_graph

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SCENARIO = Scenario(signals={"press/temp": SignalConfig(mean=150, noise=0.1)})
MODELS = """
models:
  press-health: {kind: onnx, tags: ["**"], file: health.onnx, inputs: [temp, mode], every: 50ms, budget: 30s}
  press-slow: {kind: onnx, tags: ["**"], file: slow.onnx, inputs: [temp, mode], every: 50ms, budget: 300ms}
routes:
  - {data: score, to: [lake]}
"""


async def test_a_model_in_a_file_raises_and_one_that_overruns_is_suspended_while_data_flow_on(tmp_path: Path) -> None:
    mean_graph(tmp_path / "health.onnx", 2, 2, level=60.0, change=lambda model: model.graph.output.pop())
    slow_graph(tmp_path / "slow.onnx", 10**8)
    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + MODELS + "sinks:" + plant.LAKE)
    simulator = plant.simulator_of(await plant.load(path), "press", scenario=SCENARIO)
    endpoint = await simulator.start()

    def alerts() -> dict[str, str]:
        if not (tmp_path / "lake").is_dir():
            return {}
        found = lake.scan(tmp_path / "lake", kind="alert").collect().to_dicts()
        return {row["alarm"]: row["problem"] for row in found if row["transition"] == "raised"}

    try:
        async with plant.gateway(path, {"press": endpoint}) as pipeline:
            assert pipeline.models.versions["press-health"].startswith("onnx 1, unsigned health.onnx, sha256:")
            wanted = {"temp.high", "press-health", "model_suspended.press-slow"}
            async with asyncio.timeout(90):
                while not wanted <= (await asyncio.to_thread(alerts)).keys():  # noqa: ASYNC110 (files)
                    await asyncio.sleep(0.1)
            rows = pipeline.spool.end("telemetry")
            await plant.until(lambda: pipeline.spool.end("telemetry") > rows + 20, "data flow on", 30)
            runner = pipeline.runner
            assert runner is not None
            await plant.until(lambda: runner.cursor > rows + 20, "the models keep up", 30)
    finally:
        await simulator.aclose()
    said = await asyncio.to_thread(alerts)
    assert "(unsigned health.onnx, sha256:" in said["press-health"]
    assert "took longer than its budget of 0.3 s" in said["model_suspended.press-slow"]
    scores = await asyncio.to_thread(lambda: lake.scan(tmp_path / "lake", kind="score").collect().to_dicts())
    by_model = {name: [row["score"] for row in scores if row["model"] == name] for name in ("press-health", "press-slow")}
    assert by_model["press-slow"]
    assert set(by_model["press-slow"]) == {None}
    assert [score for score in by_model["press-health"] if score is not None]
