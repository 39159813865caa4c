"""Commands that look at one device: `VERB KIND ENDPOINT …`, or `VERB FILE NAME …` for an entry of a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gateway.config.entry import AdapterEntry
    from schemas.plugin import Discovery, Doctor


class KindOrFile(click.Command):
    """A command whose first argument may be a kind of adapter, or a file with the name of an entry behind it.

    `of_kind(kind)` makes the command for what follows a kind, with that kind's own options; `of_entry(file, name)` the one for an
    entry. Anything else is the command itself.
    """

    def __init__(
        self,
        *args: Any,
        of_kind: Callable[[str], click.Command],
        of_entry: Callable[[Path, str], click.Command],
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._of_kind, self._of_entry = of_kind, of_entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command for the kind or entry, the usual one otherwise."""
        from gateway import catalogue

        kinds = catalogue.names("adapters")
        plain = [n for n in range(len(args)) if n == 0 or args[n - 1] != "--out"]  # not the value of that option
        kind = next((n for n in plain if args[n] in kinds), None)
        file = next((n for n in plain if _is_file(args[n])), None)
        if kind is not None and (file is None or kind < file):
            rest = [*args[:kind], *args[kind + 1 :]]
            return self._of_kind(args[kind]).make_context(f"{info_name} {args[kind]}", rest, parent, **extra)
        if file is not None and file + 1 < len(args) and not args[file + 1].startswith("-"):
            rest = [*args[:file], *args[file + 2 :]]
            made = self._of_entry(Path(args[file]), args[file + 1])
            return made.make_context(f"{info_name} {args[file]} {args[file + 1]}", rest, parent, **extra)
        first = next((argument for argument in args if not argument.startswith("-")), None)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if kind is None and file is None and first is not None and "unexpected extra argument" in error.message:
                text = f"{first!r} is neither a kind of adapter (kinds: {', '.join(kinds)}) nor a configuration file (.yaml)"
                raise click.UsageError(text, error.ctx) from None
            raise


def _is_file(argument: str) -> bool:
    """Whether an argument is meant as a configuration file: the first one that looks like one, also where it is not there."""
    return not argument.startswith("-") and Path(argument).suffix.lower() in (".yaml", ".yml")


def of_place(hook: Doctor[Any] | Discovery[Any], entry: AdapterEntry, given: Mapping[str, Any]) -> Any:
    """The options of a hook from an entry of a file, over them what was given on the command line."""
    from . import _fields

    if hook.of is None:
        raise click.UsageError(
            f"this cannot be done for an entry of a file yet; name the device: {entry.kind} {entry.config.endpoint}"
        )
    options = hook.of(entry.config, entry.place)
    written = {name: value for name, value in given.items() if value not in (None, (), False, "")}
    return _fields.over(options, written)
