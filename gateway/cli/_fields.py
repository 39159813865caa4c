"""Command line options from the fields of a model: name, description, default and repetition come from the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

import click
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def parameters(model: type[BaseModel], *, argument: str) -> list[click.Parameter]:
    """The field `argument` as an argument, every other one as an option. A bool is a flag, a list may be repeated."""
    made: list[click.Parameter] = [click.Argument([argument])]
    for name, field in model.model_fields.items():
        if name == argument:
            continue
        repeated, flag = get_origin(field.annotation) in (list, tuple), field.annotation is bool
        default = field.get_default(call_default_factory=True)
        notes = "; may be repeated" if repeated else f"; {default} by default" if default and not flag else ""
        text = f"{(field.description or '').rstrip('.')}{notes}.".replace("`", "")
        spelling = f"--{name.replace('_', '-')}"
        if flag:
            made.append(click.Option([spelling, name], is_flag=True, default=default, help=text))
        else:
            made.append(click.Option([spelling, name], multiple=repeated, help=text, metavar=name.rpartition("_")[2].upper()))
    return made


def read(model: type[M], given: Mapping[str, Any], *, argument: str) -> M:
    """The model from what was given on the command line. Raises click.UsageError that names the option."""
    try:
        return model.model_validate({name: value for name, value in given.items() if value not in (None, ())})
    except ValidationError as error:
        raise _usage(error, argument) from None


def over(options: M, given: Mapping[str, Any]) -> M:
    """`options` with what was given on the command line instead. Raises click.UsageError that names the option."""
    try:
        checked = type(options).model_validate({**{name: getattr(options, name) for name in type(options).model_fields}, **given})
    except ValidationError as error:
        raise _usage(error, "") from None
    return options.model_copy(update={name: getattr(checked, name) for name in given})


def _usage(error: ValidationError, argument: str) -> click.UsageError:
    found = error.errors()[0]
    name = str(found["loc"][0]) if found["loc"] else ""
    option = argument.upper() if name == argument else f"--{name.replace('_', '-')}" if name else ""
    return click.UsageError(f"{option}: {message(found)}" if option else message(found))


def message(found: Mapping[str, Any]) -> str:
    """What pydantic found, as a sentence without its prefix."""
    return str(found["msg"]).removeprefix("Value error, ")
