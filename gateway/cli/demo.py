"""`genba demo`: a plant, a broker, the gateway and three faults, on this machine, with nothing to set up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import in_seconds

if TYPE_CHECKING:
    from gateway.config import Configuration
    from gateway.demo import Verdict


@click.command("demo")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Another plant; by default examples/demo.yaml.")
@click.option(
    "--scenario", "script", type=click.Path(path_type=Path), help="Another scenario; by default examples/demo.scenario.yaml."
)
@click.option(
    "--duration", "seconds", callback=in_seconds, help="End after this long with a summary, `45s`; by default at Ctrl-C."
)
@click.option(
    "--lake", type=click.Path(path_type=Path), default=Path("lake"), show_default=True, help="Where the Parquet files go."
)
def command(file: Path | None, script: Path | None, seconds: float | None, lake: Path) -> None:
    """Run a simulated plant and the gateway on it; exit 0 only if each scripted fault raised its own alert."""
    import asyncio
    import tempfile

    from gateway import config, logs

    logs.configure(level="warning", as_json=False)
    file, scenario = file or _example("demo.yaml"), script or _example("demo.scenario.yaml")
    configuration = config.load(file)
    with tempfile.TemporaryDirectory(prefix="genba-demo-") as scratch:
        ready = _in_scratch(configuration, Path(scratch), lake.absolute())
        verdict = asyncio.run(_demo(ready, file, scenario, seconds, lake.absolute()))
    click.echo("\n".join(["", "summary", *verdict.summary]))
    for failure in verdict.failures:
        click.echo(click.style(f"FAILED: {failure}", fg="red"), err=True)
    if verdict.failures:
        raise SystemExit(1)


def _example(name: str) -> Path:
    """An example file: beside the packages in a checkout, inside `gateway` in a wheel."""
    packages = Path(__file__).parents[2]
    return next(place for place in (packages / "examples" / name, packages / "gateway" / "examples" / name) if place.exists())


def _in_scratch(configuration: Configuration, scratch: Path, lake: Path) -> Configuration:
    """The same plant with a spool that goes away afterwards and the lake where the user stands."""
    from dataclasses import replace

    plant = configuration.plant
    sinks = {
        name: sink.model_copy(update={"location": str(lake)}) if sink.kind == "parquet" else sink
        for name, sink in plant.sinks.items()
    }
    spool = plant.spool.model_copy(update={"directory": scratch / "spool"})
    return replace(configuration, plant=plant.model_copy(update={"sinks": sinks, "spool": spool}))


async def _demo(configuration: Configuration, file: Path, scenario_file: Path, seconds: float | None, lake: Path) -> Verdict:
    import asyncio
    import time

    import structlog
    from rich.console import Console
    from rich.live import Live

    from gateway import demo, service, simulation
    from gateway.live import dashboard

    console = Console()
    lines: list[str] = []
    alerts: list[demo.SeenAlert] = []
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    scenario = simulation.read_scenario(scenario_file)

    def on_alert(alert: demo.SeenAlert) -> None:
        alerts.append(alert)
        lines.append(alert.line())
        if not console.is_terminal:
            click.echo(alert.line())

    async with demo.broker() as broker, demo.plant(file, scenario_file) as (endpoints, started):
        servers = {**endpoints, **{name: broker for name, sink in configuration.plant.sinks.items() if sink.kind == "mqtt"}}
        click.echo(f"broker at {broker} (watch it: mosquitto_sub -t 'genba/#' -p {broker.rsplit(':', 1)[-1]}); simulated plant:")
        for name, endpoint in endpoints.items():
            click.echo(f"  {name:<10} {endpoint}")
        faults = demo.faults_of(scenario, started)
        click.echo(
            "faults to come: "
            + ", ".join(f"{fault.kind} of {fault.tag.rsplit('/', 1)[-1]} in {fault.at - time.time():.0f} s" for fault in faults)
        )
        async with (
            demo.operator(broker, on_alert),
            service.running(configuration, log=structlog.get_logger(), endpoints=servers) as (pipeline, _),
        ):
            end = None if seconds is None else time.monotonic() + seconds
            told = time.monotonic()
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                while not stop.is_set() and (end is None or time.monotonic() < end):
                    if console.is_terminal:
                        live.update(dashboard(pipeline, lines, title=f"genba demo · {configuration.plant.gateway} · Ctrl-C ends"))
                    elif time.monotonic() - told >= 10:
                        told = time.monotonic()
                        click.echo(
                            f"{pipeline.latest.count:,} readings, {pipeline.spool.bytes_used() / 1e6:.1f} MB in the spool, {len(alerts)} alerts"
                        )
                    await service.until_stopped(asyncio.sleep(0.25), stop)
            if console.is_terminal:
                console.print(dashboard(pipeline, lines, title=f"genba demo · {configuration.plant.gateway}"))
            ended = time.time()
        return await asyncio.to_thread(demo.judge, pipeline, faults, alerts, lake=lake, ended=ended, complete=not stop.is_set())
