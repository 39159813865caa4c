"""A small JSON Schema checker: the keywords that our published schemas use, and a refusal of any other."""

from __future__ import annotations

from datetime import datetime
from typing import Any

_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
    "null": type(None),
    "boolean": bool,
}
_NOTES = {"title", "description", "default", "$schema", "$defs", "examples"}


def problems(value: Any, schema: Any, root: Any = None, at: str = "$") -> list[str]:
    """What is wrong with `value`, empty when nothing is."""
    root = schema if root is None else root
    if schema is True:
        return []
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return problems(value, target, root, at)
    found: list[str] = []
    for keyword, said in schema.items():
        match keyword:
            case "type":
                right = isinstance(value, _TYPES[said]) and not (isinstance(value, bool) and said in ("integer", "number"))
                found += [] if right else [f"{at}: {value!r} is no {said}"]
            case "const":
                found += [] if value == said else [f"{at}: {value!r} is not {said!r}"]
            case "enum":
                found += [] if value in said else [f"{at}: {value!r} is none of {said}"]
            case "format":
                assert said == "date-time"
                found += [] if datetime.fromisoformat(value).tzinfo is not None else [f"{at}: no offset"]
            case "required":
                found += [f"{at}: {name} is missing" for name in said if name not in value]
            case "properties":
                for name, inner in said.items():
                    if name in value:
                        found += problems(value[name], inner, root, f"{at}.{name}")
            case "additionalProperties":
                for name in value.keys() - schema.get("properties", {}).keys():
                    found += problems(value[name], said, root, f"{at}.{name}")
            case "items":
                for i, item in enumerate(value):
                    found += problems(item, said, root, f"{at}[{i}]")
            case "prefixItems":
                for i, (item, inner) in enumerate(zip(value, said, strict=False)):
                    found += problems(item, inner, root, f"{at}[{i}]")
            case "minItems" | "maxItems":
                found += (
                    [] if (len(value) >= said if keyword == "minItems" else len(value) <= said) else [f"{at}: {len(value)} items"]
                )
            case "anyOf":
                found += [] if any(not problems(value, one, root, at) for one in said) else [f"{at}: {value!r} fits nothing"]
            case _:
                assert keyword in _NOTES, f"{keyword} is not known here"
    return found
