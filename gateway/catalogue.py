"""Which plug-ins there are: the folder and file names of our packages, and entry points of other distributions.

Naming plug-ins imports none of them, and loading one leaves the others alone, so a broken plug-in hurts only who uses it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from schemas.errors import ConfigError
from schemas.plugin import Plugin

from .suggest import did_you_mean, listed

Group = Literal["adapters", "models", "sinks"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
PACKAGES: Final[Mapping[Group, str]] = {"adapters": "adapters", "models": "edge_models", "sinks": "cloud_sinks"}
"""The package whose modules are the built-in plug-ins of a group."""
SINGULAR: Final[Mapping[Group, str]] = {"adapters": "adapter", "models": "model", "sinks": "sink"}
_EXPORTS: Final = re.compile(rb"^PLUGIN\b", re.MULTILINE)


@dataclass(frozen=True)
class Catalogue:
    """Plug-ins by group and kind. `packages` names the packages that are searched, `given` plug-ins that are simply there."""

    packages: Mapping[Group, str] = field(default_factory=lambda: PACKAGES)
    given: Mapping[Group, Mapping[str, Plugin[Any, Any]]] = field(default_factory=dict)

    def names(self, group: Group) -> list[str]:
        """Every kind of the group, sorted. Imports no plug-in."""
        return sorted({*self.given.get(group, {}), *self.built_in(group), *(point.name for point in self._entry_points(group))})

    def built_in(self, group: Group) -> list[str]:
        """The kinds that are modules of our own package, sorted. Imports no plug-in."""
        return sorted(name for name, _ in self._modules(group))

    def plugin(self, group: Group, kind: str) -> Plugin[Any, Any]:
        """The plug-in of that kind. Raises ConfigError when there is none or it cannot be loaded."""
        given = self.given.get(group, {}).get(kind)
        if given is not None:
            return given
        if any(name == kind for name, _ in self._modules(group)):
            return self._loaded(group, kind, None)
        for point in self._entry_points(group):
            if point.name == kind:
                return self._loaded(group, kind, point)
        known = self.names(group)
        hint = did_you_mean(kind, known) or (f"known kinds are {listed(known)}" if known else "none is installed")
        raise ConfigError(f"unknown kind of {SINGULAR[group]} {kind!r}", hint=hint)

    def _modules(self, group: Group) -> Iterator[tuple[str, Path]]:
        for folder in importlib.import_module(self.packages[group]).__path__:
            for entry in Path(folder).iterdir():
                file = entry / "__init__.py" if entry.is_dir() else entry
                if entry.name.startswith(("_", ".")) or file.suffix != ".py" or not file.is_file():
                    continue
                if _EXPORTS.search(file.read_bytes()):
                    yield entry.stem, file

    def _entry_points(self, group: Group) -> importlib.metadata.EntryPoints:
        return importlib.metadata.entry_points(group=f"genba.{group}")

    def _loaded(self, group: Group, kind: str, point: importlib.metadata.EntryPoint | None) -> Plugin[Any, Any]:
        try:
            found = point.load() if point is not None else importlib.import_module(f"{self.packages[group]}.{kind}")
        except Exception as error:  # a plug-in may fail in any way; the others must not suffer
            raise ConfigError(
                f"the {SINGULAR[group]} {kind!r} cannot be loaded: {type(error).__name__}: {error}",
                hint=f"reinstall {point.dist.name}" if point is not None and point.dist is not None else "reinstall genba",
            ) from error
        plugin = getattr(found, "PLUGIN", found)
        if not isinstance(plugin, Plugin):
            raise ConfigError(f"the {SINGULAR[group]} {kind!r} exports no plug-in", hint="its last line is `PLUGIN = Plugin(…)`")
        return plugin


@cache
def installed() -> Catalogue:
    """The plug-ins of this installation."""
    return Catalogue()


def names(group: Group) -> list[str]:
    """Every kind of `adapters`, `models` or `sinks` that is installed, sorted. Imports no plug-in."""
    return installed().names(group)


def plugin(group: Group, kind: str) -> Plugin[Any, Any]:
    """The installed plug-in of that kind. Raises ConfigError when there is none or it cannot be loaded."""
    return installed().plugin(group, kind)
