"""The JSON Schema accepts what `check` accepts and tells an editor what is wrong; docs are as the code says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.catalogue import Catalogue
from gateway.config import examine
from gateway.config.codes import CODES
from gateway.config.reference import configuration_page, errors_page, write
from gateway.config.schema import json_schema
from gateway.config.starter import starter
from tests.gateway.config.rig import HEAD, LAKE

ROOT = Path(__file__).parents[3]
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
KNOWN = {
    "$schema", "$ref", "$defs", "title", "description", "default", "examples", "format", "writeOnly", "type", "enum", "const", "pattern",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "items", "properties", "patternProperties",
    "additionalProperties", "propertyNames", "required", "anyOf", "oneOf", "allOf", "if", "then",
}  # fmt: skip


def problems(schema: Any, value: Any, root: Any, at: str = "") -> Iterator[str]:
    """What an editor would underline: the part of JSON Schema that ours uses, by the specification (2020-12)."""
    if schema is True:
        return
    if schema is False:
        yield f"{at}: not allowed"
        return
    if "$ref" in schema:
        yield from problems(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root, at)
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if types and not any(
        isinstance(value, TYPES[t]) and not (isinstance(value, bool) and t in ("integer", "number")) for t in types
    ):
        yield f"{at}: not {types}"
        return
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        yield f"{at}: not one of {schema.get('enum', schema.get('const'))}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: not like {schema['pattern']}"
    if isinstance(value, (int, float)) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: out of range"
    if isinstance(value, dict):
        yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, below in value.items():
            fitting = [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
            if name in schema.get("properties", {}):
                fitting.append(schema["properties"][name])
            for one in fitting or [schema.get("additionalProperties", True)]:
                yield from problems(one, below, root, f"{at}.{name}")
    if isinstance(value, list):
        for index, below in enumerate(value):
            yield from problems(schema.get("items", True), below, root, f"{at}[{index}]")
    for several in ("anyOf", "oneOf"):
        if several in schema and all(any(problems(one, value, root, at)) for one in schema[several]):
            yield f"{at}: fits none of {several}"
    for one in schema.get("allOf", ()):
        yield from problems(one, value, root, at)
    if "if" in schema and not any(problems(schema["if"], value, root, at)):
        yield from problems(schema.get("then", True), value, root, at)


def keywords(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, below in schema.items():
            yield key
            if key in ("properties", "$defs", "patternProperties"):
                for one in below.values():
                    yield from keywords(one)
            elif key not in ("default", "examples", "const", "enum"):
                yield from keywords(below)
    elif isinstance(schema, list):
        for one in schema:
            yield from keywords(one)


class Core(yaml.SafeLoader):
    """YAML with `off` and dates as text, mapping keys as text: as our own reader has it."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regex) for tag, regex in several if tag.rsplit(":", 1)[-1] in ("int", "float", "null")]
        for first, several in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def plain(text: str) -> Any:
    data = yaml.load(text, Core)
    return json.loads(json.dumps(data))


@pytest.fixture(scope="module")
def real() -> Any:
    schema, left_out = json_schema()
    assert left_out == []
    return schema


@pytest.fixture(scope="module")
def fake(catalogue: Catalogue) -> Any:
    return json_schema(catalogue)[0]


def test_the_schema_uses_only_what_the_test_understands(real: Any) -> None:
    assert set(keywords(real)) <= KNOWN
    assert real["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(real)) == real


@pytest.mark.parametrize("name", ["plant.yaml", "demo.yaml"])
def test_the_examples_fit(real: Any, name: str) -> None:
    assert list(problems(real, plain((ROOT / "examples" / name).read_text(encoding="utf-8")), real)) == []


def test_the_starter_fits(real: Any) -> None:
    assert list(problems(real, plain(starter()), real)) == []


PRESS = HEAD + "adapters:\n  press:\n    kind: plc\n    endpoint: tcp://a\n    tags: {a: {address: 1, type: bool}}\n" + LAKE


@pytest.mark.parametrize(
    "text",
    [
        PRESS,
        PRESS.replace("tags: {a: {address: 1, type: bool}}", "tags: {file: a.csv}"),
        PRESS.replace("tags: {a: {address: 1, type: bool}}", "tags: {file: [a.csv, b.csv], a: {scale: 2}}"),
        PRESS.replace("tags:", "unit_id: ${UNIT}\n    order: ${ORDER}\n    timeout: ${T}\n    tags:"),
        PRESS.replace("type: bool", "type: bool, unit: 1, label: 12, name: a, scan: '${SCAN}'"),
        PRESS.replace("tags:", "login: {username: a, password: {file: x}}\n    tags:"),
        PRESS.replace("tags:", "login: {username: a, password: '${X}'}\n    pin: {file: x}\n    tags:"),
        PRESS + "templates: {t: {kind: plc, order: CDAB}}\nmodels:\nroutes:\nx-mine: [1]\n",
        PRESS
        + "routes: [{data: telemetry, to: []}]\nspool: {max_size: 2 GB, when_full: {telemetry: downsample}}\nstatus: {listen: null}\n",
    ],
)
def test_what_is_right_fits(fake: Any, text: str) -> None:
    assert list(problems(fake, plain(text), fake)) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (PRESS.replace("adapters:", "adaptors:"), ".adaptors"),
        (PRESS.replace("kind: plc", "kind: plcc"), ".adapters.press.kind"),
        (PRESS.replace("kind: plc", "topic: x"), ".adapters.press"),
        (PRESS.replace("tags:", "topic: x\n    tags:"), ".adapters.press.topic"),
        (PRESS.replace("address: 1", "adress: 1"), ".adapters.press.tags.a.adress"),
        (PRESS.replace("type: bool", "type: boool"), ".adapters.press.tags.a.type"),
        (PRESS.replace("tags:", "unit_id: 300\n    tags:"), ".adapters.press.unit_id"),
        (PRESS.replace("tags:", "timeout: 2 sec\n    tags:"), ".adapters.press.timeout"),
        (PRESS.replace("location: ./lake", "topic: x"), ".sinks.lake"),
        (PRESS.replace("site: osaka\n", ""), ""),
        (PRESS + "routes: [{data: telemetri, to: []}]\n", ".routes"),
    ],
)
def test_what_is_wrong_is_underlined(fake: Any, text: str, place: str) -> None:
    assert any(problem.startswith(f"{place}: ") for problem in problems(fake, plain(text), fake))


def test_a_plug_in_that_cannot_be_loaded_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_sinks").mkdir()
    (tmp_path / "broken_sinks" / "__init__.py").write_text("")
    (tmp_path / "broken_sinks" / "odd.py").write_text("PLUGIN = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    schema, left_out = json_schema(Catalogue(packages={"adapters": "adapters", "models": "edge_models", "sinks": "broken_sinks"}))
    assert left_out == ["the sink 'odd' cannot be loaded: ZeroDivisionError: division by zero (reinstall genba)"]
    assert schema["properties"]["sinks"]["additionalProperties"]["properties"]["kind"]["enum"] == []  # type: ignore[index,call-overload]


@pytest.mark.parametrize("name", ["plant.yaml", "demo.yaml"])
def test_check_accepts_the_examples(name: str) -> None:
    configuration, diagnostics = examine(ROOT / "examples" / name, env={"KEPSERVER_PASSWORD": "x"})
    assert [diagnostic.render() for diagnostic in diagnostics] == []
    assert configuration is not None
    assert len({tag.adapter for tag in configuration.tags}) == len(configuration.plant.adapters)


def test_the_docs_are_as_the_code_says(tmp_path: Path) -> None:
    assert write(ROOT / "docs", check=True) == [], "run python -m gateway.config.reference"
    assert write(tmp_path) == ["configuration.md", "errors.md"]
    assert (tmp_path / "configuration.md").read_text(encoding="utf-8") == configuration_page()


def test_every_code_is_documented_once() -> None:
    assert re.findall(r"^## (\w+)$", errors_page(), re.MULTILINE) == list(CODES)


@pytest.mark.parametrize("language", ["yaml", "csv"])
def test_the_examples_in_the_docs_are_right(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(rf"^```{language}\n(.*?)^```", configuration_page(), re.DOTALL | re.MULTILINE)
    table = re.findall(r"^```csv\n(.*?)^```", configuration_page(), re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "acs580.csv").write_text(table, encoding="utf-8")
    assert blocks
    for block in blocks:
        text = (
            block
            if language == "yaml"
            else HEAD + "adapters: {a: {kind: modbus, endpoint: tcp://a, tags: {file: tags/acs580.csv}}}\n"
        )
        text = text if text.startswith("enterprise") else HEAD + text
        (tmp_path / "plant.yaml").write_text(text, encoding="utf-8")
        _, diagnostics = examine(Path("plant.yaml"), env={})
        assert [d.render() for d in diagnostics if d.code != "W042" and "not supported yet" not in d.message] == []
