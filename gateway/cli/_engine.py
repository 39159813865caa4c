"""Where a job over the lake runs: --engine, --master and --conf, for every command that can be given to Spark."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, slots=True)
class Engine:
    """This process, or Spark on `master` with settings of its own."""

    master: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def session(self) -> Iterator[SparkSession | None]:
        """A Spark session, None for this process. Raises ConfigError as `gateway.jobs.spark.session` does."""
        if self.master is None:
            yield None
            return
        from gateway.jobs import spark

        with spark.session(self.master, self.settings) as made:
            yield made


def engined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the function takes one `engine: Engine` for them."""

    @click.option(
        "--engine", type=click.Choice(("polars", "spark")), default="polars", show_default=True,
        help="In this process, or past one machine.",
    )  # fmt: skip
    @click.option("--master", help="Where Spark runs: local[4], spark://host:7077, yarn, k8s://…  [default: local[*]]")
    @click.option("--conf", multiple=True, metavar="KEY=VALUE", help="A setting of Spark. May be repeated.")
    @functools.wraps(function)
    def wrapped(*args: Any, engine: str, master: str | None, conf: tuple[str, ...], **options: Any) -> Any:
        if engine != "spark":
            if master or conf:
                raise click.UsageError("--master and --conf are for --engine spark")
            return function(*args, engine=Engine(), **options)
        given = {}
        for one in conf:
            key, equals, value = one.partition("=")
            if not equals:
                raise click.BadParameter(f"{one!r}: write it like spark.executor.memory=4g", param_hint="--conf")
            given[key] = value
        return function(*args, engine=Engine(master or "local[*]", given), **options)

    return wrapped
