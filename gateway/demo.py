"""The demonstration: simulated plant, embedded broker and the gateway, judged at the end like a test.

Alerts are taken from the broker over MQTT, as an operator's screen would; the lake is counted with polars, as a data engineer
would. Nothing here reads the gateway's own opinion of itself except the row accounts, which are what is being checked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from adapters.simulation import Scenario
from schemas.errors import ConfigError

from .pipeline import Pipeline

_PATIENCE_S: Final = 20.0
"""A fault that began so long ago must have been noticed, even when a person ended the demo early."""


@dataclass(frozen=True, slots=True)
class ScriptedFault:
    """A fault of the scenario: when it begins (unix seconds) and the alarm that must follow it."""

    tag: str
    kind: str
    at: float
    alarm: str


@dataclass
class SeenAlert:
    """An alert as it came over MQTT."""

    alarm: str
    transition: str
    received: float
    message: Mapping[str, Any]  # the published JSON, shown as it is

    def line(self) -> str:
        """One plain line for a terminal."""
        m = self.message
        when = str(m.get("local_time", ""))[11:19]
        action = f"  -> {m['action']}" if m.get("action") and self.transition == "raised" else ""
        return f"{when} {str(m.get('severity', '')).upper():8} {self.transition:8} {m.get('problem', self.alarm)}{action}"


@dataclass
class Verdict:
    """What the demonstration showed. `failures` is empty when everything that must be true was true."""

    summary: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def faults_of(scenario: Scenario, started: float) -> list[ScriptedFault]:
    """The scripted faults with their absolute times."""
    return [
        ScriptedFault(tag, signal.fault.kind, started + signal.fault.at.s, signal.fault.alarm)
        for tag, signal in scenario.signals.items()
        if signal.fault is not None
    ]


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    """An MQTT 3.1.1 broker in this process on a free loopback port; yields its endpoint."""
    try:
        from amqtt.broker import Broker
    except ImportError as error:
        raise ConfigError("the demo's broker is not installed", hint="pip install 'genba[demo]'") from error
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0", "max_connections": 50}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    server = Broker(settings)
    await server.start()
    try:
        port = server._servers["default"].instance.sockets[0].getsockname()[1]  # amqtt names no public way to the chosen port
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        await server.shutdown()


@asynccontextmanager
async def plant(configuration: Path, scenario: Path) -> AsyncIterator[tuple[dict[str, str], float]]:
    """`genba simulate` as a process of its own; yields endpoints by adapter and the unix time of its second 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "simulate", str(configuration), "--scenario", str(scenario), "--json",
        stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), timeout=30)
        if not line:
            raise ConfigError("the simulated plant did not start; its message is above")
        told = json.loads(line)
        yield told["endpoints"], told["started"]
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), timeout=5)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def operator(endpoint: str, on_alert: Callable[[SeenAlert], None]) -> AsyncIterator[None]:
    """Subscribe to every alarm like an operator's screen; `on_alert` is called on the loop."""
    loop = asyncio.get_running_loop()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)

    def connected(c: mqtt.Client, *_: object) -> None:
        c.subscribe("genba/alert/#", qos=1)

    def received(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.payload and not message.retain:
            body = json.loads(message.payload)
            loop.call_soon_threadsafe(on_alert, SeenAlert(body["alarm"], body["transition"], time.time(), body))

    client.on_connect = connected
    client.on_message = received
    host, _, port = endpoint.removeprefix("mqtt://").partition(":")

    def start() -> None:
        client.connect(host, int(port))
        client.loop_start()

    def end() -> None:
        client.disconnect()
        client.loop_stop()

    await asyncio.to_thread(start)
    try:
        yield
    finally:
        await asyncio.to_thread(end)


def judge(
    pipeline: Pipeline, faults: Sequence[ScriptedFault], alerts: Sequence[SeenAlert], *, lake: Path, ended: float, complete: bool
) -> Verdict:
    """Hold what happened against what must have happened. Blocking: reads the lake.

    `complete` says that the demo ran for the time it was asked for; one that a person ended early need not have shown every fault.
    """
    from cloud_sinks.lake import scan

    verdict = Verdict()
    read = sum(collector.rows for collector in pipeline.collectors)
    verdict.summary.append(f"rows read          {read:>10,}")
    totals = dict.fromkeys(("delivered", "filtered", "spooled", "dropped", "dead_lettered"), 0)
    for delivery in pipeline.deliveries:
        for kind in delivery.kinds:
            account = pipeline.spool.account(kind, delivery.name)
            parts = {name: getattr(account, name) for name in totals}
            for name, rows in parts.items():
                totals[name] += rows
            if account.read != sum(parts.values()):
                verdict.failures.append(f"{delivery.name}/{kind}: {account.read} rows read, but {parts} become of them")
    for name, label in (("delivered", "delivered"), ("filtered", "filtered"), ("spooled", "in spool"), ("dropped", "dropped")):
        verdict.summary.append(f"{label:<18} {totals[name]:>10,}")
    if totals["dead_lettered"]:
        verdict.summary.append(f"dead-lettered      {totals['dead_lettered']:>10,}")

    raised = [alert for alert in alerts if alert.transition == "raised"]
    verdict.summary.append(f"alerts             {len(raised):>10,}")
    for fault in faults:
        mine = [alert for alert in raised if alert.alarm == fault.alarm]
        late = [alert for alert in mine if alert.received >= fault.at]
        early = [alert for alert in mine if alert.received < fault.at]
        if early:
            verdict.failures.append(f"{fault.alarm} was raised {fault.at - early[0].received:.1f} s before its fault began")
        if late:
            verdict.summary.append(
                f"  {fault.alarm:<28} {late[0].received - fault.at:5.1f} s after {fault.kind} began on {fault.tag}"
            )
        elif fault.at >= ended:
            told = f"the demo ended before {fault.kind} began on {fault.tag}"
            if complete:
                verdict.failures.append(f"{told}: give it a longer duration")
            else:
                verdict.summary.append(f"  {told}")
        elif complete or ended - fault.at > _PATIENCE_S:
            verdict.failures.append(
                f"{fault.alarm} was not raised in the {ended - fault.at:.0f} s after {fault.kind} began on {fault.tag}"
            )
    expected = {fault.alarm for fault in faults}
    for alert in raised:
        if alert.alarm not in expected:
            verdict.failures.append(f"an alert that no fault explains: {alert.line()}")

    for delivery in pipeline.deliveries:
        if "telemetry" not in delivery.kinds or pipeline.configuration.plant.sinks[delivery.name].kind != "parquet":
            continue
        account = pipeline.spool.account("telemetry", delivery.name)
        epoch = pipeline.spool.epoch
        found = (
            scan(lake)
            .filter((_column("gateway") == pipeline.spool.gateway) & (_column("epoch") == epoch))
            .select("seq")
            .collect()
        )
        rows, unique = found.height, found["seq"].n_unique()
        verdict.summary.append(f"rows in {lake.name}/      {rows:>10,}")
        if rows != account.delivered or rows != unique:
            verdict.failures.append(f"the lake holds {rows} rows ({unique} different), {account.delivered} were delivered")
    return verdict


def _column(name: str) -> Any:
    import polars

    return polars.col(name)
