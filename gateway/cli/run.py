"""`genba run plant.yaml`: the gateway."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--endpoints", type=click.Path(path_type=Path), help="JSON file of `genba simulate --write`: read these servers instead."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option("--log-json/--log-text", default=None, help="JSON lines or text; by default text on a terminal.")
def command(file: Path, endpoints: Path | None, log_level: str, log_json: bool | None) -> None:
    """Run the gateway on FILE until SIGTERM or Ctrl-C."""
    import asyncio

    import structlog

    from gateway import config, doctor, logs, service
    from schemas.errors import ConfigError

    logs.configure(level=log_level, as_json=log_json)
    foreign = doctor.foreign_owners()
    if foreign:
        raise ConfigError(
            f"other software is installed under the same package names: {foreign}",
            hint="install genba in an environment of its own",
        )
    log = structlog.get_logger()
    configuration = config.load(file)
    for diagnostic in configuration.diagnostics:
        log.warning("configuration", where=diagnostic.where, message=diagnostic.message)
    servers = read_endpoints(endpoints) if endpoints else {}

    async def main() -> None:
        stop = asyncio.Event()
        service.stop_on_signals(stop)
        async with service.running(configuration, log=log, endpoints=servers):
            await stop.wait()
            log.info("stopping")

    asyncio.run(main())


def read_endpoints(path: Path) -> dict[str, str]:
    """Endpoint by adapter or sink name from a JSON file. Raises ConfigError."""
    import json

    from schemas.errors import ConfigError

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read endpoints: {error}", where=str(path)) from error
    servers = found.get("endpoints", found) if isinstance(found, dict) else None
    if not isinstance(servers, dict) or not all(isinstance(v, str) for v in servers.values()):
        raise ConfigError("not a mapping of name to endpoint", where=str(path), hint="write it with genba simulate --write")
    return servers
