"""Where the lake lies: the argument and options that every `genba lake …` takes, and its troubles in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud_sinks.places import Access
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from cloud_sinks.places import Place


@dataclass(frozen=True, slots=True)
class Location:
    """A lake as it was named on the command line."""

    text: str
    access: Access

    def __str__(self) -> str:
        return self.text

    def place(self) -> Place:
        """The lake to list and read. Raises ConfigError where there is none."""
        from cloud_sinks.places import place_of

        with self.errors():
            return place_of(self.text, **self.access)

    def holds_a_lake(self) -> None:
        """Raises ConfigError where there is nothing of a lake: a wrong name would look like a lake without data."""
        from schemas.lake import COLUMNS

        place = self.place()
        with self.errors():
            there = set(place.names(""))
        if there & {*COLUMNS, "tags"}:
            return
        parts = self.text.rstrip("/").split("/")
        inside = next((at for at, part in enumerate(parts) if part in (*COLUMNS, "tags") and at > 0), None)
        within = inside is not None and (inside + 1 == len(parts) or parts[inside + 1].startswith(("site=", "date=")))
        hint = (
            f"name the lake itself: {'/'.join(parts[:inside])}"
            if within
            else "name the `location` of the sink; a gateway that has connected to it leaves tags/"
        )
        raise ConfigError(f"{self.text}: no lake is there, neither tags/ nor telemetry/", hint=hint)

    def say_why_nothing(self, patterns: tuple[str, ...], sites: tuple[str, ...]) -> None:
        """Tell on stderr which site or pattern of what was asked the lake does not know, and what may have been meant."""
        from cloud_sinks import lake
        from gateway.suggest import did_you_mean
        from schemas.asset import matches_any

        with self.errors():
            known = lake.tags(self.text, **self.access)
        there = known["site"].unique().sort().to_list()
        for site in sites:
            if site not in there:
                click.echo(
                    f"no site of the lake is called {site}; {did_you_mean(site, there) or 'it has ' + ', '.join(there)}", err=True
                )
        paths = known["tag"].unique().sort().to_list()
        for pattern in patterns:
            if not any(matches_any(path, [pattern]) for path in paths):
                word = pattern.rpartition("/")[2]
                hint = did_you_mean(word, {path.rpartition("/")[2] for path in paths}) or "`genba lake tags` lists them"
                click.echo(f"no tag of the lake fits {pattern}; {hint}", err=True)

    @contextmanager
    def errors(self, what: str = "read the lake") -> Iterator[None]:
        """Turns what goes wrong with the lake into an error that says who must act, with the location in it.

        Raises ConfigError for a mistake in what was asked, NotConnected for a bucket that does not answer, ClickException for a
        file that cannot be read.
        """
        import polars.exceptions as pe
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            from cloud_sinks.aws import Account, AwsConfig

            raise Account(AwsConfig(), Path(), self.text).in_words(error, what) from error
        except pe.PolarsError as error:
            said = f"{self.text}: cannot {what}: {_first_line(error)}"
            if "parquet:" in said:
                said += " (`genba lake verify` names the file)"
            raise click.ClickException(said) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(f"{self.text}: cannot {what}: {error.strerror or _first_line(error)}") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def located_at(location: str, region: str | None, endpoint: str | None, profile: str | None) -> Location:
    """The lake of that name. Raises ConfigError for a directory that is not there, click.UsageError for options of a bucket beside one."""
    if "://" in location:
        return Location(location, Access(region=region, endpoint=endpoint, profile=profile))
    if region or endpoint or profile:
        raise click.UsageError("--region, --endpoint and --profile are for a bucket: s3://bucket/prefix")
    if not Path(location).is_dir():
        raise ConfigError(f"{location}: no such directory", hint="name the `location` of the sink, or s3://bucket/prefix")
    return Location(location, Access(region=None, endpoint=None, profile=None))


def located(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the argument LOCATION and the options of a bucket; the function takes one `location: Location` for them.

    A directory that is not there is a ConfigError before anything else is done.
    """

    @click.argument("location", metavar="LOCATION")
    @click.option("--region", help="Region of the bucket, where the environment does not say it.")
    @click.option("--endpoint", metavar="URL", help="Another server that speaks S3.")
    @click.option("--profile", help="Profile of the AWS configuration with the credentials.")
    @functools.wraps(function)
    def wrapped(*args: Any, location: str, region: str | None, endpoint: str | None, profile: str | None, **options: Any) -> Any:
        return function(*args, location=located_at(location, region, endpoint, profile), **options)

    return wrapped


def sites(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --site, which may be repeated: `sites: tuple[str, ...]`, empty for all."""
    return click.option("--site", "sites", multiple=True, metavar="SITE", help="Only this site; may be repeated.")(function)
