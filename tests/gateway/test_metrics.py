"""The metrics of a running gateway: they parse, they agree with docs/operate.md, and a port that is taken harms nothing."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from gateway import config, service
from gateway.collector import Collector
from gateway.isolation.adapter import IsolatedAdapter
from gateway.pipeline import Crashes
from schemas.certificates import CertificateFact
from tests.e2e import plant
from tests.gateway.samples import until

DOCS = Path(__file__).parents[2] / "docs" / "operate.md"
LISTENING = plant.HEAD.replace("listen: null", "listen: 127.0.0.1:{port}")


@pytest.fixture
async def gateway(tmp_path):
    """Write a plant that serves metrics at `port`; returns its configuration and the endpoint of a simulated press."""
    simulators = []

    async def prepare(port):
        text = LISTENING.replace("{port}", str(port)) + plant.PRESS + "sinks:\n" + plant.LAKE
        configuration = await asyncio.to_thread(config.load, plant.write(tmp_path, text))
        simulators.append(plant.simulator_of(configuration, "press"))
        return configuration, {"press": await simulators[0].start()}

    yield prepare
    for simulator in simulators:
        await simulator.aclose()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


async def scraped(gateway):
    port = free_port()
    configuration, endpoints = await gateway(port)
    async with service.running(configuration, log=structlog.get_logger(), endpoints=endpoints) as (pipeline, _):
        await until(lambda: pipeline.spool.account("telemetry", "lake").delivered > 10, 10)
        fact = CertificateFact("own", "CN=genba press", "ab" * 32, 1_900_000_000_000_000, "")
        pipeline.collectors[0]._adapter.certificates = lambda: [fact]
        pipeline.crashes["models"] = Crashes(2, 0.0, "ZeroDivisionError()")
        apart = IsolatedAdapter(configuration.plant.adapters["press"], pipeline.collectors[0].adapter._context)
        apart.ends["memory"] = 3
        pipeline.collectors.append(
            Collector("apart", apart, [], put=pipeline.put, clock=pipeline.clock, rng=Random(), log=pipeline.log)
        )
        pipeline.runner._workers = {"press-health": SimpleNamespace(resident=5e7, unscored=3, row_bytes=0, suspended="")}
        return await asyncio.to_thread(fetch, port)


async def test_the_metrics_parse_and_the_rows_add_up(gateway):
    text = await scraped(gateway)
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["genba_adapter_up", ("adapter", "press")] == 1
    assert samples["genba_certificate_expiry_timestamp_seconds", ("adapter", "press"), ("owner", "own")] == 1_900_000_000
    assert samples["genba_sink_up", ("sink", "lake")] == 1
    assert samples["genba_read_rows_total", ("adapter", "press")] > 10
    assert samples["genba_task_crashes_total", ("task", "models")] == 2
    assert samples["genba_adapter_process_ends_total", ("adapter", "apart"), ("reason", "memory")] == 3
    assert samples["genba_adapter_process_resident_bytes", ("adapter", "apart")] == 0
    assert samples["genba_model_unscored_rows_total", ("model", "press-health")] == 3
    assert samples["genba_model_process_resident_bytes", ("model", "press-health")] == 5e7
    assert 0 <= samples["genba_spool_oldest_row_age_seconds", ("sink", "lake")] < 60
    rows = {
        labels[1][1]: value
        for (name, *labels), value in samples.items()
        if name == "genba_sink_rows_total" and labels[0][1] == "telemetry"
    }
    waiting = samples["genba_spool_rows", ("kind", "telemetry"), ("sink", "lake")]
    assert sum(rows.values()) + waiting <= samples["genba_durable_rows_total", ("kind", "telemetry")] + 20
    assert rows["delivered"] > 10
    assert "temp" not in text  # never a tag as a label


async def test_the_docs_and_the_code_name_the_same_metrics_with_the_same_labels(gateway):
    documented = {}
    for name, labels in re.findall(r"`(genba_\w+)(?:\{([\w,]+)\})?`", DOCS.read_text(encoding="utf-8")):
        documented[name] = set(labels.split(",")) if labels else set()
    served = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(await scraped(gateway))
        for sample in family.samples
    }
    assert documented == served


async def test_a_port_that_is_taken_is_logged_and_no_reason_not_to_run(gateway):
    with socket.socket() as other, capture_logs() as said:
        other.bind(("127.0.0.1", 0))
        other.listen()
        configuration, endpoints = await gateway(other.getsockname()[1])
        async with service.running(configuration, log=structlog.get_logger(), endpoints=endpoints) as (pipeline, _):
            await until(lambda: pipeline.latest.count > 5, 10)
    (line,) = [line for line in said if line["event"] == "metrics are not served"]
    assert line["log_level"] == "warning"
    assert "in use" in line["error"]


async def test_the_port_is_free_again_after_the_stop(gateway):
    port = free_port()
    configuration, endpoints = await gateway(port)
    async with service.running(configuration, log=structlog.get_logger(), endpoints=endpoints):
        assert "genba_" in await asyncio.to_thread(fetch, port)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_scraping_from_another_thread_while_rows_flow_never_fails(gateway):
    port = free_port()
    configuration, endpoints = await gateway(port)
    async with service.running(configuration, log=structlog.get_logger(), endpoints=endpoints) as (pipeline, _):
        texts = await asyncio.gather(*(asyncio.to_thread(fetch, port) for _ in range(40)))
        assert pipeline.crashes == {}
    assert all("genba_spool_size_bytes" in text for text in texts)
