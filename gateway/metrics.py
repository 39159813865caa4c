"""Prometheus metrics, read from the rooms' own state when they are asked for: no counter can drift from the truth.

Names are `genba_<what>_<unit>[_total]` in base units, never with a tag as label.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_models.alarm_records import OPEN_STATES
from schemas.kinds import KINDS

from .delivery import CIRCUITS
from .isolation.adapter import UNASKED, IsolatedAdapter
from .spool.losses import CAUSES

if TYPE_CHECKING:
    from .pipeline import Pipeline


class GatewayMetrics(Collector):
    """Shows one running pipeline to Prometheus. Made on its loop; `collect` may be called from another thread: it only reads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._loop = asyncio.get_running_loop()
        for kind in KINDS:
            pipeline.spool.ledger.gone(kind)  # asking makes it, which must not happen on another thread

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: what exists depends on the configuration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics of this moment."""
        p = self._pipeline
        read = CounterMetricFamily("genba_read_rows", "Rows that an adapter handed over", labels=["adapter"])
        up = GaugeMetricFamily("genba_adapter_up", "1 while the device is connected", labels=["adapter"])
        expiry = GaugeMetricFamily(
            "genba_certificate_expiry_timestamp_seconds",
            "When a certificate in use expires, seconds since 1970 UTC; the owner is own or server",
            labels=["adapter", "owner"],
        )
        for collector in p.collectors:
            read.add_metric([collector.name], collector.rows)
            up.add_metric([collector.name], float(collector.state == "up"))
            for fact in collector.certificates:
                expiry.add_metric([collector.name, fact.owner], fact.expires_us / 1e6)
        yield from (read, up, expiry)
        ends = CounterMetricFamily(
            "genba_adapter_process_ends", "Ends that nobody asked for of the process of an adapter", labels=["adapter", "reason"]
        )
        memory = GaugeMetricFamily(
            "genba_adapter_process_resident_bytes", "Memory of the process of an isolated adapter", labels=["adapter"]
        )
        for collector in p.collectors:
            if isinstance(collector.adapter, IsolatedAdapter):
                memory.add_metric([collector.name], collector.adapter.resident)
                for reason in UNASKED:
                    ends.add_metric([collector.name, reason], collector.adapter.ends[reason])
        yield from (ends, memory)
        durable = CounterMetricFamily(
            "genba_durable_rows", "Rows acknowledged: written, checksummed and flushed", labels=["kind"]
        )
        for kind in KINDS:
            durable.add_metric([kind], p.spool.durable(kind))
        yield durable
        rows = CounterMetricFamily("genba_sink_rows", "Rows by what became of them", labels=["sink", "kind", "outcome"])
        waiting = GaugeMetricFamily("genba_spool_rows", "Rows not yet delivered", labels=["sink", "kind"])
        lost = CounterMetricFamily(
            "genba_spool_lost_rows", "Rows that a sink was to have and never will, by cause", labels=["sink", "kind", "cause"]
        )
        resent = CounterMetricFamily("genba_sink_resent_rows", "Rows delivered once more on request", labels=["sink", "kind"])
        sink_up = GaugeMetricFamily("genba_sink_up", "1 while the sink is connected", labels=["sink"])
        circuit = GaugeMetricFamily(
            "genba_sink_circuit", "1 for the state of the sink's circuit breaker", labels=["sink", "circuit"]
        )
        paused = GaugeMetricFamily("genba_sink_paused", "1 while somebody has paused the sink", labels=["sink"])
        age = GaugeMetricFamily("genba_spool_oldest_row_age_seconds", "Age of the oldest undelivered row", labels=["sink"])
        for delivery in p.deliveries:
            sink_up.add_metric([delivery.name], float(delivery.state == "up"))
            for state in CIRCUITS:
                circuit.add_metric([delivery.name, state], float(delivery.circuit == state))
            paused.add_metric([delivery.name], float(delivery.paused))
            age.add_metric([delivery.name], p.oldest_age_s(delivery))
            for kind in delivery.kinds:
                account = p.spool.account(kind, delivery.name)
                waiting.add_metric([delivery.name, kind], account.spooled)
                for outcome in ("delivered", "filtered", "dropped", "dead_lettered"):
                    rows.add_metric([delivery.name, kind, outcome], getattr(account, outcome))
                counts = p.spool.ledger.lost(kind, delivery.name)
                for cause in CAUSES:
                    lost.add_metric([delivery.name, kind, cause], counts.get(cause, 0))
                resent.add_metric([delivery.name, kind], p.spool.ledger.resent(kind, delivery.name))
        yield from (rows, waiting, lost, resent, sink_up, circuit, paused, age)
        yield GaugeMetricFamily("genba_spool_size_bytes", "Bytes the spool holds on disk", p.spool.bytes_used())
        yield CounterMetricFamily("genba_spool_written_bytes", "Bytes written to the spool", p.spool.bytes_written)
        yield CounterMetricFamily("genba_spool_corrupt_records", "Damaged records found since the start", p.spool.corrupt_records)
        if p.runner is not None:
            yield GaugeMetricFamily("genba_model_behind_rows", "Rows that the models have not seen", p.runner.behind_rows)
            unscored = CounterMetricFamily(
                "genba_model_unscored_rows", "Rows that a model in a file was asked for and did not answer", labels=["model"]
            )
            resident = GaugeMetricFamily(
                "genba_model_process_resident_bytes", "Memory of the worker process of a model in a file", labels=["model"]
            )
            for name, worker in p.runner.workers.items():
                unscored.add_metric([name], worker.unscored)
                resident.add_metric([name], worker.resident)
            yield from (unscored, resident)
            yield CounterMetricFamily("genba_alert_rows", "Alert transitions of models and limits", p.runner.alerts)
        alarms = GaugeMetricFamily("genba_alarms", "Open alarms", labels=["state", "severity"])
        open_ = p.alarms.counts()
        for alarm_state in OPEN_STATES:
            for severity in ("critical", "warning", "info"):
                alarms.add_metric([alarm_state, severity], open_.get((alarm_state, severity), 0))
        yield alarms
        crashes = CounterMetricFamily("genba_task_crashes", "Crashes of a task, each a bug; it is restarted", labels=["task"])
        for task, found in list(p.crashes.items()):
            crashes.add_metric([task], found.count)
        yield crashes
        yield GaugeMetricFamily("genba_tasks", "Tasks of the event loop", len(asyncio.all_tasks(self._loop)))


def registry_for(pipeline: Pipeline) -> CollectorRegistry:
    """A registry of its own, so that two gateways in one process (tests) do not share numbers."""
    registry = CollectorRegistry()
    registry.register(GatewayMetrics(pipeline))
    return registry
