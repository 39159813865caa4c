"""JSON Schema (draft 2020-12) of the YAML file, for completion and hints in editors. `genba check` stays the judge.

Entries are told apart by `kind`: an editor then offers only the options of that kind. What may come from a template or from
the connection is not required here; references `${NAME}` are allowed wherever a number or a word is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from gateway.catalogue import GROUPS, SINGULAR, Catalogue, Group, installed
from schemas.errors import ConfigError

from .plant import PlantConfig
from .validate import models_in

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
_Schema: TypeAlias = dict[str, Any]

FILE_NAME: Final = "genba.schema.json"
MODELINE: Final = f"# yaml-language-server: $schema=./{FILE_NAME}"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Final = ("string", "integer", "number", "boolean", "null")
_REFERENCE: Final = {"$ref": "#/$defs/Reference"}


def json_schema(catalogue: Catalogue | None = None) -> tuple[dict[str, Json], list[str]]:
    """The schema with every kind that is installed, and what was left out because its plug-in cannot be loaded."""
    catalogue = catalogue or installed()
    configs: dict[Group, dict[str, type[BaseModel]]] = {group: {} for group in GROUPS}
    left_out: list[str] = []
    for group in GROUPS:
        for kind in catalogue.names(group):
            try:
                config = catalogue.plugin(group, kind).config
                config.model_json_schema()
                configs[group][kind] = config
            except ConfigError as error:
                left_out.append(str(error))
            except Exception as error:  # noqa: BLE001 (a plug-in's class may have no schema; the others are still offered)
                left_out.append(f"the {SINGULAR[group]} {kind!r} has no schema: {type(error).__name__}: {error}")
    parts = {part: None for config in configs["adapters"].values() for part in _parts(config)}
    models: list[type[BaseModel]] = [PlantConfig, *(config for group in GROUPS for config in configs[group].values()), *parts]
    refs, whole = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    definitions: dict[str, _Schema] = copy.deepcopy(whole.get("$defs", {}))
    names = {model: refs[model, "validation"]["$ref"].rsplit("/", 1)[-1] for model in models}
    for group in GROUPS:
        for kind, config in configs[group].items():
            definitions[names[config]]["properties"]["kind"] = {"const": kind}
    for model in [*configs["adapters"].values(), *parts]:
        _loosen(definitions[names[model]])
    for definition in definitions.values():
        _allow_references(definition)
        definition.pop("title", None)
    definitions["Reference"] = {"type": "string", "pattern": r"\$\{", "description": "From the environment: `${NAME}`."}
    root: _Schema = definitions.pop(names[PlantConfig])
    for group in GROUPS:
        entry = _entry({kind: names[config] for kind, config in configs[group].items()})
        root["properties"][group] = _named(root["properties"][group], {**entry, "required": ["kind"]})
        if group == "adapters":
            connection = {key: value for key, value in entry.items() if key != "required"}
            root["properties"][group]["additionalProperties"]["anyOf"] = [{"required": ["kind"]}, {"required": ["template"]}]
            del root["properties"][group]["additionalProperties"]["required"]
            root["properties"]["templates"] = _named(root["properties"]["templates"], connection)
    for name in ("adapters", "models", "sinks", "templates", "routes"):
        _or_empty(root["properties"], name)
    root["patternProperties"] = {"^x-": {"description": "Anything, for instance anchors to be used elsewhere."}}
    used = {
        name: definition for name, definition in definitions.items() if name not in ("AdapterConfig", "ModelConfig", "SinkConfig")
    }
    return {"$schema": _DIALECT, "title": "genba: a plant", **root, "$defs": used}, left_out


class _Generator(GenerateJsonSchema):
    """Leaves out generated titles: an editor would show them instead of the description."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _entry(kinds: Mapping[str, str]) -> _Schema:
    """An entry that `kind` tells apart."""
    return {
        "type": "object",
        "properties": {"kind": {"enum": sorted(kinds), "description": "Which one; its options follow from it."}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": {"$ref": f"#/$defs/{name}"}}
            for kind, name in sorted(kinds.items())
        ],
    }


def _named(old: _Schema, entry: _Schema) -> _Schema:
    return {"type": "object", "description": old.get("description", ""), "additionalProperties": entry}


def _or_empty(properties: dict[str, _Schema], name: str) -> None:
    """A section may be written and left empty."""
    section = properties[name]
    if "type" in section:
        section["type"] = [section["type"], "null"]


def _loosen(definition: _Schema) -> None:
    """A part of an adapter: nothing is required where templates, tag files and defaults come in, and `tags` may name files."""
    definition.pop("required", None)
    tags = definition["properties"].get("tags")
    if tags is not None and "additionalProperties" in tags:
        files = "CSV or YAML files of tags, relative to this file."
        tags["properties"] = {"file": {"type": ["string", "array"], "items": {"type": "string"}, "description": files}}


def _parts(config: type[BaseModel]) -> list[type[BaseModel]]:
    """The classes of devices and tags of an adapter."""
    found: list[type[BaseModel]] = []
    todo = [config]
    while todo:
        model = todo.pop()
        for name in ("devices", "tags"):
            field = model.model_fields.get(name)
            for below in models_in(field.annotation) if field is not None else ():
                if below not in found:
                    found.append(below)
                    todo.append(below)
    return found


def _is_text(schema: _Schema) -> bool:
    """Any text."""
    return schema.get("type") == "string" and not {"pattern", "enum", "const", "format"} & schema.keys()


def _is_scalar(schema: _Schema) -> bool:
    """One value: a number, a word, a choice, a path; nothing that has parts."""
    if "anyOf" in schema:
        return all(_is_scalar(one) for one in schema["anyOf"])
    return schema.get("type") in _SCALARS or "enum" in schema or "const" in schema


def _allow_references(schema: Any) -> None:
    """Numbers, booleans, choices and secrets may be given as references, secrets also as `{file: …}`."""
    if isinstance(schema, list):
        for item in schema:
            _allow_references(item)
        return
    if not isinstance(schema, dict):
        return
    for key, below in schema.get("properties", {}).items():
        if key == "kind" and "const" in below:
            continue
        _allow_references(below)
        if below.get("format") == "password" or any(one.get("format") == "password" for one in below.get("anyOf", ())):
            file = {
                "type": "object",
                "properties": {"file": {"type": "string"}},
                "required": ["file"],
                "additionalProperties": False,
            }
            others = {k: below.pop(k) for k in list(below) if k not in ("description", "default", "examples")}
            below["anyOf"] = [*others.get("anyOf", [others]), file]
        elif _is_text(below):
            below["type"] = ["string", "number"]  # `unit: 1`: a number is taken as it is written
        elif any(map(_is_text, below.get("anyOf", ()))):
            below["anyOf"] = [*below["anyOf"], {"type": "number"}]
        elif _is_scalar(below):
            choice = {k: below.pop(k) for k in list(below) if k not in ("description", "default", "examples")}
            below["anyOf"] = [choice, _REFERENCE]
    for key in ("additionalProperties", "items", "anyOf", "allOf", "oneOf"):
        if key in schema and not isinstance(schema[key], bool):
            _allow_references(schema[key])
