"""Templates, tag files, and options of a connection as defaults of its devices: from what is written to whole entries.

Merging happens on plain data before validation; every value keeps the place where it was written. A device's own options win
over its template's, these over the connection's. Tags are merged by name and option by option; anything else is replaced whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from gateway.suggest import did_you_mean, listed

from . import tagfile
from .diagnose import dotted
from .places import Items, Loc, Section, Spot, Unresolved, Value
from .report import Report
from .secrets import References
from .source import Source, Unreadable, read


class Merger:
    """Merges the adapters of one file. Keeps each tag file that it has read, and which templates were used."""

    def __init__(
        self,
        root: Section,
        directory: Path,
        references: References,
        report: Report,
        read: Callable[[Path, str], Source] = read,
    ) -> None:
        templates = root.get("templates")
        self._templates = templates if isinstance(templates, Section) else Section(root.source)
        self._directory, self._references, self._report, self._read_file = directory, references, report, read
        self._files: dict[str, Section | None] = {}
        self.used: set[str] = set()

    def kind(self, entry: Section) -> Value:
        """The `kind` of a connection, which its template may give."""
        template = self._templates.get(_template_name(entry) or "")
        return entry.get("kind") or (template.get("kind") if isinstance(template, Section) else None)

    def connection(self, entry: Section, loc: Loc, kind: str, device_keys: Collection[str] | None) -> Section:
        """One connection, whole. `device_keys` are the options of a device, None when the kind knows no devices."""
        own = self._tags_read(entry, loc)
        template = self._template(entry, loc, kind)
        made = _over(own, template)
        devices = made.get("devices")
        if device_keys is None or not isinstance(devices, Section) or not devices:
            return made
        if "tags" in own:
            hint = "move them below one of the devices, or into a template"
            self._report.at_spot("E022", own.spots["tags"], "tags of no device", on="key", key=_key(loc, "tags"), hint=hint)
        defaults = made.without(*(key for key in made if key not in device_keys))
        if "tags" in own:
            defaults = defaults.without("tags")
        whole = Section(devices.source)
        for name, device in devices.items():
            below = (*loc, "devices", name)
            merged = self._device(device, below, kind, defaults) if isinstance(device, Section) else device
            whole.put(name, merged, devices.spots[name])
        made.put("devices", whole, made.spots["devices"])
        return made.without("tags")

    def _device(self, device: Section, loc: Loc, kind: str, defaults: Section) -> Section:
        own = self._tags_read(device, loc)
        if "template" in own:
            own = _over(own, self._template(own, loc, kind).without("kind"))
            defaults = defaults.without("tags")  # a device of another type than the connection's template says
        return _over(own, defaults)

    def _template(self, owner: Section, loc: Loc, kind: str) -> Section:
        """What the template that `owner` names holds; empty when it names none or a wrong one, which the report then says."""
        nothing = Section(owner.source)
        name = _template_name(owner)
        if name is None:
            return nothing
        spot, key = owner.spots["template"], _key(loc, "template")
        found = self._templates.get(name)
        self.used.add(name)
        if not isinstance(found, Section):
            if name not in self._templates:
                hint = did_you_mean(name, self._templates) or (
                    f"templates are {listed(self._templates)}" if self._templates else "the file has no `templates:`"
                )
                self._report.at_spot("E020", spot, f"unknown template {name!r}", key=key, hint=hint)
            return nothing
        if found.get("kind", kind) != kind:
            self._report.at_spot("E020", spot, f"{name} is a template for {found['kind']}, this is {kind}", key=key)
            return nothing
        if "template" in found:
            hint = "write the options of both into one"
            self._report.at_spot(
                "E020", found.spots["template"], "a template of a template", on="key", key=f"templates.{name}.template", hint=hint
            )
        return self._tags_read(found.without("template"), ("templates", name))

    def _tags_read(self, owner: Section, loc: Loc) -> Section:
        """The same with `tags: {file: …}` replaced by what the files hold; tags written beside `file` win."""
        tags = owner.get("tags")
        if not isinstance(tags, Section) or not isinstance(tags.get("file"), (str, Items)):
            return owner
        named = tags["file"]
        made = Section(owner.source)
        places = list(zip(named, named.spots, strict=True)) if isinstance(named, Items) else [(named, tags.spots["file"])]
        for name, spot in places:
            if isinstance(name, Unresolved):
                whole = owner.copied()
                whole.put("tags", Unresolved(), owner.spots["tags"])
                return whole
            if isinstance(name, str):
                made = _tags_over(self._file(name, spot, _key(loc, "tags")) or Section(owner.source), made)
            else:
                self._report.at_spot("E011", spot, "must be the name of a file", key=_key(loc, "tags"))
        whole = owner.copied()
        whole.put("tags", _tags_over(tags.without("file"), made), owner.spots["tags"])
        return whole

    def _file(self, name: str, spot: Spot, key: str) -> Section | None:
        if name not in self._files:
            self._files[name] = self._read(name, spot, key)
        return self._files[name]

    def _read(self, name: str, spot: Spot, key: str) -> Section | None:
        # The name for people is the path from where they stand, as they wrote the name of the configuration itself.
        shown = str(Path(self._templates.source.name).parent / name)
        try:
            source = self._read_file(self._directory / name, shown)
        except Unreadable as unreadable:
            hint = f"paths are relative to {self._templates.source.path.name}" if unreadable.missing else unreadable.hint
            self._report.at_spot("E001", spot, f"{shown}: {unreadable.problem}", key=key, hint=hint)
            return None
        tags = tagfile.parse(source, self._report)
        if tags is not None:
            self._references.substitute(tags)
        return tags


def _template_name(owner: Section) -> str | None:
    """The template that is named; a bare number is a name as it is written."""
    name = owner.get("template")
    if isinstance(name, str):
        return name
    return owner.spots["template"].written() if isinstance(name, (int, float)) else None


def _key(loc: Loc, last: str) -> str:
    return dotted((*loc, last))


def _over(own: Section, base: Section) -> Section:
    """`own` over `base`: options that `own` does not write are the base's; tags are merged by name."""
    if not base:
        return own.copied()
    made = own.copied()
    made.take(base, skip=tuple(own))
    mine, theirs = own.get("tags"), base.get("tags")
    if isinstance(mine, Section) and isinstance(theirs, Section):
        made.put("tags", _tags_over(mine, theirs), own.spots["tags"])
    return made


def _tags_over(own: Section, base: Section) -> Section:
    """The base's tags in their order, each with the options that `own` writes for it, then the tags of `own` alone."""
    if not base:
        return own
    if not own:
        return base
    made = Section(own.source)
    for name, tag in base.items():
        mine = own.get(name)
        if isinstance(mine, Section) and isinstance(tag, Section):
            merged = mine.copied()
            merged.take(tag, skip=tuple(mine))
            made.put(name, merged, own.spots[name])
        else:
            made.put(name, tag if name not in own else mine, (own if name in own else base).spots[name])
    made.take(own, skip=tuple(made))
    return made
