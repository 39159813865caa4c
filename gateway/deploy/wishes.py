"""What is desired of a gateway in its shadow: the few keys that may be changed from afar, judged as if they stood in the YAML file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from adapters.base import devices_of
from gateway.config import Configuration, Diagnostic, document
from gateway.config.loading import again
from gateway.config.places import Loc, Section
from gateway.config.report import Report
from gateway.config.source import Source
from gateway.config.validate import Validator
from gateway.logs import Level
from gateway.suggest import did_you_mean, listed
from schemas.values import Duration, Strict

MAX_BYTES: Final = 3_000
"""Of the JSON of all wishes: the service keeps 8 KB, and what the gateway reports repeats the wishes that are in force."""
NAME: Final = "desired"
"""Stands for the file in messages about wishes."""


class TagWish(Strict):
    """One tag."""

    scan: Duration = Field(description="Its scan class.")


class DeviceWish(Strict):
    """One device, or a connection that is its own."""

    scan: Duration | None = Field(None, description="Scan class of its tags that have none of their own.")
    tags: Mapping[str, TagWish] = Field(default_factory=dict, description="Tags by the key in the YAML file.")


class AdapterWish(DeviceWish):
    """One entry below `adapters:`."""

    devices: Mapping[str, DeviceWish] = Field(default_factory=dict, description="Devices by the key in the YAML file.")


class SinkWish(Strict):
    """One entry below `sinks:`."""

    paused: bool = Field(description="Deliver nothing to it; its rows wait in the spool.")


class Wishes(Strict):
    """The desired state of the shadow. Keys and places are those of the YAML file; nothing else can be wished for."""

    log_level: Level | None = Field(None, description="What the log is written from.")
    adapters: Mapping[str, AdapterWish] = Field(default_factory=dict, description="Connections by name.")
    sinks: Mapping[str, SinkWish] = Field(default_factory=dict, description="Sinks by name.")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wishes` with the configuration that they make, or None and what is wrong with them. `warnings` are new with the wishes."""

    wishes: Wishes | None
    configuration: Configuration
    errors: Sequence[Diagnostic] = ()
    warnings: Sequence[Diagnostic] = ()


def judge(configuration: Configuration, text: str) -> Verdict:
    """The wishes in a JSON document over a configuration, as it was read. Reads no file; blocking, and takes as long as reading the file did."""
    size = len(text.encode())
    if size > MAX_BYTES:
        message = f"the wishes have {size} bytes and {MAX_BYTES} are taken"
        return Verdict(None, configuration, (Diagnostic("E018", message, file=NAME),))
    taken: list[Wishes] = []

    def lay(root: Section, report: Report) -> None:
        source = Source(NAME, Path(NAME), text)
        wished = document.parse(source, report)
        if wished is None:
            return
        wishes = Validator(wished, report).validated(Wishes, wished, ())
        if wishes is not None and _known(wishes, configuration, wished, report):
            taken.append(wishes)
            _lay(wished, root)

    made, diagnostics = again(configuration, lay)
    errors = [one for one in diagnostics if one.level == "error"]
    if made is None or not taken:
        return Verdict(None, configuration, errors)
    if [tag.path for tag in made.tags] != [tag.path for tag in configuration.tags]:
        hint = "write what the template says into the connection, in the YAML file"
        return Verdict(
            None, configuration, [Diagnostic("E018", "devices of a template cannot be wished for", hint=hint, file=NAME)]
        )
    said = {(one.code, one.key, one.message) for one in configuration.diagnostics}
    return Verdict(taken[0], made, (), [one for one in diagnostics if (one.code, one.key, one.message) not in said])


def _known(wishes: Wishes, configuration: Configuration, wished: Section, report: Report) -> bool:
    """Whether every name in the wishes is one of the configuration."""
    known = True
    for loc, there in _names(wishes, configuration):
        if loc[-1] not in there:
            known = False
            hint = did_you_mean(str(loc[-1]), there) or (f"known keys are {listed(list(there), 30)}" if there else "")
            report.at("E012", wished, loc, "unknown key", on="key", hint=hint)
    return known


def _names(wishes: Wishes, configuration: Configuration) -> Iterator[tuple[Loc, Collection[str]]]:
    """Each name, by place, and the names that there are at this place."""
    plant = configuration.plant
    for name in wishes.sinks:
        yield ("sinks", name), plant.sinks
    for name, wish in wishes.adapters.items():
        yield ("adapters", name), plant.adapters
        config = plant.adapters.get(name)
        if config is None:
            continue
        devices = devices_of(name, config)
        if not getattr(config, "devices", None):
            yield from ((("adapters", name, "tags", tag), devices[name].tags) for tag in wish.tags)
        for key, below in wish.devices.items():
            loc: Loc = ("adapters", name, "devices", key)
            yield loc, getattr(config, "devices", None) or ()
            if key in devices:
                yield from (((*loc, "tags", tag), devices[key].tags) for tag in below.tags)


def _lay(wished: Section, root: Section) -> None:
    """Put each wished scan class where the file would have it."""
    adapters = wished.get("adapters")
    if isinstance(adapters, Section):
        there = root["adapters"]
        assert isinstance(there, Section)
        _over(there, adapters)


def _over(below: Section, wished: Section) -> None:
    for key, value in wished.items():
        old = below.get(key)
        if isinstance(value, Section) and isinstance(old, Section):
            _over(old, value)
        else:
            below.put(key, value, wished.spots[key])


def as_errors(diagnostics: Sequence[Diagnostic], most: int = 5) -> list[dict[str, Any]]:
    """The first few as the shadow reports them, in the words of `genba check`."""
    return [
        {"code": one.code, "key": one.key[:120], "message": one.message[:200], "hint": one.hint[:200]}
        for one in diagnostics[:most]
    ]
