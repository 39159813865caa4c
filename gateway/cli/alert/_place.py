"""Which gateway is meant, which alarm, and how it is asked."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gateway.cli.spool._place import directory_of

if TYPE_CHECKING:
    from gateway.commands import Answer

F = TypeVar("F", bound=Callable[..., object])


def _here(ctx: click.Context, parameter: click.Parameter, given: Path | None) -> Path:
    del ctx, parameter
    return given if given is not None else next((Path(one) for one in ("plant.yaml", "plant.yml") if Path(one).is_file()), Path())


def place(function: F) -> F:
    """The option `--in` of every command: the gateway's YAML file or its spool directory."""
    return click.option(
        "--in", "place", type=click.Path(path_type=Path), callback=_here, metavar="PLACE",
        help="YAML file of the gateway, or its spool directory; plant.yaml or ./spool by default.",
    )(function)  # fmt: skip


def subject(function: F) -> F:
    """What a command is about: ID, or --tag, or --asset, with --alarm for one alarm of it."""
    alarm = click.option("--alarm", metavar="NAME", help="Only this alarm of the asset or tag: motor_temp.wear.")
    asset = click.option("--asset", metavar="PATH", help="Every alarm of this asset and what is below it, by its full path.")
    tag = click.option("--tag", metavar="PATH", help="Every alarm of this tag, by its full path.")
    return click.argument("alarm_id", metavar="[ID]", required=False)(tag(asset(alarm(function))))


def person(function: F) -> F:
    """The option `--by`."""
    return click.option("--by", default=_user, help="Who does it; the user by default.")(function)


def reason(function: F) -> F:
    """The option `--reason`."""
    return click.option("--reason", default="", help="Why, in a few words.")(function)


def ask(place: Path, name: str, **said: str | None) -> Answer:
    """Let the running gateway carry out a command. Raises ConfigError."""
    from gateway import control
    from schemas.errors import ConfigError

    directory = directory_of(place)
    about = {key: value for key, value in said.items() if value}
    answer = control.ask(directory, {"do": "alarm", "name": name, **about})
    if answer is None:
        raise ConfigError(f"no gateway runs on {directory}", hint="start it, or name another with --in")
    return answer


def do(
    place: Path, name: str, alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, **said: str | None
) -> None:
    """The same for what is about an alarm, a tag or an asset, and say what came of it."""
    if sum(one is not None for one in (alarm_id, tag, asset)) != 1:
        raise click.UsageError("name one: ID, --tag or --asset")
    if alarm is not None and alarm_id is not None:
        raise click.UsageError("--alarm goes with --tag or --asset; an ID is one alarm already")
    say(ask(place, name, id=alarm_id, tag=tag, asset=asset, alarm=alarm, **said))


def change(name: str, said: str) -> click.Command:
    """The command `name` of people that needs no more than whom it is about, who does it and why; `said` is its help."""

    @click.command(name.replace("_", "-"), help=said)
    @subject
    @person
    @reason
    @place
    def command(
        alarm_id: str | None, tag: str | None, asset: str | None, alarm: str | None, by: str, reason: str, place: Path
    ) -> None:
        do(place, name, alarm_id, tag, asset, alarm, by=by, reason=reason)

    return command


def say(answer: Answer) -> None:
    """What came of a command."""
    click.echo(answer["message"] or "that was so already")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return ""
