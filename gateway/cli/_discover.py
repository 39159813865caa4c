"""What `browse` and `probe` share: their options, running a walk with honest progress, and the tag file that comes out of it."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from pydantic import BaseModel

from gateway import catalogue

from . import _fields
from ._kinds import of_place
from ._output import OUTPUT, Output, complain_of_output, deliver

if TYPE_CHECKING:
    from gateway.config.entry import AdapterEntry
    from schemas.plugin import Check, Discovery, Plugin, Point

Verb = Literal["browse", "probe"]
_EVERY_S: Final = 5.0
_SCOPELESS: Final = ("endpoint", "timeout", "values")
"""Options that do not decide what a walk can find, unless the walk itself names those that do."""


@dataclass(slots=True)
class Walked:
    """What a walk told. `whole` is False when a check failed: what it did not find may be there."""

    points: list[Point] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return all(check.result != "failure" for check in self.checks)


def of_kind(verb: Verb, kind: str) -> click.Command:
    """`genba VERB KIND ENDPOINT`. Raises click.UsageError when the adapter has no such walk."""
    hook = _hook(verb, catalogue.plugin("adapters", kind), kind)
    parameters = _fields.parameters(hook.options, argument="endpoint")

    def run(**given: Any) -> None:
        output = Output.taken(given)
        options = _fields.read(hook.options, given, argument="endpoint")
        command = _spelled(["genba", verb, kind, given["endpoint"]], parameters, given)
        finish(hook, options, kind, command, output, endpoint=options.endpoint)

    text = {
        "browse": f"Walk the {kind} server at ENDPOINT and list what it has as tags.",
        "probe": f"Look at the {kind} device at ENDPOINT: what it answers, and with which values.",
    }[verb]
    return click.Command(f"{verb} {kind}", callback=run, params=[*parameters, *OUTPUT], help=_help(text))


def of_entry(verb: Verb, file: Path, name: str) -> click.Command:
    """`genba VERB FILE NAME`. Raises ConfigError for the entry, click.UsageError when its adapter has no such walk."""
    from gateway.config.entry import load_entry

    entry = load_entry(file, name)
    hook = _hook(verb, entry.plugin, entry.kind)
    parameters = _fields.parameters(hook.options, argument="endpoint")[1:]

    def run(**given: Any) -> None:
        output = Output.taken(given)
        if output.out is None and (output.diff or output.prune or output.again):
            output = replace(output, out=entry.tag_file)
        options = of_place(hook, entry, given)
        command = _spelled(["genba", verb, str(file), name], parameters, given)
        finish(hook, options, entry.kind, command, output, endpoint=entry.config.endpoint, entry=entry)

    text = (
        f"As `genba {verb} {entry.kind} {entry.config.endpoint}`, with the security and the options of {name} in {file}. "
        "--diff, --prune and --again without --out speak of the file from which it takes its tags."
    )
    return click.Command(f"{verb} {file} {name}", callback=run, params=[*parameters, *OUTPUT], help=_help(text))


def nothing_named(verb: Verb, words: Sequence[str]) -> None:
    """The command without a kind and without an entry. Raises click.UsageError that says what there is."""
    from gateway.suggest import did_you_mean

    first = words[0] if words else ""
    if Path(first).suffix.lower() in (".yaml", ".yml"):
        raise click.UsageError(f"name the entry of {first} too: genba {verb} {first} NAME")
    hooked = [kind for kind in catalogue.names("adapters") if _walks(verb, kind)]
    hint = did_you_mean(first, hooked) if first else ""
    said = f"{first!r} is no kind of adapter{', ' if hint else ''}{hint}; " if first else ""
    raise click.UsageError(
        f"{said}write `genba {verb} KIND ENDPOINT` (kinds: {', '.join(hooked) or 'none yet'}) or `genba {verb} FILE NAME`"
    )


def _walks(verb: Verb, kind: str) -> bool:
    from schemas.errors import ConfigError

    try:
        return getattr(catalogue.plugin("adapters", kind), verb) is not None
    except ConfigError:
        return False


def _hook(verb: Verb, plugin: Plugin[Any, Any], kind: str) -> Discovery[Any]:
    hook: Discovery[Any] | None = getattr(plugin, verb)
    if hook is None:
        other = "probe" if verb == "browse" else "browse"
        hint = f"; `genba {other} {kind}` can" if getattr(plugin, other) is not None else ""
        raise click.UsageError(f"the adapter {kind!r} cannot {verb}{hint}")
    return hook


def finish(
    hook: Discovery[Any],
    options: BaseModel,
    kind: str,
    command: str,
    output: Output,
    *,
    endpoint: str,
    entry: AdapterEntry | None = None,
) -> None:
    """Walk, then show and write what came out. Raises SystemExit(1) with `--diff` and differences, SystemExit(3) for a walk that failed."""
    complain_of_output(output)
    walked = asyncio.run(walk(hook, options))
    result = deliver(
        walked.points, kind, output, command=command, source=endpoint, scope=scope_of(hook, options), whole=walked.whole
    )
    snippet = _snippet(walked.settings, kind, endpoint, output, entry, new=result.new)
    if output.as_json:
        told = {
            "points": [
                {"name": p.name, "asset": p.asset, "options": _jsonable(p.options), "value": p.value, "note": p.note}
                for p in walked.points
            ],
            "settings": _jsonable(walked.settings),
            "checks": [{"name": c.name, "result": c.result, "found": c.found, "way_out": c.way_out} for c in walked.checks],
            **result.as_json(),
        }
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
    elif snippet:
        click.echo(snippet, err=output.out is None or not result.new or output.diff)
    if not walked.whole:
        raise SystemExit(3)
    if output.diff and result.difference:
        raise SystemExit(1)


async def walk(hook: Discovery[Any], options: BaseModel) -> Walked:
    """Everything that a walk tells; checks are shown as they come, and how far it is."""
    from schemas.plugin import Check, Settings

    from .doctor import print_line

    walked, progress = Walked(), Progress("points")
    try:
        async with aclosing(hook.walk(options)) as stream:
            async for told in stream:
                if isinstance(told, Check):
                    progress.clear()
                    walked.checks.append(told)
                    print_line(told, 15, err=True)
                elif isinstance(told, Settings):
                    walked.settings.update(told.options)
                else:
                    walked.points.append(told)
                    progress.at(len(walked.points))
    finally:
        progress.clear()
    click.echo(f"{len(walked.points):,} points in {time.monotonic() - progress.began:.1f} s", err=True)
    return walked


class Progress:
    """How many so far, how fast, for how long: on a terminal a line that is written over, else a plain line every 5 s."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self.began = self._shown = clock()
        self._live = sys.stderr.isatty()
        self._width = 0

    def at(self, count: int) -> None:
        """`count` are done."""
        now = self._clock()
        if now - self._shown < (0.5 if self._live else _EVERY_S):
            return
        self._shown = now
        spent = now - self.began
        text = f"{count:,} {self._what}, {count / spent:,.0f}/s, {spent:.0f} s"
        if self._live:
            click.echo(f"\r{text:<{self._width}}", err=True, nl=False)
            self._width = len(text)
        else:
            click.echo(text, err=True)

    def clear(self) -> None:
        """Make room for a line of text."""
        if self._width:
            click.echo(f"\r{'':<{self._width}}\r", err=True, nl=False)
            self._width = 0


def scope_of(hook: Discovery[Any], options: BaseModel) -> str:
    """The options that decide what a walk can find, as text: another scope says nothing about tags of this one."""
    names = hook.scope if hook.scope is not None else [name for name in type(options).model_fields if name not in _SCOPELESS]
    written = {name: getattr(options, name) for name in names}
    defaults = {name: one.get_default(call_default_factory=True) for name, one in type(options).model_fields.items()}
    return json.dumps({name: _jsonable(value) for name, value in written.items() if value != defaults[name]}, sort_keys=True)


def _snippet(
    settings: Mapping[str, Any], kind: str, endpoint: str, output: Output, entry: AdapterEntry | None, *, new: bool
) -> str:
    """The entry for the configuration file; of an entry that is there only the settings that were found."""
    from gateway.discovery.scalars import flow, text

    if entry is not None:
        if not settings:
            return ""
        lines = [f"# found for {entry.name}; compare with what stands there", f"{text(entry.name)}:"]
        return "\n".join([*lines, *(f"  {name}: {flow(_jsonable(value))}" for name, value in settings.items())])
    if not settings and not new and output.out is not None:
        return ""
    name = output.out.stem if output.out is not None else f"{kind}-1"
    lines = [
        "# for the configuration file:",
        "adapters:",
        f"  {text(name)}:",
        f"    kind: {kind}",
        f"    endpoint: {text(endpoint)}",
    ]
    lines += [
        f"    {option}: {flow(_jsonable(value))}" for option, value in settings.items() if option not in ("kind", "endpoint")
    ]
    lines.append(f"    tags: {{file: {text(str(output.out or 'tags/' + name + '.yaml'))}}}   # the path is relative to that file")
    return "\n".join(lines)


def _spelled(words: list[str], parameters: list[click.Parameter], given: Mapping[str, Any]) -> str:
    """The command as it can be given again, without what only says where the result goes."""
    for parameter in parameters:
        value = given.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or value in (None, (), False, ""):
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(one)]
    return shlex.join(words)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(one) for one in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _help(text: str) -> str:
    return (
        f"{text}\n\nWithout --out the tags go to stdout as YAML. With --out a tag file is written, for `tags: {{file: FILE}}`. When it is there, "
        "the difference is shown and only what the device changed is changed in it: comments, order, names, limits and tags that were "
        "deleted or put into comments stay. Nothing is written to the device."
    )
