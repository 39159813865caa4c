"""The one value that a plug-in module exports, and what the gateway hands to it.

An adapter, a model or a sink is a module with a configuration class, the class that does the work, and `PLUGIN` as its last
line. The gateway finds modules by folder or file name (the name is the `kind:` in YAML) and by entry points
(`genba.adapters`, `genba.models`, `genba.sinks`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from .certificates import TrustStore

C = TypeVar("C", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a plug-in's own check says of a configuration: `loc` is the key path below the plug-in's entry."""

    level: Literal["error", "warning"]
    loc: tuple[str | int, ...]
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request that an adapter makes each time a scan class is polled.

    `fields` is what goes over the wire, by the protocol's own names (function, unit, start, count). `wasted` counts the registers
    (or bits, or bytes) that are read and belong to no tag. `time_s` is how long the line is taken, None where its speed is not known.
    """

    period_us: int
    fields: Mapping[str, int | str]
    tags: int
    wasted: int
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a doctor looked at. `way_out` says what to do, in one or more lines; it is empty when all is fine."""

    name: str
    result: Literal["ok", "warning", "failure"]
    found: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Doctor(Generic[C]):
    """What `genba doctor KIND ENDPOINT` runs: `examine(options)` looks at one thing after the other and tells each.

    `options` has a field `endpoint`; each other field is an option of the command with the field's description, `local_port` as
    `--local-port`, a list as one that may be repeated. `examine` does nothing to the device but read, has a deadline for each
    exchange, raises nothing because of the device, and ends with the first check after which nothing more can be found out.
    """

    options: type[C]
    examine: Callable[[C], AsyncGenerator[Check, None]]
    of: Callable[[Any, Place], C] | None = None  # the same options from an entry of a file: of(config, place)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry of a configuration file lives: its `name`, the `directory` that is private to it, and `base`, the directory of
    the file, to which its relative paths are relative."""

    name: str
    directory: Path
    base: Path


@dataclass(frozen=True, slots=True)
class Point:
    """One value that a device has: `name` for its tag, and `options` as they stand in YAML, `address` first (type, unit, label, …).

    `asset` is its asset path below enterprise/site, None for the device's own. `value` is what it read as, for people; `note` says
    what a person should look at before the tag is used. Both are shown, and not written as options.
    """

    name: str
    options: Mapping[str, Any]
    asset: str | None = None
    value: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the entry itself as they were found (`unit_id`, `order`, `max_registers`), as they stand in YAML."""

    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Discovery(Generic[C]):
    """What `genba browse KIND ENDPOINT` (a server that knows its values) and `genba probe KIND ENDPOINT` (a device that does not) run.

    `options` is as of `Doctor`. `walk(options)` yields what it learns as it learns it: a `Check` is told, a `Point` becomes a tag, `Settings`
    become options of the entry. It reads only, gently, with a deadline for each exchange, and raises NotConnected or ConfigError.
    A `Check` that is a failure says that the walk is not whole: then nothing that it did not find counts as gone. `scope` names the
    options that decide what it can find (None: all but the endpoint and the timeout); a walk of another scope says nothing about
    the points of this one.
    """

    options: type[C]
    walk: Callable[[C], AsyncGenerator[Check | Point | Settings, None]]
    of: Callable[[Any, Place], C] | None = None  # the same options from an entry of a file: of(config, place)
    scope: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Plugin(Generic[C, T]):
    """A plug-in: its configuration class, and `build(config, context)` that makes the thing without any I/O.

    `build` and the hooks import their heavy libraries when called, so that reading a configuration stays fast.
    `check(config)` finds what needs several fields at once (overlapping addresses); it opens nothing.
    `simulate(config, context)` makes a server of the protocol with the same address map; `probe`, `doctor` and `browse`
    are what the generic commands of these names use. `trust(config, place)` is the list of trusted certificates of an entry, None where it
    uses none; with None for the configuration it is the list in `place.directory` itself. `plan(config, tags)` says what `genba plan` shows: every request of one poll of
    each scan class, without opening anything; `tags` are the bound tags of the entry. The context types are in the base module of each package.
    """

    config: type[C]
    build: Callable[[C, Any], T]  # the context differs by package: AdapterContext, ModelContext, SinkContext
    check: Callable[[C], Iterable[Finding]] | None = None
    simulate: Callable[[C, Any], Any] | None = None
    probe: Discovery[Any] | None = None
    doctor: Doctor[Any] | None = None
    browse: Discovery[Any] | None = None
    plan: Callable[[C, Sequence[Any]], Sequence[PlannedRequest]] | None = None
    trust: Callable[[C | None, Place], TrustStore | None] | None = None
