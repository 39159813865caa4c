"""What the commands that keep a lake in order share: the lake as its keeper sees it, and the gateway that writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from schemas.errors import ConfigError

from ._location import Location

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_sinks.aws import AwsConfig
    from cloud_sinks.parquet.config import ParquetConfig
    from cloud_sinks.parquet.shelf import Shelf
    from gateway.spool.book import Book
    from schemas.data import Kind

DEAD_LETTERS: Final = "dead-letters"


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway that writes a lake: its spool, what the lake is called in its ledger (None: not said), and the sink as configured."""

    spool: Path
    sink: str | None = None
    config: ParquetConfig | None = None
    base: Path = Path()

    def book(self) -> Book:
        """What the ledger says now. Raises ConfigError."""
        from gateway.spool.looking import look

        return look(self.spool)

    def dead_letters(self, sink: str | None) -> Path | None:
        """Where rows lie that this sink rejected."""
        name = sink or self.sink
        return None if name is None else self.spool / DEAD_LETTERS / name


def gateway_of(plant: Path, location: Location, sink: str | None) -> Gateway:
    """From the configuration FILE. Raises ConfigError where no sink of it writes to the location, or several do and none is named."""
    from cloud_sinks.parquet.config import ParquetConfig
    from gateway import config

    configuration = config.load(plant, strict_env=False)
    lakes = {name: cast(ParquetConfig, entry) for name, entry in configuration.plant.sinks.items() if entry.kind == "parquet"}
    base = configuration.directory
    fitting = [name for name, entry in lakes.items() if _same(entry.location, base, str(location))]
    chosen = [name for name in fitting if sink in (None, name)]
    if len(chosen) != 1:
        known = ", ".join(f"{name} ({entry.location})" for name, entry in lakes.items()) or "none"
        raise ConfigError(
            f"{plant}: {len(chosen)} sinks write to {location}; its lakes are {known}",
            hint="name one with --sink" if len(chosen) > 1 else "name the location as the configuration does",
        )
    return Gateway(base / configuration.plant.spool.directory, chosen[0], lakes[chosen[0]], base)


def _same(written: str, base: Path, location: str) -> bool:
    if "://" in written or "://" in location:
        return written.rstrip("/") == location.rstrip("/")
    return (base / written).resolve() == Path(location).resolve()


def aws_of(location: Location, gateway: Gateway | None) -> AwsConfig:
    """How a bucket is reached: as the gateway's sink does, unless the command line says otherwise."""
    from cloud_sinks.aws import AwsConfig

    sink = gateway.config if gateway is not None else None
    given = {name: value for name, value in location.access.items() if value is not None}
    return (sink.aws if sink is not None and sink.aws is not None else AwsConfig()).model_copy(update=given)


@contextmanager
def opened(location: Location, gateway: Gateway | None = None) -> Iterator[Shelf]:
    """The lake; what goes wrong with it becomes an error that says who must act. Of a gateway's sink it takes how the bucket is reached."""
    import structlog

    from cloud_sinks.parquet.shelf import shelf_of

    sink = gateway.config if gateway is not None else None
    aws = aws_of(location, gateway)
    with location.errors("keep the lake"):
        shelf = shelf_of(
            str(location), aws, log=structlog.stdlib.get_logger(), base=gateway.base if gateway else None,
            kms_key=sink.kms_key if sink is not None else None,
        )  # fmt: skip
        try:
            yield shelf
        finally:
            shelf.close()


def kinds(function: Callable[..., None]) -> Callable[..., None]:
    """The option --kind, which may be repeated: `kinds: tuple[Kind, ...]`, all where it is not given."""
    from schemas.data import KINDS

    def chosen(ctx: click.Context, param: click.Parameter, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        del ctx, param
        return value or KINDS

    return click.option(
        "--kind",
        "kinds",
        multiple=True,
        type=click.Choice(KINDS),
        callback=chosen,
        help="Only this kind of data; may be repeated.",
    )(function)
