"""Writes docs/configuration.md and docs/errors.md from the configuration classes and the table of codes.

`python -m gateway.config.reference` writes them; with `--check` it changes nothing and fails when one is stale.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from adapters.base import AdapterConfig, DeviceConfig, LimitsConfig, TagConfig
from cloud_sinks.base import SinkConfig
from edge_models.base import AlarmConfig, ModelConfig, SiteAlarms, TagAlarm
from gateway.destinations import DEFAULTS
from schemas.values import Duration, Rate, Size

from .codes import CODES
from .plant import PlantConfig, RouteRule, SpoolConfig, StatusConfig

_WORDS: Final[Mapping[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    Duration: "duration",
    Size: "size",
    Rate: "rate",
    SecretStr: "secret",
    type(None): "",
    Any: "options",
    SinkConfig: "[sink](reference/sinks.md)",
}

_INTRODUCTION: Final = """\
# Write a configuration

One YAML file says what a gateway does. `genba init` writes one to start from, with a line that makes editors complete it;
`genba check plant.yaml` finds every mistake with file, line and column and opens no connection. Every message has a code, and
`genba explain CODE` or [the list of codes](errors.md) says what it means.

This page is written from the code by `python -m gateway.config.reference`. The options of each protocol, model and service are
in [adapters](reference/adapters.md), [models](reference/models.md) and [sinks](reference/sinks.md).

```yaml
enterprise: acme
site: osaka
gateway: stamping-gw-1
adapters:
  press-07:
    kind: modbus
    endpoint: tcp://10.0.0.7:502
    asset: stamping/line-2/press-07
    tags:
      motor_temp: {address: "hr:100", type: float32, unit: °C, limits: {high: 90, high_high: 110}}
sinks:
  lake: {kind: parquet, location: ./lake}
```

## Rules that hold everywhere

- YAML is version 1.2: `off`, `no` and `1:30` are text. A key that is written twice is an error.
- Paths are relative to the YAML file.
- Durations, sizes and rates carry their unit: `500ms`, `2s`, `15m`, `24h`, `7d`; `20 GB` (10⁹), `16 MiB` (2²⁰); `4/day`.
- A key that begins with `x-` at the top of the file is passed over; put anchors there that you use with `*name`.
- `${NAME}` in a value is the environment variable of that name. `${NAME:?what to do}` says what to do when it is missing,
  `${NAME:-text}` what to take instead, `$${` is a plain `${`. References are resolved after the file is read, so that a value
  cannot break its structure. A variable that is missing stops the gateway; `genba check` warns, with `--strict-env` it fails.
- A secret (a password, for instance) may also be `{file: secrets/name}`: the text of that file without the line end. Secrets
  never appear in messages.

## Paths and patterns

A tag is `enterprise/site/asset/name`, for instance `acme/osaka/stamping/line-2/press-07/motor_temp`; the asset may have any
number of parts. This path is its identity: its topic, its name in the lake, its alarms. Two tags with the same path, also
when only letter case differs, are an error.

Patterns match whole paths, with or without enterprise and site: `*` is any text within one part, `?` one character, `**` any
number of parts. `stamping/**/motor_temp` is every motor temperature below `stamping`. A pattern that fits no tag is a warning;
`genba check plant.yaml --tags` lists all paths.

## Connections, devices, templates

An entry below `adapters:` is one connection. Usually there is one device on it, and its options (`asset`, `scan`, `tags`) stand
at the connection. Where several devices share a connection (a serial line, a PLC that runs two machines) they are listed below
`devices:`, and what is written at the connection is the default for each of them.

`template: NAME` takes over the options of an entry of `templates:`. A device's own options win over its template's, and these
over the connection's. Tags are merged by name and option by option, so a device can change one limit of one tag; any other
option is replaced whole.

```yaml
templates:
  acs580: {kind: modbus, order: CDAB, scan: 1s, tags: {file: tags/acs580.csv}}
adapters:
  drives-bus:
    kind: modbus
    endpoint: rtu:/dev/ttyUSB0
    devices:
      fan-1: {asset: forge/fans/fan-1, unit_id: 1, template: acs580}
      fan-2: {asset: forge/fans/fan-2, unit_id: 2, template: acs580, tags: {motor_temp: {limits: {high: 95}}}}
```

## Conditions

`active_when` compares tags of the same asset: `mode == run`, `speed > 100 and (mode == run or mode == 2)`. Comparisons are `==`,
`!=`, `<`, `<=`, `>` and `>=`, joined by `and`, `or` and parentheses; text that holds blanks stands in quotes. A tag with an
`enum` is compared by the names of its values.

## Tag files

`tags: {file: tags/acs580.csv}` takes tags from a file, `file: [a.csv, b.yaml]` from several; tags written beside `file` win.

- YAML: the mapping that would stand below `tags:`.
- CSV: the first row names the columns, which are the options of a tag, one row is one tag. `name` (or `tag`) names it, `asset`
  may put it on another machine. Limits are columns `low_low`, `low`, `high`, `high_high`, `hysteresis`; names of values are
  written `0=idle;1=run`. An empty cell is an option that is not written. Comma, semicolon or tab, in UTF-8; a row that begins
  with `#` is a comment.

```csv
name,address,type,unit,high,high_high,enum
speed,hr:0,int16,rpm,,,
motor_temp,hr:4,int16,°C,90,110,
state,hr:8,uint16,,,,0=off;1=ready;2=run;3=fault
```
"""

_ROUTES: Final = """\
A rule sends rows of one kind of data to sinks. Rules are a union: a row goes to every sink that any rule names. A kind that any
rule names loses its default, and `to: []` sends it nowhere on purpose. Telemetry or alerts that no sink takes are an error."""

_PARTS: Final[Sequence[tuple[str, type[BaseModel], str]]] = (
    ("The file", PlantConfig, "What stands at the left edge."),
    (
        "Connection",
        AdapterConfig,
        "Every connection has these options; each protocol adds its own: [adapters](reference/adapters.md).",
    ),
    ("Device", DeviceConfig, "Every device has these options; with one device on a connection they stand at the connection."),
    ("Tag", TagConfig, "Every tag has these options; each protocol reads `address` and `type` its own way."),
    ("Limits", LimitsConfig, "They must rise: low_low < low < high < high_high, in the unit of the tag, after scale and offset."),
    ("Model", ModelConfig, "Every model has these options; each adds its own: [models](reference/models.md)."),
    ("Alarm", AlarmConfig, "When a score of a model becomes an alarm, and what the alarm says."),
    ("Alarm of a tag", TagAlarm, "Below `tags` of an alarm: what differs for the tags that fit a pattern."),
    ("Alarms of the gateway", SiteAlarms, "Below `alarms` at the left edge: all models together."),
    ("Route", RouteRule, _ROUTES),
    (
        "Spool",
        SpoolConfig,
        "The store on disk that every row goes through: it survives power cuts, restarts and days without network.",
    ),
    ("Status", StatusConfig, "The page and the metrics of the gateway."),
)


def configuration_page() -> str:
    """docs/configuration.md."""
    out = [_INTRODUCTION]
    for title, model, note in _PARTS:
        out += [f"## {title}\n", f"{note}\n", *([_default_routes()] if model is RouteRule else []), _table(model)]
    return "\n".join(out).rstrip() + "\n"


def errors_page() -> str:
    """docs/errors.md."""
    out = [
        "# Codes of errors and warnings",
        "",
        "What `genba check` and the other commands print; `genba explain CODE` shows the same on a machine without network. Codes that",
        "begin with E are errors: nothing runs until they are mended. Codes that begin with W are warnings. A code never changes its",
        "meaning. This page is written from the code by `python -m gateway.config.reference`.",
        "",
    ]
    for code in CODES.values():
        out += [
            f"## {code.code}",
            "",
            f"**{code.title[0].upper()}{code.title[1:]}.** {code.meaning}",
            "",
            f"What to do: {code.way_out}",
            "",
        ]
    return "\n".join(out).rstrip() + "\n"


def _default_routes() -> str:
    rows = "".join(f"| {kind} | {', '.join(f'`{one}`' for one in sinks) or 'nowhere'} |\n" for kind, sinks in DEFAULTS.items())
    return f"Without a rule, data goes to every sink of these kinds:\n\n| data | sinks of kind |\n|---|---|\n{rows}"


def _table(model: type[BaseModel]) -> str:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        rows.append(f"| `{name}` | {_cell(_type(field.annotation))} | {_default(field)} | {_cell(_meaning(field))} |")
    return "\n".join(rows) + "\n"


def _meaning(field: FieldInfo) -> str:
    examples = ", ".join(f"`{_yaml(example)}`" for example in field.examples or ())
    return (field.description or "") + (f" For example {examples}." if examples else "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is PydanticUndefined or default is None or default in ("", (), {}) or isinstance(default, BaseModel):
        return ""
    return f"`{_yaml(default)}`"


def _yaml(value: object) -> str:
    """A value as it would be written in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f'"{one}"' if "*" in str(one) else str(one) for one in value) + "]"
    return str(value)


def _type(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    if hasattr(annotation, "__metadata__"):
        return _type(get_args(annotation)[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(word for word in map(_type, arguments) if word))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if arguments[1] is Any:
            return "options"
        keys = "by name" if arguments[0] is str or hasattr(arguments[0], "__metadata__") else f"by {_type(arguments[0])}"
        return f"{keys}: {_type(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"list of {_type(arguments[0])}"
    bound = getattr(annotation, "__bound__", None)  # the tag class of a device
    if bound is not None:
        return _type(bound)
    return next(
        (f"[{title.lower()}](#{title.lower().replace(' ', '-')})" for title, model, _ in _PARTS if model is annotation), "options"
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def write(folder: Path, *, check: bool = False) -> list[str]:
    """Write both pages into `folder`; returns the names of those that were stale. With `check` nothing is written."""
    stale = []
    for name, text in (("configuration.md", configuration_page()), ("errors.md", errors_page())):
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                file.write_text(text, encoding="utf-8")
    return stale


def main(arguments: Sequence[str]) -> int:
    """Writes the pages; with `--check` names the stale ones and returns 1."""
    check = "--check" in arguments
    stale = write(Path(__file__).resolve().parents[2] / "docs", check=check)
    if stale and check:
        sys.stderr.write(f"stale in docs: {', '.join(stale)}; run python -m gateway.config.reference\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
