"""`genba simulate plant.yaml`: servers of every adapter in the file, so that a configuration is tried without a PLC."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("simulate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scenario", type=click.Path(path_type=Path), help="YAML file with signals and scripted faults.")
@click.option(
    "--replay", multiple=True, metavar="TAG=FILE.csv[:COLUMN]", help="Serve a recorded column as this tag; may be repeated."
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    help="How many times faster than recorded; a 64-bit floating point tag takes a row per read instead.",
)
@click.option("--write", type=click.Path(path_type=Path), help="Write the endpoints as JSON, for `genba run --endpoints`.")
@click.option("--json", "as_json", is_flag=True, help="Print the endpoints as one line of JSON.")
def command(file: Path, scenario: Path | None, replay: tuple[str, ...], speed: float, write: Path | None, as_json: bool) -> None:
    """Serve the address map of FILE on loopback until Ctrl-C."""
    import asyncio
    import json
    import time

    from adapters.simulation import parse_replay
    from gateway import config, logs, service, simulation

    logs.configure(level="warning")
    configuration = config.load(file, strict_env=False)
    script = simulation.read_scenario(scenario) if scenario else None
    replays = [parse_replay(text, speed) for text in replay]

    async def main() -> None:
        stop = asyncio.Event()
        service.stop_on_signals(stop)
        async with simulation.simulated_plant(configuration, scenario=script, replays=replays) as endpoints:
            told = json.dumps({"endpoints": endpoints, "started": time.time()}, ensure_ascii=False)
            if write is not None:
                await asyncio.to_thread(_write, write, told + "\n")
            if as_json:
                click.echo(told)
            else:
                for name, endpoint in endpoints.items():
                    click.echo(f"{name}: {configuration.plant.adapters[name].endpoint} is served at {endpoint}")
                click.echo(
                    "Ctrl-C ends." if write is None else f"genba run {file} --endpoints {write}   reads these. Ctrl-C ends."
                )
            await stop.wait()

    asyncio.run(main())


def _write(path: Path, text: str) -> None:
    """The whole file or none: others wait for it to appear. Raises ConfigError where it cannot be written."""
    from schemas.errors import ConfigError

    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the endpoints: {error.strerror}", where=str(path)) from error
