"""`genba test plant.yaml`: reads the real devices, shows the values, delivers to no sink."""

from __future__ import annotations

from pathlib import Path

import click

from ._options import in_seconds


@click.command("test")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--endpoints", type=click.Path(path_type=Path), help="JSON file of `genba simulate --write`: read these servers instead."
)
@click.option("--duration", callback=in_seconds, default="10s", show_default=True, help="How long to read; `0` until Ctrl-C.")
@click.option("--fail-on", type=click.Choice(["bad"]), help="Exit with 3 when a tag is bad at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the last reading of every tag as JSON instead of a table.")
def command(file: Path, endpoints: Path | None, duration: float, fail_on: str | None, as_json: bool) -> None:
    """Read every tag of FILE and show a live table. Nothing is stored and nothing is sent."""
    import asyncio
    import json
    import math
    import tempfile

    import structlog
    from rich.console import Console
    from rich.live import Live

    from gateway import config, logs, reading, service
    from gateway.live import tag_table
    from schemas import quality as q

    from .run import read_endpoints

    logs.configure(level="warning", as_json=False)
    configuration = config.load(file)
    console = Console(stderr=as_json)

    async def main() -> reading.Reading:
        stop = asyncio.Event()
        service.stop_on_signals(stop)
        with tempfile.TemporaryDirectory(prefix="genba-test-") as scratch:
            await asyncio.to_thread(reading.share_certificates, configuration, Path(scratch))
            test = reading.Reading(
                configuration,
                endpoints=read_endpoints(endpoints) if endpoints else {},
                log=structlog.get_logger(),
                directory=Path(scratch),
            )
            async with test.running():
                loop = asyncio.get_running_loop()
                end = loop.time() + (duration or math.inf)
                with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
                    while loop.time() < end and not stop.is_set():
                        if console.is_terminal:
                            live.update(tag_table(test.tags, test.latest, test.clock.now_us(), limit=60))
                        await service.until_stopped(asyncio.sleep(min(0.25, max(0.0, end - loop.time()))), stop)
        return test

    test = asyncio.run(main())
    if as_json:
        rows = [
            {
                "tag": tag.path,
                "address": tag.address,
                "value": None if math.isnan(value := float(test.latest.value[tag.id])) else value,
                "text": test.latest.text.get(tag.id),
                "unit": tag.unit,
                "quality": q.name(int(test.latest.quality[tag.id])),
                "time_us": int(test.latest.time_us[tag.id]),
            }
            for tag in test.tags
        ]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        console.print(tag_table(test.tags, test.latest, test.clock.now_us(), limit=10_000))
    if test.crashed:
        for name, error in test.crashed.items():
            click.echo(f"{name} crashed, which is a bug: {error}", err=True)
        raise SystemExit(1)
    away = [collector for collector in test.collectors if collector.state in ("down", "misconfigured", "starting")]
    for collector in away:
        click.echo(f"{collector.name} cannot be read: {collector.error or 'no answer yet'}", err=True)
    bad = [tag.path for tag in test.tags if int(test.latest.quality[tag.id]) >= q.BAD]
    if away or (fail_on and bad):
        if bad and not away:
            click.echo(f"bad: {', '.join(bad[:10])}", err=True)
        raise SystemExit(3)
