"""A simulated plant: a real server for every adapter of a configuration, on loopback, with the same address map."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from adapters.base import Simulator, SimulatorContext
from adapters.simulation import Replay, Scenario, Signals
from schemas.asset import matches_any
from schemas.errors import ConfigError
from schemas.tags import Tag

from . import catalogue
from .config import Configuration
from .pipeline import bind


def read_scenario(path: Path) -> Scenario:
    """The scenario in a YAML file. Raises ConfigError naming the file and what is wrong in it."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the scenario: {error}", where=str(path)) from error
    try:
        return Scenario.model_validate(data or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}: {first['msg']}", where=str(path)) from error


def check_names(scenario: Scenario, replays: Sequence[Replay], tags: Sequence[Tag]) -> None:
    """Raise ConfigError when a signal or a replay fits no tag: a typing error would go unnoticed otherwise."""
    paths = [tag.path for tag in tags]
    for what, pattern in [("signal", name) for name in scenario.signals] + [("--replay", replay.tag) for replay in replays]:
        fits = any(matches_any(path, [pattern]) for path in paths) or any(f"{t.adapter}/{t.name}" == pattern for t in tags)
        if not fits:
            short = [path.split("/", 2)[-1] for path in paths]
            close = get_close_matches(pattern, short, 1)
            raise ConfigError(
                f"{what} {pattern!r} fits no tag",
                hint=f"did you mean {close[0]!r}?" if close else f"tags are {', '.join(short[:8])}",
            )


@asynccontextmanager
async def simulated_plant(
    configuration: Configuration, *, scenario: Scenario | None = None, replays: Sequence[Replay] = ()
) -> AsyncIterator[dict[str, str]]:
    """Serve every adapter that can be simulated; yields endpoint by adapter name. Time 0 of the scenario is the start.

    A server takes the port of the YAML file where it may and it is free, any other port otherwise.
    """
    tags = [replace(tag, id=number) for number, tag in enumerate(configuration.tags)]
    scenario = scenario or Scenario()
    check_names(scenario, replays, tags)
    signals = Signals(scenario, asyncio.get_running_loop().time, replays)
    endpoints: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for name, config in configuration.plant.adapters.items():
            simulate = catalogue.plugin("adapters", config.kind).simulate
            if simulate is None:
                continue
            context = SimulatorContext(
                name=name, tags=bind(configuration, name, tags), signals=signals, time_zone=configuration.plant.time_zone
            )
            simulator: Simulator = simulate(config, context)
            stack.push_async_callback(simulator.aclose)
            endpoints[name] = await _start(simulator, config.endpoint)
        signals.restart()
        yield endpoints


async def _start(simulator: Simulator, endpoint: str) -> str:
    port = 0
    if "://" in endpoint:
        try:
            port = urlsplit(endpoint).port or 0
        except ValueError:
            port = 0
    if port >= 1024:
        try:
            return await simulator.start("127.0.0.1", port)
        except OSError:
            await simulator.aclose()
    return await simulator.start("127.0.0.1", 0)
