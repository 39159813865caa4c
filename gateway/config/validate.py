"""Plain data to configuration values, with every mistake told in a person's words at the place where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.suggest import did_you_mean, listed, nearest

from .diagnose import dotted
from .places import Found, Items, Loc, Section, Unresolved, find
from .report import Report
from .source import sounds_secret

M = TypeVar("M", bound=BaseModel)
Elsewhere = Mapping[str, type[BaseModel]]
"""Configuration classes in use by what they are: `a sink of kind mqtt` -> its class. Their keys are suggested across sections."""

_COMMON_SECRETS: Final = ("password", "passphrase", "secret", "token")
_WANTED: Final = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "sequence_type": "a list",
    "sequence_str": "a list",
    "path_type": "a path",
    "none_required": "nothing (null)",
}
_BOUNDS: Final = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must not be shorter than {min_length}",
    "string_too_long": "must not be longer than {max_length}",
    "too_short": "needs at least {min_length}, there are {actual_length}",
    "too_long": "takes at most {max_length}, there are {actual_length}",
    "finite_number": "must be a finite number",
}


class Validator:
    """Validates parts of one file against their classes. Places come from `root`, which holds the merged data."""

    def __init__(self, root: Section, report: Report) -> None:
        self._root, self._report = root, report
        self.elsewhere: dict[str, type[BaseModel]] = {}

    def validated(self, model: type[M], data: Mapping[str, object], loc: Loc) -> M | None:
        """The value, or None when it is wrong, which the report then says; a value that nobody can judge here is also None."""
        for again in (True, False):
            try:
                return model.model_validate(data)
            except ValidationError as error:
                details = error.errors(include_url=False, include_input=False)
                if again and self._as_written(details, data, loc):
                    continue
                self._explain(details, model, loc)
            except Exception as error:  # noqa: BLE001 (a plug-in's class may fail in any way; the other entries are still judged)
                self._report.at("E061", self._root, loc, f"{type(error).__name__} while reading this entry: {error}", on="key")
            return None
        return None

    def _as_written(self, details: Sequence[ErrorDetails], data: Mapping[str, object], loc: Loc) -> bool:
        """Where text is wanted and a bare number stands (`unit: 1`, `label: 007`), take the text as it was written."""
        changed = False
        for detail in details:
            found = find(self._root, (*loc, *detail["loc"]))
            if detail["type"] != "string_type" or found.spot is None or not isinstance(found.value, (int, float)):
                continue
            written = found.spot.written()
            owner = find(self._root, found.loc[:-1]).value
            key = found.loc[-1]
            if written is not None and isinstance(owner, (Section, Items)):
                owner.replace(key, written)
                if owner is self._root and isinstance(data, dict):
                    data[key] = written  # the top of the file is validated from a copy
                self._report.withdraw("W001", found.spot)
                changed = True
        return changed

    def _explain(self, details: Sequence[ErrorDetails], model: type[BaseModel], loc: Loc) -> None:
        together: dict[Loc, list[ErrorDetails]] = {}
        for detail in details:
            found = find(self._root, (*loc, *detail["loc"]))
            if isinstance(found.value, Unresolved):
                continue
            last = detail["loc"][-1] if detail["loc"] else ""
            at = (*found.loc, last) if detail["type"] == "missing" else found.loc
            together.setdefault(at, []).append(detail)
        unknown = [at for at, several in together.items() if several[0]["type"] == "extra_forbidden"]
        meant = {(*at[:-1], nearest(str(at[-1]), self._known(at, model, loc))) for at in unknown}
        for at, several in together.items():
            if several[0]["type"] != "missing" or at not in meant:  # the unknown key beside it says it all
                self._say(at, several, model, loc)

    def _say(self, at: Loc, several: Sequence[ErrorDetails], model: type[BaseModel], loc: Loc) -> None:
        """One message for one place, however many members of a union were tried there."""
        detail = several[0]
        kind, context = detail["type"], detail.get("ctx", {})
        report, root = self._report, self._root
        if kind == "missing":
            report.at(
                "E010", root, at[:-1], f"the key {at[-1]!r} is missing", on="key", hint=self._meaning(model, at[len(loc) :])
            )
        elif kind == "extra_forbidden":
            self._unknown_key(at, model, loc)
        elif kind in ("literal_error", "enum"):
            allowed = _allowed(str(context.get("expected", "")))
            found = find(root, at)
            hint = did_you_mean(found.value, allowed) if isinstance(found.value, str) else ""
            report.at(
                "E014", root, at, f"must be one of {listed(allowed)}" if len(allowed) > 1 else f"must be {allowed[0]}", hint=hint
            )
        elif kind in _WANTED:
            wanted = " or ".join(dict.fromkeys(_WANTED[one["type"]] for one in several if one["type"] in _WANTED))
            if detail["loc"][-1:] == ("[key]",):
                report.at("E011", root, at, f"this key must be {wanted}", on="key")
            else:
                self._wrong_type(find(root, at), at, wanted)
        elif kind == "is_instance_of" and context.get("class") == "Sequence":
            self._wrong_type(find(root, at), at, "a list")
        elif kind in _BOUNDS:
            report.at("E015", root, at, _BOUNDS[kind].format(**{name: _plain(value) for name, value in context.items()}))
        elif kind in ("genba_duration", "genba_size", "genba_rate"):
            report.at("E016", root, at, detail["msg"])
        elif kind == "genba_name":
            report.at("E017", root, at, detail["msg"], on="key" if detail["loc"][-1:] == ("[key]",) else "value")
        elif kind == "genba_choice":
            report.at("E014", root, at, detail["msg"], hint=str(context.get("hint", "")))
        else:
            text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            on: Literal["key", "value"] = "key" if not isinstance(find(root, at).value, (str, int, float)) else "value"
            report.at("E018", root, at, text, on=on, hint=str(context.get("hint", "")))

    def _wrong_type(self, found: Found, at: Loc, wanted: str) -> None:
        hint = ""
        if found.value is None:
            self._report.at("E011", self._root, at, f"has no value; must be {wanted}", on="key")
            return
        if (
            wanted in ("a number", "a whole number")
            and isinstance(found.value, str)
            and found.value.replace(",", "", 1).lstrip("-").isdigit()
        ):
            hint = "write a decimal point, not a comma"
        elif wanted == "a list" and isinstance(found.value, str):
            hint = "put it in square brackets: [...]"
        self._report.at("E011", self._root, at, f"must be {wanted}", hint=hint)

    def _unknown_key(self, at: Loc, model: type[BaseModel], loc: Loc) -> None:
        key = str(at[-1])
        found = find(self._root, at)
        here = model_at(model, loc, at[:-1])
        known = self._known(at, model, loc)
        if found.spot is not None and sounds_secret(f"{key} {nearest(key, [*known, *_COMMON_SECRETS])}"):
            found.spot.hide()
            if not key.replace("-", "_").isidentifier():  # the blank behind `password:` is missing: the secret is in the key
                line, column, length = found.spot.key()
                found.spot.source.hide((line, column), (line, column + length))
                hint = "write a blank behind the colon of a key"
                self._report.at_spot("E012", found.spot, "unknown key", on="key", key=dotted((*at[:-1], "***")), hint=hint)
                return
        hint = (
            self._below(key, model, here)
            or did_you_mean(key, known)
            or self._belongs(key, model, here)
            or f"known keys are {listed(known, 30)}"
        )
        self._report.at("E012", self._root, at, "unknown key", on="key", hint=hint)

    def _known(self, at: Loc, model: type[BaseModel], loc: Loc) -> list[str]:
        """The keys that may stand beside `at`."""
        here = model_at(model, loc, at[:-1])
        return keys_of(here) if here is not None else []

    def _below(self, key: str, model: type[BaseModel], here: type[BaseModel] | None) -> str:
        """The place below or above at which exactly this key would be right; better than one that is only like it."""
        for path, below in _nested(model, ()):
            if below is not here and key in keys_of(below):
                place = f"below `{'.'.join(path)}`" if path else "one level up"
                return f"`{key}` belongs {place}"
        return ""

    def _belongs(self, key: str, model: type[BaseModel], here: type[BaseModel] | None) -> str:
        """Where a key of this name would be right."""
        for what, other in self.elsewhere.items():
            if other is not model and key in keys_of(other):
                return f"`{key}` belongs to {what}"
        deeper = {".".join((*path, name)): name for path, below in _nested(model, ()) if path for name in keys_of(below)}
        found = nearest(key, deeper.values())
        return next((f"did you mean {place!r}?" for place, name in deeper.items() if name == found), "")

    def _meaning(self, model: type[BaseModel], loc: Loc) -> str:
        """What a missing key is for: the description of its field."""
        here = model_at(model, (), loc[:-1])
        if here is None:
            return ""
        for name, field in here.model_fields.items():
            if (field.alias or name) == loc[-1]:
                return field.description or ""
        return ""


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a mapping of this class may have."""
    return [field.alias or name for name, field in model.model_fields.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configuration classes that an annotation names: `Mapping[str, Annotated[X, …]] | None` -> X."""
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from models_in(part)


def model_at(model: type[BaseModel], base: Loc, at: Loc) -> type[BaseModel] | None:
    """The class of the mapping at path `at`, where `model` is the class at `base`."""
    here: type[BaseModel] | None = model
    for part in at[len(base) :]:
        field = next((f for name, f in here.model_fields.items() if (f.alias or name) == part), None) if here else None
        if field is not None:
            here = next(models_in(field.annotation), None)
        # else: a name in a mapping of entries, or an index: the class stays that of the entries
    return here


def _nested(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    yield path, model
    if len(path) < 4:
        for name, field in model.model_fields.items():
            for below in models_in(field.annotation):
                if below is not model:
                    yield from _nested(below, (*path, field.alias or name))


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _allowed(expected: str) -> list[str]:
    """The words of pydantic's "'a', 'b' or 'c'"."""
    words = expected.replace(" or ", ", ").split(", ")
    return [word.strip().strip("'") for word in words]
