"""One entry below `adapters:` alone, for commands that look at its device while the rest of the file is still being written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from adapters.base import AdapterConfig
from gateway import catalogue as plugins
from gateway.catalogue import Catalogue
from gateway.suggest import did_you_mean, listed
from schemas.errors import ConfigError
from schemas.plugin import Place, Plugin

from . import document
from .diagnose import ConfigurationInvalid
from .loading import device_keys
from .merge import Merger
from .places import Loc, Section, Value
from .plant import SpoolConfig
from .report import Report
from .secrets import References
from .source import Source, Unreadable, read
from .validate import Validator


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """An entry without its tags, its plug-in, and the place that the running gateway gives its adapter (so that both share trust).

    `tag_file` is the one file from which it takes its tags, as seen from where the command runs; None where there is none, or several.
    """

    name: str
    kind: str
    config: AdapterConfig
    plugin: Plugin[Any, Any]
    place: Place
    tag_file: Path | None = None


def place_of(name: str, spool: Path, base: Path) -> Place:
    """Where the entry `name` of a file in `base` lives when its spool is in `spool`."""
    return Place(name, spool / "adapters" / name, base)


def load_entry(
    path: Path, name: str, *, env: Mapping[str, str] | None = None, catalogue: Catalogue | None = None
) -> AdapterEntry:
    """The connection `name` of a file. Its tags, and what else is in the file, are not looked at: they may still be missing or wrong.

    Raises ConfigurationInvalid for mistakes in the entry or in the YAML, ConfigError for a name that is not there.
    """
    report, directory = Report(), path.absolute().parent
    try:
        source = read(path, str(path))
    except Unreadable as unreadable:
        report.add("E001", Source(str(path), path, ""), None, unreadable.problem, hint=unreadable.hint)
        raise ConfigurationInvalid(report.finished()) from None
    report.begin(source)
    root = document.parse(source, report)
    if root is None or report.failed:
        raise ConfigurationInvalid(report.finished())
    entry = _found(root, name, path)
    references = References(env if env is not None else os.environ, directory, report, strict=True)
    asked = Section(source)
    for key in ("templates", "spool"):
        if isinstance(root.get(key), Section):
            asked.put(key, root[key], root.spots[key])
    alone = Section(source)
    alone.put(name, entry, cast(Section, root["adapters"]).spots[name])
    asked.put("adapters", alone, root.spots["adapters"])
    references.substitute(asked)
    bare = _without_tags(asked)
    merger = Merger(bare, directory, references, report)
    loc: Loc = ("adapters", name)
    own = cast(Section, cast(Section, bare["adapters"])[name])
    kind = merger.kind(own)
    if not isinstance(kind, str):
        raise ConfigError(f"{name} has no kind", where=str(path), hint="say the protocol: `kind: opcua`")
    plugin = (catalogue or plugins.installed()).plugin("adapters", kind)
    whole = merger.connection(own, loc, kind, device_keys(plugin.config))
    cast(Section, bare["adapters"]).put(name, whole, cast(Section, bare["adapters"]).spots[name])
    references.secret_options(plugin.config, whole, loc)
    validator = Validator(bare, report)
    config = validator.validated(plugin.config, whole, loc)
    spool = validator.validated(SpoolConfig, cast("Mapping[str, object]", bare.get("spool") or {}), ("spool",))
    if config is None or spool is None or report.failed:
        raise ConfigurationInvalid(report.finished())
    place = place_of(name, directory / spool.directory, directory)
    return AdapterEntry(name, kind, config, plugin, place, _tag_file(cast(Section, cast(Section, asked["adapters"])[name]), path))


def _tag_file(entry: Section, path: Path) -> Path | None:
    tags = entry.get("tags")
    named = tags.get("file") if isinstance(tags, Section) else None
    return path.parent / named if isinstance(named, str) else None


def _found(root: Section, name: str, path: Path) -> Section:
    adapters = root.get("adapters")
    names = list(adapters) if isinstance(adapters, Section) else []
    entry = adapters.get(name) if isinstance(adapters, Section) else None
    if not isinstance(entry, Section):
        hint = did_you_mean(name, names) or (f"entries are {listed(names)}" if names else "the file has no `adapters:`")
        raise ConfigError(f"there is no {name!r} below `adapters:`", where=str(path), hint=hint)
    return entry


def _without_tags(section: Section, depth: int = 0) -> Section:
    """The same without the tags of connections, devices and templates."""
    made = Section(section.source)
    for key, value in section.items():
        if key == "tags" and depth >= 2:
            continue
        below: Value = _without_tags(value, depth + 1) if isinstance(value, Section) else value
        made.put(key, below, section.spots[key])
    return made
