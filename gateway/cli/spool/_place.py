"""Which spool a command is about, how it is changed, and what all of them say of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from schemas.data import KINDS

if TYPE_CHECKING:
    from gateway.control import Request
    from gateway.spool.deeds import Answer
    from gateway.spool.view import View
    from schemas.kinds import Kind

F = TypeVar("F", bound=Callable[..., object])
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def place(function: F) -> F:
    """The argument PLACE of a command."""
    return click.argument("place", type=click.Path(path_type=Path))(function)


def as_json(function: F) -> F:
    """The option `--json` of a command."""
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(function)


def kind_option(function: F) -> F:
    """The option `--kind` of a command that needs one."""
    return click.option("--kind", type=click.Choice(KINDS), required=True, help="Kind of data.")(function)


def any_kind(function: F) -> F:
    """The option `--kind` of a command that takes all without it."""
    return click.option("--kind", type=click.Choice(KINDS), help="One kind of data; all by default.")(function)


def rows_option(function: F) -> F:
    """The options of a command about rows by their number."""
    first = click.option("--first-row", type=click.IntRange(min=0), metavar="ROW", help="From this row number on.")
    last = click.option("--last-row", type=click.IntRange(min=0), metavar="ROW", help="Up to this row number, which is included.")
    return first(last(function))


def in_us(moment: datetime | None) -> int | None:
    """µs since 1970 UTC."""
    return None if moment is None else round(moment.timestamp() * 1e6)


def directory_of(given: Path) -> Path:
    """The directory of the spool that PLACE means. Raises ConfigError for a file that is no configuration."""
    if given.is_file():
        from gateway import config

        configuration = config.load(given, strict_env=False)
        return Path(configuration.directory / configuration.plant.spool.directory)
    return given if (given / "spool.json").exists() or not (given / "spool" / "spool.json").exists() else given / "spool"


def look(given: Path) -> View:
    """The spool that PLACE means, as it is now; nothing of it is changed. Raises ConfigError."""
    from gateway.spool.view import View

    return View(directory_of(given))


def change(given: Path, request: Request) -> Answer:
    """Let the running gateway do what `request` says, or do it here when none runs. Raises ConfigError."""
    from gateway import control

    directory = directory_of(given)
    view = look(directory)
    answer = control.ask(directory, request)
    if answer is not None:
        return answer
    if view.owner is not None:
        from schemas.errors import ConfigError

        raise ConfigError(f"process {view.owner} has the spool and does not listen", hint="stop that gateway, then ask again")
    return asyncio.run(_alone(directory, view.gateway, request))


async def _alone(directory: Path, gateway: str, request: Request) -> Answer:
    """Open the spool as the gateway would, and do it. Nothing is removed meanwhile."""
    import structlog

    from gateway import control
    from gateway.clock import WallClock
    from gateway.spool import Spool

    log = structlog.get_logger()
    spool = await Spool.open(directory, gateway=gateway, clock=WallClock(), log=log, retention_grace_s=1e6)
    try:
        return await control.do(spool, request)
    finally:
        await spool.close()


def headline(view: View) -> dict[str, Any]:
    """What stands first everywhere: how old the oldest row is that a sink has not had, and whose it is."""
    now = datetime.now(UTC).timestamp()
    ages = {sink: max(0.0, now - us / 1e6) for sink in sinks_of(view) if (us := view.oldest_undelivered_us(sink)) is not None}
    sink = max(ages, key=lambda one: ages[one], default=None)
    return {"oldest_undelivered_s": None if sink is None else round(ages[sink], 1), "oldest_undelivered_sink": sink}


def say_headline(view: View) -> None:
    """The same for people."""
    found = headline(view)
    if found["oldest_undelivered_sink"] is None:
        click.echo("everything is delivered")
    else:
        click.echo(f"oldest undelivered row: {span(found['oldest_undelivered_s'])}, waits for {found['oldest_undelivered_sink']}")


def sinks_of(view: View) -> list[str]:
    """The sinks that the ledger knows."""
    return sorted({sink for _, sink in view.book.cursors})


def span(seconds: float) -> str:
    """`3 h 12 min`, `41 s`."""
    for size, (unit, below) in zip((s for s, _ in _UNITS), (("d", "h"), ("h", "min"), ("min", "s")), strict=True):
        if seconds >= size:
            smaller = {"d": 3_600, "h": 60, "min": 1}[unit]
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {below}"
    return f"{seconds:.0f} s"


def at(time_us: int | None) -> str:
    """A time for people, to the second, UTC."""
    if time_us is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "impossible"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, left: int = 1) -> None:
    """Columns of text, the first `left` of them to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = [
            f"{cell:<{width}}" if n < left else f"{cell:>{width}}"
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def emit(document: Mapping[str, Any]) -> None:
    """A JSON object on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=1))


def kinds_of(view: View, kind: str | None) -> list[Kind]:
    """The kind that was asked for, or all that hold or held rows."""
    return [one for one in view.logs if kind == one or (kind is None and view.durable(one))]
