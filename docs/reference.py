"""Writes docs/reference/: every option of every adapter, model and sink, from the configuration classes themselves.

`make docs` runs it; with --check it changes nothing and fails when a page is stale.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from schemas.values import Duration, Rate, Size

FOLDER = Path(__file__).resolve().parent / "reference"
PAGES = {
    "adapters": ("Adapters", "adapters", "One entry below `adapters:` is one connection."),
    "models": ("Models", "edge_models", "One entry below `models:` watches every tag that it names, each with its own state."),
    "sinks": ("Sinks", "cloud_sinks", "One entry below `sinks:` is one destination."),
}
Schema = Mapping[str, Any]


def _pattern_of(kind: type) -> str:
    schema = TypeAdapter[Any](kind).json_schema()
    found: str = schema.get("anyOf", [schema])[0]["pattern"]
    return found


VALUES = {_pattern_of(kind): name for kind, name in ((Duration, "duration"), (Size, "size"), (Rate, "rate"))}


def plugins(package: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(kind, configuration class) of every plug-in in a package, in order of name."""
    folder = importlib.import_module(package)
    for found in sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{package}.{found.name}")
        if hasattr(module, "PLUGIN"):
            yield found.name, module.PLUGIN.config


def page(name: str) -> str:
    """One page of the reference, as Markdown."""
    title, package, lead = PAGES[name]
    out = [f"# {title}: all options", "", lead, "Written by `make docs` from the code; edit the descriptions there.", ""]
    parts: dict[str, Schema] = {}
    for kind, config in plugins(package):
        schema = config.model_json_schema()
        parts |= schema.get("$defs", {})
        out += [f"## {kind}", "", *_section(schema)]
    for part in sorted(parts):
        if "properties" in parts[part]:
            out += [f"## {part}", "", *_section(parts[part])]
    return "\n".join(out).rstrip() + "\n"


def _section(schema: Schema) -> list[str]:
    out = [_cell(schema.get("description", "")), "", "| option | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in schema.get("required", ()) else _default(field.get("default"))
        examples = ", ".join(f"`{example}`" for example in field.get("examples", ()))
        meaning = field.get("description", "") + (f" For example {examples}." if examples else "")
        out.append(f"| `{name}` | {_cell(_type(field))} | {default} | {_cell(meaning)} |")
    return [*out, ""]


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "pattern" in field:
        return VALUES.get(field["pattern"], "text")
    for several in ("anyOf", "oneOf", "allOf"):
        if several in field:
            types = [_type(one) for one in field[several] if one.get("type") != "null" and one.get("enum") != [0, "0"]]
            return " or ".join(dict.fromkeys(types))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object":
        return (
            f"name: {_type(field['additionalProperties'])}" if isinstance(field.get("additionalProperties"), dict) else "mapping"
        )
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    return names.get(field.get("type", ""), "any")


def _default(value: object) -> str:
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        inside = ", ".join(f"{key}: {one}" for key, one in value.items() if one is not None)
        return f"`{{{inside}}}`"
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Writes the pages; with --check names the stale ones and returns 1."""
    stale = []
    for name in PAGES:
        file, text = FOLDER / f"{name}.md", page(name)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                FOLDER.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"docs/reference is stale ({', '.join(stale)}); run make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
