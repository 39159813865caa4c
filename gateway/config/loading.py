"""The first two phases: text to plain data, plain data to a checked configuration. Opens files, never a socket."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from adapters.base import AdapterConfig, BoundTag, TagConfig
from edge_models.base import ModelConfig
from gateway.catalogue import GROUPS, SINGULAR, Catalogue, Group, installed
from gateway.suggest import listed
from schemas.errors import ConfigError
from schemas.plugin import Plugin
from schemas.tags import Tag

from . import cross, document
from .diagnose import ConfigurationInvalid, Diagnostic
from .merge import Merger
from .places import Loc, Section, Unresolved, Value, find
from .plant import PlantConfig
from .report import Report
from .resolve import Resolver
from .secrets import References
from .source import Source, Unreadable, read
from .validate import Validator, keys_of, models_in

_OPTIONAL: Final = ("templates", "adapters", "models", "sinks", "routes", "spool", "status")
"""Sections that may be written and left empty."""


@dataclass(frozen=True)
class Configuration:
    """A checked configuration. A value: two of them can be compared, and nothing in it changes.

    `directory` is what relative paths in the file are relative to. `tags` are in the order of the file and have no id yet
    (-1); `bound` has the same tags by name of adapter, each beside its options. `diagnostics` are the warnings.
    """

    path: Path
    directory: Path
    plant: PlantConfig
    tags: Sequence[Tag]
    bound: Mapping[str, Sequence[BoundTag[TagConfig]]]
    diagnostics: Sequence[Diagnostic] = ()
    origin: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a configuration was made of, so that it can be judged again as it was read, whatever has become of the files."""

    env: Mapping[str, str]
    strict: bool
    catalogue: Catalogue
    texts: Mapping[Path, str]


Lay = Callable[[Section, Report], None]
"""Changes plain data, by place, before it is judged; what it finds wrong itself goes to the report."""


def again(configuration: Configuration, lay: Lay) -> tuple[Configuration | None, list[Diagnostic]]:
    """The same configuration with something laid over it, judged like a file: None when it has errors then, and all findings."""
    origin = configuration.origin
    assert origin is not None, "was not read by `load` or `examine`"
    with _no_collector():
        return _Examination(configuration.path, origin.env, origin.strict, origin.catalogue, origin.texts, lay).run()


def load(
    path: Path, *, env: Mapping[str, str] | None = None, strict_env: bool = True, catalogue: Catalogue | None = None
) -> Configuration:
    """The configuration in a file. Raises ConfigurationInvalid with every error at once.

    `env` is the environment for `${NAME}`, by default the process's own. With `strict_env` a missing variable or secret file
    is an error; without, a warning, and the text `${NAME}` stays where it does no harm.
    """
    configuration, diagnostics = examine(path, env=env, strict_env=strict_env, catalogue=catalogue)
    if configuration is None:
        raise ConfigurationInvalid(diagnostics)
    return configuration


def examine(
    path: Path, *, env: Mapping[str, str] | None = None, strict_env: bool = False, catalogue: Catalogue | None = None
) -> tuple[Configuration | None, list[Diagnostic]]:
    """The configuration in a file, None when it has errors or cannot be judged without a missing variable, and all findings."""
    with _no_collector():
        return _Examination(path, env if env is not None else os.environ, strict_env, catalogue or installed()).run()


@contextmanager
def _no_collector() -> Iterator[None]:
    """Half a million small objects are built and all are kept: the collector would look at them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(slots=True)
class _Entries:
    """The entries of one section by name, as far as they are right, with their plug-ins."""

    configs: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    plugins: dict[str, Plugin[Any, Any]] = field(default_factory=dict)


class _Examination:
    def __init__(
        self,
        path: Path,
        env: Mapping[str, str],
        strict: bool,
        catalogue: Catalogue,
        texts: Mapping[Path, str] | None = None,
        lay: Lay | None = None,
    ) -> None:
        self._path, self._env, self._strict, self._catalogue, self._lay = path, env, strict, catalogue, lay
        self._texts = dict(texts or {})
        self._report = Report()
        self._complete = True  # nothing was left out for want of a variable

    def run(self) -> tuple[Configuration | None, list[Diagnostic]]:
        root = self._parsed()
        configuration = self._examined(root) if root is not None else None
        diagnostics = self._report.finished()
        if configuration is None or self._report.failed or not self._complete:
            return None, diagnostics
        return Configuration(
            configuration.path,
            configuration.directory,
            configuration.plant,
            configuration.tags,
            configuration.bound,
            tuple(diagnostics),
            Origin(self._env, self._strict, self._catalogue, self._texts),
        ), diagnostics

    def _read(self, path: Path, name: str) -> Source:
        """A file, which is read once. Raises Unreadable."""
        if path not in self._texts:
            self._texts[path] = read(path, name).text
        return Source(name, path, self._texts[path])

    def _parsed(self) -> Section | None:
        name = str(self._path)
        try:
            source = self._read(self._path, name)
        except Unreadable as unreadable:
            self._report.add("E001", Source(name, self._path, ""), None, unreadable.problem, hint=unreadable.hint)
            return None
        self._report.begin(source)
        return document.parse(source, self._report)

    def _examined(self, root: Section) -> Configuration | None:
        report, directory = self._report, self._path.absolute().parent
        for key in [key for key in root if key.startswith("x-") or (key in _OPTIONAL and root[key] is None)]:
            del root[key]
        references = References(self._env, directory, report, strict=self._strict)
        references.substitute(root)
        if self._lay is not None:
            self._lay(root, report)  # behind the references: what is laid over may hold none
        merger = Merger(root, directory, references, report, self._read)
        found = {group: self._plugins(root, group, merger) for group in GROUPS}
        whole = self._merged(root, found["adapters"], merger)
        validator = Validator(whole, report)
        validator.elsewhere["the top of the file"] = PlantConfig
        for group in GROUPS:
            for name, plugin in found[group].plugins.items():
                validator.elsewhere[f"{_article(SINGULAR[group])} of kind {found[group].kinds[name]}"] = plugin.config
        for group in GROUPS:
            self._validate(whole, group, found[group], validator, references)
        plant = self._root(whole, found, validator)
        resolver = Resolver(f"{whole.get('enterprise')}/{whole.get('site')}", whole, report)
        named = plant is not None or all(isinstance(whole.get(key), str) for key in ("enterprise", "site"))
        bound = {name: resolver.adapter(name, config) for name, config in found["adapters"].configs.items()} if named else {}
        self._cross(whole, found, plant, resolver.tags)
        cross.check_captures(found["adapters"].configs, directory, whole, report)
        cross.check_shadows(found["sinks"].configs, whole, report)
        cross.check_templates(merger.used, whole, report)
        if plant is None or report.failed or not self._complete:
            return None
        return Configuration(self._path, directory, plant, tuple(resolver.tags), bound)

    def _plugins(self, root: Section, group: Group, merger: Merger) -> _Entries:
        """The plug-in of each entry, by its `kind`."""
        entries = _Entries()
        section = root.get(group)
        for name, entry in section.items() if isinstance(section, Section) else ():
            loc: Loc = (group, name)
            if not isinstance(entry, Section):
                self._report.at(
                    "E011", root, loc, "has no options" if entry is None else "must be a mapping of keys to values", on="key"
                )
                continue
            kind = merger.kind(entry) if group == "adapters" else entry.get("kind")
            if kind is None:
                hint = f"kinds are {listed(self._catalogue.names(group))}"
                self._report.at("E010", root, loc, "the key 'kind' is missing", on="key", hint=hint)
            elif isinstance(kind, Unresolved):
                self._complete = False
            elif not isinstance(kind, str):
                self._report.at("E011", root, (*loc, "kind"), "must be text")
            else:
                try:
                    entries.plugins[name] = self._catalogue.plugin(group, kind)
                    entries.kinds[name] = kind
                except ConfigError as error:
                    self._report.at("E013", root, (*loc, "kind"), error.message, hint=error.hint)
        return entries

    def _merged(self, root: Section, entries: _Entries, merger: Merger) -> Section:
        """The whole file with templates, tag files and defaults in their places."""
        whole = root.copied()
        section = root.get("adapters")
        if not isinstance(section, Section):
            return whole
        adapters = Section(section.source)
        for name, entry in section.items():
            merged: Value = entry
            if isinstance(entry, Section) and name in entries.plugins:
                merged = merger.connection(
                    entry, ("adapters", name), entries.kinds[name], device_keys(entries.plugins[name].config)
                )
            adapters.put(name, merged, section.spots[name])
        whole.put("adapters", adapters, root.spots["adapters"])
        return whole

    def _validate(self, whole: Section, group: Group, entries: _Entries, validator: Validator, references: References) -> None:
        section = whole.get(group)
        for name, plugin in entries.plugins.items():
            entry = section[name] if isinstance(section, Section) else None
            if not isinstance(entry, Section):
                continue
            loc: Loc = (group, name)
            references.secret_options(plugin.config, entry, loc)
            errors = self._report.count
            config = validator.validated(plugin.config, entry, loc)
            if config is not None:
                entries.configs[name] = config
                self._findings(plugin, config, loc, whole)
            elif self._report.count == errors:
                self._complete = False  # only a missing variable is in the way

    def _findings(self, plugin: Plugin[Any, Any], config: BaseModel, loc: Loc, whole: Section) -> None:
        """What the plug-in itself says of its entry."""
        if plugin.check is None:
            return
        try:
            findings = list(plugin.check(config))
        except Exception as error:  # noqa: BLE001 (a plug-in may fail in any way; the other entries are still judged)
            self._report.at("E061", whole, loc, f"{type(error).__name__} while checking this entry: {error}", on="key")
            return
        for finding in findings:
            at = (*loc, *finding.loc)
            if isinstance(find(whole, at).value, Unresolved):
                continue
            code = "E060" if finding.level == "error" else "W060"
            self._report.at(code, whole, at, finding.message, hint=finding.hint)

    def _root(self, whole: Section, found: Mapping[Group, _Entries], validator: Validator) -> PlantConfig | None:
        """The plant with the entries that are right; None when anything outside of them is wrong."""
        data: dict[str, object] = dict(whole)
        data.update({group: found[group].configs for group in GROUPS if isinstance(whole.get(group), Section)})
        return validator.validated(PlantConfig, data, ())

    def _cross(self, whole: Section, found: Mapping[Group, _Entries], plant: PlantConfig | None, tags: Sequence[Tag]) -> None:
        section = whole.get("sinks")
        sinks = {name: found["sinks"].kinds.get(name, "") for name in section} if isinstance(section, Section) else {}
        adapters = whole.get("adapters")
        if not adapters and not self._report.failed:
            self._report.at("W021", whole, ("adapters",), "nothing is read: there are no adapters", on="key")
        whole_adapters = isinstance(adapters, Section) and len(found["adapters"].configs) == len(adapters)
        seen = tags if whole_adapters else ()  # a pattern may fit a tag of an entry that could not be read
        if plant is not None and len(found["sinks"].plugins) == len(sinks):
            cross.check_routes(plant.routes, sinks, seen, whole, self._report)
            self._status(plant, whole)
        if whole_adapters:
            for name, config in found["models"].configs.items():
                if isinstance(config, ModelConfig):
                    cross.check_model(name, config, tags, whole, self._report)
                    plugin = found["models"].plugins[name]
                    cross.check_model_file(name, config, plugin, tags, self._path.absolute().parent, whole, self._report)

    def _status(self, plant: PlantConfig, whole: Section) -> None:
        listen = plant.status.listen
        if listen is not None and listen.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]", "::1"):
            hint = "listen on 127.0.0.1, and put a server with a login before it"
            self._report.at(
                "W043", whole, ("status", "listen"), "the status page has no login and can be reached from the network", hint=hint
            )


def device_keys(config: type[BaseModel]) -> frozenset[str] | None:
    """The options of a device of this kind of adapter; None when it knows no `devices`."""
    devices = config.model_fields.get("devices")
    device = next(models_in(devices.annotation), None) if devices is not None else None
    return frozenset(keys_of(device)) if device is not None and issubclass(config, AdapterConfig) else None


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
