"""Where tags go that were found or imported: to stdout, or into a tag file with its difference shown first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ._options import printable

if TYPE_CHECKING:
    from gateway.discovery.difference import Change, Difference
    from schemas.plugin import Point

OUTPUT: Final[Sequence[click.Parameter]] = (
    click.Option(["--out"], type=click.Path(path_type=Path, dir_okay=False), help="Tag file to write: FILE.yaml or FILE.csv."),
    click.Option(
        ["--diff"], is_flag=True, help="Only show what would change in the file of --out; exits with 1 when there is something."
    ),
    click.Option(["--prune"], is_flag=True, help="Take tags out that are not there any more, instead of marking them."),
    click.Option(["--again"], is_flag=True, help="Bring tags back that were deleted from the file."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print everything as JSON on stdout."),
)
_SIGNS: Final = {"added": "+", "removed": "-", "back": "+", "kept": "!"}
_COLOURS: Final = {"+": "green", "-": "red", "~": "yellow", "!": "magenta"}
_WORDS: Final = {"unit": "unit changed", "kept": "kept as in the file"}
_ORDER: Final = ("added", "removed", "back", "retyped", "readdressed", "unit", "changed", "kept")
_AT_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Output:
    """The options of a command that say where its result goes."""

    out: Path | None = None
    diff: bool = False
    prune: bool = False
    again: bool = False
    as_json: bool = False

    @classmethod
    def taken(cls, given: dict[str, Any]) -> Output:
        """Takes them out of what was given on the command line."""
        return cls(*(given.pop(name) for name in ("out", "diff", "prune", "again", "as_json")))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the tags: the difference to the file (None without one), and whether it is new and was written."""

    difference: Difference | None = None
    new: bool = True
    written: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        if self.difference is None:
            return {"difference": None, "written": False}
        return {
            "difference": [
                {
                    "change": c.kind, "tag": c.key, "address": c.address, "option": c.option,
                    "before": _plain(c.before), "after": _plain(c.after), "note": c.note,
                }
                for c in self.difference.changes
            ],
            "written": self.written,
        }  # fmt: skip


def complain_of_output(output: Output) -> None:
    """Raises click.UsageError for options that make no sense together, before anything is asked of a device."""
    if output.out is None and (output.diff or output.prune or output.again):
        raise click.UsageError("--diff, --prune and --again speak of the file of --out; name it")
    if output.out is not None:
        from gateway.discovery.writing import SUFFIXES

        if output.out.suffix.lower() not in SUFFIXES:
            raise click.UsageError(f"--out: {output.out} is neither .yaml nor .csv")


def deliver(points: Sequence[Point], kind: str, output: Output, *, command: str, source: str, scope: str, whole: bool) -> Result:
    """Show the tags, or their difference to the file of `--out`, and write it unless `--diff`. Raises ConfigError for the file."""
    from gateway.discovery import writing
    from gateway.discovery.points import entries

    found = entries(points, kind)
    head = _head(command, source)
    if output.out is None:
        if not output.as_json:
            click.echo(writing.as_yaml(found, head), nl=False)
        return Result()
    draft = writing.draft(output.out, found, kind, scope=scope, whole=whole, head=head, again=output.again)
    if not output.as_json:
        _show(draft.difference, output, new=draft.new)
    if output.diff:
        return Result(draft.difference, draft.new)
    written = draft.write(day=datetime.now(UTC).date().isoformat(), prune=output.prune)
    click.echo(f"{output.out} {'is written' if written else 'is as it was'}", err=True)
    return Result(draft.difference, draft.new, written)


def _head(command: str, source: str) -> str:
    lines = (
        f"Tags of {source}, by: {command}",
        "Edit freely: names, limits, scan, comments and order stay when the command runs again with this file; a tag that you delete",
        "or put into a comment stays out.",
    )
    return "".join("# " + "".join(one if one.isprintable() else " " for one in line) + "\n" for line in lines)


def _show(difference: Difference, output: Output, *, new: bool) -> None:
    """The difference for people, on stdout."""
    counts = Counter(change.kind for change in difference.changes)
    words = [f"{counts[kind]:,} {_WORDS.get(kind, kind)}" for kind in _ORDER if counts[kind]]
    words += [f"{difference.same:,} as before"] if difference.same else []
    words += [f"{difference.left_out:,} stay out"] if difference.left_out else []
    words += [f"{difference.not_asked:,} not looked for"] if difference.not_asked else []
    click.echo(f"{output.out}{' (new)' if new else ''}: {', '.join(words) or 'nothing found'}")
    if new:
        return
    for change in difference.changes[:_AT_MOST]:
        sign = _SIGNS.get(change.kind, "~")
        click.echo(click.style(printable(f"{sign} {_line(change)}"), fg=_COLOURS[sign]))
    if len(difference.changes) > _AT_MOST:
        click.echo(f"… and {len(difference.changes) - _AT_MOST:,} more; --json shows all")


def _line(change: Change) -> str:
    match change.kind:
        case "added":
            assert change.entry is not None
            options = change.entry.options
            more = " ".join(str(options[name]) for name in ("type", "unit") if name in options)
            return f"{change.key}  {change.address}  {more}{'  # ' + change.note if change.note else ''}"
        case "removed":
            return f"{change.key}  {change.address}  is not there any more{'; ' + change.note if change.note else ''}"
        case "back":
            return f"{change.key}  {change.address}  is there again"
        case "kept":
            now = "nothing" if change.after is None else _words(change.after)
            return f"{change.key}  {change.option}: the file says {_words(change.before)}, found was {now} ({change.note})"
        case _:
            return f"{change.key}  {change.option} {_words(change.before)} -> {_words(change.after)}"


def _words(value: object) -> str:
    from gateway.discovery.scalars import flow

    return "nothing" if value is None else value if isinstance(value, str) else flow(value)


def _plain(value: Any) -> Any:
    return {str(key): below for key, below in value.items()} if isinstance(value, Mapping) else value
