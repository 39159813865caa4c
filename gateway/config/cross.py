"""What only shows when sections are seen together: routes, patterns, conditions, and data that would end nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adapters.base import AdapterConfig
from cloud_sinks.base import SinkConfig
from edge_models.base import ModelConfig, ModelContext
from gateway.destinations import DEFAULTS, destinations
from gateway.suggest import did_you_mean, listed, nearest
from schemas.asset import matches_any
from schemas.data import KINDS, Kind
from schemas.errors import ConfigError
from schemas.plugin import Plugin
from schemas.tags import Tag

from .places import Loc, Section, find
from .plant import RouteRule
from .report import Report

if TYPE_CHECKING:
    from edge_models.gate import Comparison, Condition

NEEDED: Final[tuple[Kind, ...]] = ("telemetry", "alert")
"""Kinds that nobody loses by accident."""
WITHOUT_TAGS: Final = frozenset({"limits"})
"""Kinds of model that find their tags themselves."""


def check_routes(
    rules: Sequence[RouteRule] | None, sinks: Mapping[str, str], tags: Sequence[Tag], root: Section, report: Report
) -> None:
    """Sinks that routes name, patterns, and kinds and sinks that are left out. `sinks` maps name to kind."""
    known = True
    for number, rule in enumerate(rules or ()):
        for index, name in enumerate(rule.to):
            if name not in sinks:
                known = False
                hint = did_you_mean(name, sinks) or (f"sinks are {listed(sinks)}" if sinks else "the file has no `sinks:`")
                report.at("E040", root, ("routes", number, "to", index), f"unknown sink {name!r}", hint=hint)
        check_patterns(rule.tags, tags, ("routes", number, "tags"), root, report)
    if not sinks:
        report.at(
            "W042", root, ("sinks",), "there are no sinks: nothing is delivered", on="key", hint="add a sink below `sinks:`"
        )
        return
    if known:
        _ends(list(rules or ()), sinks, tags, root, report)


def _ends(rules: Sequence[RouteRule], sinks: Mapping[str, str], tags: Sequence[Tag], root: Section, report: Report) -> None:
    ends = destinations(rules, sinks)
    ruled = {rule.data for rule in rules}
    for kind in NEEDED:
        if not ends[kind] and kind not in ruled:
            takers = listed(DEFAULTS[kind])
            hint = f"add a sink of kind {takers}, or a rule to `routes:`; `- {{data: {kind}, to: []}}` says that it is meant"
            report.at("E041", root, ("sinks",), f"{kind} ends nowhere: no sink takes it", on="key", hint=hint)
    for name, sink in sinks.items():
        if not report.failed and not any(name in ends[kind] for kind in KINDS):
            hint = (
                f"name it in `routes:`; nothing goes to a sink of kind {sink} by default" if not _default(sink) else "delete it"
            )
            report.at("W042", root, ("sinks", name), "no data goes to this sink", on="key", hint=hint)
    patterned = [rule for rule in rules if rule.data == "telemetry"]
    if patterned and all(rule.tags for rule in patterned) and tags:
        patterns = [pattern for rule in patterned for pattern in rule.tags]
        left = [tag.path for tag in tags if not matches_any(tag.path, patterns)]
        if left:
            message = f"telemetry of {len(left)} of {len(tags)} tags goes to no sink, for instance {left[0]}"
            report.at(
                "W042", root, ("routes",), message, on="key", hint="add a rule without `tags`: - {data: telemetry, to: [...]}"
            )


def _default(sink: str) -> bool:
    return any(sink in kinds for kinds in DEFAULTS.values())


def check_captures(adapters: Mapping[str, AdapterConfig], directory: Path, root: Section, report: Report) -> None:
    """Files that two adapters would write. `directory` is what paths are relative to."""
    taken: dict[str, str] = {}
    for name, config in adapters.items():
        if config.capture is None:
            continue
        file = os.path.realpath(directory / config.capture.file)
        other = next((taken[path] for path in (file, f"{file}.1") if path in taken), None)
        if other is not None:
            message = f"{config.capture.file} is written by {other!r} too"
            hint = f"give each its own: captures/{other}.capture, captures/{name}.capture"
            report.at("E035", root, ("adapters", name, "capture"), message, hint=hint)
        taken.setdefault(file, name)
        taken.setdefault(f"{file}.1", name)


def check_shadows(sinks: Mapping[str, SinkConfig], root: Section, report: Report) -> None:
    """At most one sink may say what is desired of the gateway."""
    keepers = [name for name, config in sinks.items() if getattr(config, "shadow", False) is True]
    for name in keepers[1:]:
        report.at("E045", root, ("sinks", name, "shadow"), f"{keepers[0]!r} keeps a shadow already", hint="set it to false here")


def check_model(name: str, config: ModelConfig, tags: Sequence[Tag], root: Section, report: Report) -> None:
    """Patterns that fit nothing, and a condition that some asset cannot answer."""
    loc: Loc = ("models", name)
    if not config.tags:
        if config.kind not in WITHOUT_TAGS and not getattr(config, "inputs", None):
            report.at("W041", root, loc, "the model watches nothing: it has no `tags`", on="key")
        return
    check_patterns(config.tags, tags, (*loc, "tags"), root, report)
    if config.active_when is not None:
        _check_condition(config.active_when, config.tags, tags, (*loc, "active_when"), root, report)


def check_model_file(
    name: str, config: ModelConfig, plugin: Plugin[Any, Any], tags: Sequence[Tag], directory: Path, root: Section, report: Report
) -> None:  # fmt: skip
    """The file of a model that lies in one: whether it is there and takes what the entry gives it. It is read, not run."""
    if not isinstance(getattr(config, "file", None), str):
        return
    from edge_models import inference  # needs Arrow: only for those who use it

    def read(file: str, limits: inference.Limits, where: str) -> inference.Executor:
        return inference.InProcess(inference.read_model(file, directory, where), file, where)

    watched = [replace(tag, id=number) for number, tag in enumerate(tags) if matches_any(tag.path, config.tags)]
    try:
        plugin.build(config, ModelContext(name, watched, open_model=read))
    except ConfigError as error:
        report.at("E046", root, ("models", name, error.where.rpartition(".")[2]), error.message, hint=error.hint)


def check_patterns(patterns: Sequence[str], tags: Sequence[Tag], loc: Loc, root: Section, report: Report) -> None:
    """A warning for each pattern that fits no tag."""
    for index, pattern in enumerate(patterns):
        if not tags or any(matches_any(tag.path, (pattern,)) for tag in tags):
            continue
        report.at("W040", root, (*loc, index), f"{pattern!r} fits no tag", hint=_near(pattern, tags))


def _near(pattern: str, tags: Sequence[Tag]) -> str:
    """A tag that was probably meant: by its whole path, else by its name alone."""
    depth = len(pattern.split("/"))
    name = pattern.rsplit("/", 1)[-1]
    short = {tag.path.split("/", 2)[-1] for tag in tags if len(tag.path.split("/")) - 2 == depth}
    if "*" not in pattern and len(short) <= 2_000:
        found = did_you_mean(pattern, short)
        if found:
            return found
    if any(matches_any(tag.path, (f"**/{name}",)) for tag in tags):
        return f"did you mean '**/{name}'?"
    names = {tag.name for tag in tags}
    close = nearest(name, names) if len(names) <= 2_000 else None
    if close is not None:
        return f"did you mean {'/'.join([*pattern.split('/')[:-1], close])!r}?"
    return "`genba check --tags` lists the paths of all tags"


def _check_condition(text: str, patterns: Sequence[str], tags: Sequence[Tag], loc: Loc, root: Section, report: Report) -> None:
    from edge_models import gate  # needs Arrow: only for those who use it

    try:
        condition: Condition = gate.parse(text)
    except ValueError as error:
        report.at("E042", root, loc, str(error))
        return
    assets: dict[str, dict[str, Tag]] = {tag.asset: {} for tag in tags if matches_any(tag.path, patterns)}
    for tag in tags:
        if tag.asset in assets:
            assets[tag.asset][tag.name] = tag
    for name in condition.names:
        lacking = [asset for asset, mine in assets.items() if name not in mine]
        if lacking:
            asset = lacking[0]
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            hint = did_you_mean(name, assets[asset]) or f"it has {listed(assets[asset])}"
            report.at("E043", root, loc, f"{asset}{more} has no tag {name!r}", hint=hint)
    for comparison in condition.comparisons:
        for mine in assets.values():
            if comparison.tag in mine and not _check_literal(comparison, mine[comparison.tag], loc, root, report):
                break


def _check_literal(comparison: Comparison, tag: Tag, loc: Loc, root: Section, report: Report) -> bool:
    """Whether a text in a condition can ever be equal to the tag."""
    literal = comparison.literal
    if not isinstance(literal, str) or tag.value_type == "text" or literal in tag.enum.values():
        return True
    if tag.enum:
        hint = did_you_mean(literal, tag.enum.values()) or f"it is one of {listed(tag.enum.values())}"
        report.at("E044", root, loc, f"{tag.path} is never {literal!r}", hint=hint)
    else:
        report.at(
            "E044",
            root,
            loc,
            f"{tag.path} is a number and never {literal!r}",
            hint="give the tag an `enum`, or compare with a number",
        )
    return False


def check_templates(used: set[str], root: Section, report: Report) -> None:
    """A warning for each template that nobody takes."""
    templates = find(root, ("templates",)).value
    if isinstance(templates, Section) and templates is not root:
        for name in templates:
            if name not in used and not name.startswith("x-"):
                report.at("W020", root, ("templates", name), "this template is not used", on="key")
