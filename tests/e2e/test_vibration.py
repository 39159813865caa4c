"""A bearing that fails, from waveforms of an OPC UA server to an alert in the lake that names the damaged ring."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from asyncua import ua

from cloud_sinks import lake
from edge_models.waveform import bearing_orders
from tests.adapters.opcua.served import PLANT, served
from tests.e2e import plant
from tests.edge_models.waveforms import bearing

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
SHAFT, LENGTH = 24.7, 4096
BPFO = bearing_orders(9, 7.94, 39.04, 0.0)["BPFO"] * SHAFT
FAN = """
adapters:
  monitor:
    kind: opcua
    endpoint: opc.tcp://127.0.0.1:1
    security: {policy: None}
    asset: fans/fan-1
    scan: 20ms
    tags:
      wave: {address: "ns=SPACE;s=Wave", type: array of float32, unit: m/s², label: Fan 1 bearing}
models:
  bearing:
    kind: vibration
    tags: ["**/wave"]
    sample_rate: 25600
    rpm: 1482
    bearing: {balls: 9, ball_diameter: 7.94, pitch_diameter: 39.04}
    warm_up: 500ms
    min_samples: 30
    report: 500ms
"""


async def test_a_damaged_ring_is_named_in_the_alert_that_reaches_the_lake(tmp_path):
    async with served() as (endpoint, server):
        space = await server.get_namespace_index(PLANT)
        healthy = [bearing(0, strength=0.0, seed=seed, length=LENGTH).tolist() for seed in range(60)]
        damaged = [bearing(BPFO, strength=5.0, seed=seed, length=LENGTH).tolist() for seed in range(60, 80)]
        wave = await server.nodes.objects.add_variable(
            ua.NodeId("Wave", space), ua.QualifiedName("Wave", space), healthy[0], ua.VariantType.Float
        )
        text = plant.HEAD + FAN.replace("SPACE", str(space)) + "sinks:\n" + plant.LAKE
        async with plant.gateway(plant.write(tmp_path, text), {"monitor": endpoint}) as pipeline:
            spool = pipeline.spool

            async def show(block: list[float]) -> None:
                await wave.write_value(ua.Variant(block, ua.VariantType.Float))
                await asyncio.sleep(0.05)

            for block in itertools.cycle(healthy):
                if spool.end("telemetry") >= 80:
                    break
                await show(block)
            assert spool.end("alert") == 0
            for block in itertools.cycle(damaged):
                if spool.end("alert"):
                    break
                await show(block)
    (alert,) = lake.scan(tmp_path / "lake", kind="alert").collect().to_dicts()
    assert alert["transition"] == "raised"
    assert alert["alarm"] == "wave.bearing"
    assert alert["problem"].startswith("Fan 1 bearing vibrates unusually: BPFO")
    assert next(iter(json.loads(alert["contributions"]))).startswith("BPFO")
    health = lake.scan(tmp_path / "lake", kind="health").collect()
    assert {"rms", "kurtosis", "BPFO 1x"} <= set(health["measure"])
    waves = lake.scan(tmp_path / "lake").collect()
    assert set(waves["samples"].list.len().drop_nulls()) == {LENGTH}
