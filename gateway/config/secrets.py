"""References in texts: `${NAME}`, `${NAME:?why}`, `${NAME:-default}`, and `{file: path}` where an option is a secret.

They are resolved after parsing, only inside values, so that no value can break the structure of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretBytes, SecretStr

from .diagnose import dotted
from .places import Items, Referenced, Section, Spot, Unresolved, Value
from .report import Report

_REFERENCE: Final = re.compile(r"\$(?P<escaped>\$)?\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<mode>[?-])(?P<text>.*))?", re.DOTALL)


class References:
    """Resolves references against an environment and a directory. `strict`: what is missing is an error, not a warning."""

    def __init__(self, env: Mapping[str, str], directory: Path, report: Report, *, strict: bool) -> None:
        self._env, self._directory, self._report, self._strict = env, directory, report, strict

    def substitute(self, section: Section) -> None:
        """Replace the references in every text of a document, in place. Each value that comes in is kept out of messages."""
        if "${" in section.source.text:
            self._walk(section, ())

    def _walk(self, value: Section | Items, loc: tuple[str | int, ...]) -> None:
        if isinstance(value, Section):
            for key, item in list(value.items()):
                value[key] = self._resolved(item, value.spots[key], (*loc, key))
        else:
            for index, item in enumerate(list(value)):
                value[index] = self._resolved(item, value.spots[index], (*loc, index))

    def _resolved(self, item: Value, spot: Spot, loc: tuple[str | int, ...]) -> Value:
        if isinstance(item, (Section, Items)):
            self._walk(item, loc)
        elif isinstance(item, str) and "${" in item:
            return self._text(item, spot, loc)
        return item

    def _text(self, text: str, spot: Spot, loc: tuple[str | int, ...]) -> str:
        missing = False

        def replaced(match: re.Match[str]) -> str:
            nonlocal missing
            if match["escaped"]:
                return match[0][1:]
            inside = _INSIDE.fullmatch(match["inside"])
            if inside is None or not match["end"]:
                hint = "write ${NAME}, ${NAME:?what to do} or ${NAME:-default}; $${ stands for ${"
                self._report.at_spot("E051", spot, "a reference that cannot be read", key=dotted(loc), hint=hint)
                missing = True
                return match[0]
            name, mode, given = inside["name"], inside["mode"], inside["text"] or ""
            found = self._env.get(name)
            if found is None or (not found and mode):
                if mode == "-":
                    return given
                missing = True
                self._missing(spot, loc, f"the environment variable {name} is not set", given, always=mode == "?")
                return match[0]
            self._report.secrets.add(found)
            return found

        made = _REFERENCE.sub(replaced, text)
        return Unresolved(made) if missing else Referenced(made)

    def _missing(self, spot: Spot, loc: Sequence[str | int], problem: str, why: str, *, always: bool = False) -> None:
        code = "E050" if self._strict or always else "W050"
        self._report.at_spot(code, spot, problem, key=dotted(loc), hint=why)

    def secret_options(self, model: type[BaseModel], value: Value, loc: tuple[str | int, ...]) -> None:
        """Below an entry of this class: read `{file: path}` of each secret option, in place, and hide what is written plainly."""
        if not isinstance(value, Section) or not _has_secrets(model):
            return
        for name, field in model.model_fields.items():
            key = field.alias or name
            if key in value:
                self._option(field.annotation, value, key, (*loc, key))

    def _option(self, annotation: Any, section: Section, key: str, loc: tuple[str | int, ...]) -> None:
        item, spot = section[key], section.spots[key]
        types = set(_types(annotation))
        if SecretStr in types or SecretBytes in types:
            if isinstance(item, Section) and set(item) == {"file"} and isinstance(item["file"], str):
                section[key] = self._from_file(item["file"], item.spots["file"], loc)
            elif item is not None and not isinstance(item, (Referenced, Unresolved)):
                spot.hide()
                if isinstance(item, str):
                    self._report.secrets.add(item)
                elif not isinstance(item, (Section, Items)):
                    self._report.secrets.add(spot.written() or str(item))
        for model in (kind for kind in types if issubclass(kind, BaseModel)):
            self.secret_options(model, item, loc)
            several = item.items() if isinstance(item, Section) else enumerate(item) if isinstance(item, Items) else ()
            for name, below in several:  # a mapping of names to entries of this class, or a list of them
                self.secret_options(model, below, (*loc, name))

    def _from_file(self, name: str, spot: Spot, loc: Sequence[str | int]) -> str:
        try:
            text = (self._directory / name).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
            self._missing(spot, loc, f"the secret cannot be read from {name}: {reason}", "")
            return Unresolved("")
        self._report.secrets.add(text)
        return Referenced(text)


@lru_cache(maxsize=512)
def _has_secrets(model: type[BaseModel]) -> bool:
    return _holds_secret(model, frozenset())


def _holds_secret(model: type[BaseModel], above: frozenset[type]) -> bool:
    for field in model.model_fields.values():
        for kind in _types(field.annotation):
            if kind in (SecretStr, SecretBytes):
                return True
            if issubclass(kind, BaseModel) and kind not in above and _holds_secret(kind, above | {model}):
                return True
    return False


def _types(annotation: Any) -> list[type]:
    """Every class that an annotation names: `Mapping[str, Annotated[X, …]] | None` -> Mapping, str, X, NoneType."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _types(part)]
