"""`genba check`: what it says and how it ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.config import load
from gateway.pipeline import build_models
from tests.edge_models.graphs import mean_graph
from tests.edge_models.test_remaining_life import CONFORMAL

Genba = Callable[..., Any]
PLANT = """\
enterprise: acme
site: osaka
gateway: gw-1
time_zone: Asia/Tokyo
adapters:
  press-07:
    kind: modbus
    endpoint: tcp://10.0.0.7:502
    scan: 500ms
    tags:
      motor_temp: {address: "hr:100", type: float32, unit: °C, limits: {high: 90}}
      mode: {address: "hr:40", type: uint16, enum: {0: idle, 1: run}}
  drives:
    kind: modbus
    endpoint: tcp://10.0.0.8:502
    devices:
      a: {tags: {speed: {address: "hr:1", type: uint16}}}
      b: {tags: {speed: {address: "hr:1", type: uint16}}, unit_id: 2}
models:
  wear: {kind: stuck, tags: ["press-07/*"]}
sinks:
  lake: {kind: parquet, location: ./lake}
routes:
  - {data: event, to: []}
"""
OVERVIEW = """\
plant.yaml is fine
  plant     acme/osaka, gateway gw-1, Asia/Tokyo
  adapters  press-07 (modbus, 2 tags), drives (modbus, 2 devices, 2 tags)
  models    wear (stuck, 2 tags), limits of 1 tag
  sinks     lake (parquet)
  routes    telemetry → lake; event → nowhere; score → nowhere; alert → lake; health → lake; image → lake; gap → lake
  spool     20 GB hold at least 267 days of readings while no sink can be reached; then the oldest telemetry goes
"""
TAGS = """\
  acme/osaka/press-07/motor_temp  press-07  hr:100  number  °C  500ms
  acme/osaka/press-07/mode        press-07  hr:40   number  1   500ms
  acme/osaka/a/speed              drives    hr:1    number  1   1s
  acme/osaka/b/speed              drives    hr:1    number  1   1s
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PW", raising=False)


def written(text: str) -> Path:
    Path("plant.yaml").write_text(text, encoding="utf-8")
    return Path("plant.yaml")


def test_a_fine_file_is_summed_up(genba: Genba) -> None:
    done = genba("check", written(PLANT))
    assert (done.status, done.out, done.err) == (0, OVERVIEW, "")
    assert genba("check", "plant.yaml", "--tags").out == OVERVIEW + TAGS


EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("name", ["condition.yaml", "energy.yaml"])
def test_an_example_has_nothing_to_complain_about_and_its_models_can_be_built(genba: Genba, name: str) -> None:
    done = genba("check", EXAMPLES / name)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{EXAMPLES / name} is fine\n")
    configuration = load(EXAMPLES / name)
    tags = [replace(tag, id=number) for number, tag in enumerate(configuration.tags)]
    assert set(build_models(configuration, tags, structlog.get_logger()).names) == set(configuration.plant.models)


FLEET = """\
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  plc:
    kind: modbus
    endpoint: tcp://10.0.0.7:502
    devices:
      stamping/line-1/press-1:
        tags: {force: {address: "hr:1", type: float32}, motor_current: {address: "hr:3", type: float32}, oil_temp: {address: "hr:5", type: float32}}
      pumps/p-1:
        unit_id: 2
        tags: {flow: {address: "hr:1", type: float32}, vibration: {address: "hr:3", type: float32}, cycles: {address: "hr:5", type: uint32}}
sinks:
  lake: {kind: parquet, location: ./lake}
"""


def test_the_models_in_files_that_the_docs_show_are_fine_and_one_that_does_not_fit_is_named(genba: Genba, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    shown = [section(page, kind).partition("```yaml\nmodels:\n")[2].partition("```")[0] for kind in ("onnx", "remaining_life")]
    mean_graph(tmp_path / "models" / "press.onnx", 30, 3, change=lambda model: model.graph.output.pop())
    metadata = {"genba.features": ["flow", "vibration"], "genba.cap": "125", "genba.conformal": CONFORMAL.text()}
    mean_graph(tmp_path / "models" / "pumps.onnx", 30, 2, metadata=metadata, change=lambda model: model.graph.output.pop())
    plant = FLEET + "models:\n" + "".join(shown)
    done = genba("check", written(plant))
    assert (done.status, done.err) == (0, "")
    assert "press-failure (onnx, unsigned file, 3 tags), pump-life (remaining_life, unsigned file, 3 tags)" in done.out
    done = genba("check", written(plant.replace("window: 30", "window: 20").replace("cycle: cycles", "cycle: strokes")))
    assert done.status == 2
    assert "E046 models.press-failure.file: models/press.onnx wants rows: float[batch, 30, 3]" in done.out
    assert "E046 models.pump-life.inputs: no asset has all tags of the model: acme/osaka/pumps/p-1 has no strokes" in done.out


def section(page: str, kind: str) -> str:
    return page.partition(f"### `{kind}`\n")[2].partition("\n### ")[0]


def test_check_opens_no_socket(genba: Genba, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert genba("check", written(PLANT)).status == 0


def test_errors_are_all_shown_and_end_with_2(genba: Genba) -> None:
    done = genba("check", written(PLANT.replace("unit: °C", "unti: °C").replace("kind: stuck", "kind: stcuk")))
    assert done.status == 2
    assert "plant.yaml:11:54 E012 adapters.press-07.tags.motor_temp.unti: unknown key, did you mean 'unit'?\n" in done.out
    assert "  20 |   wear: {kind: stcuk" in done.out
    assert done.out.endswith("plant.yaml: 2 errors; `genba explain E012` tells more about the first\n")


def test_a_missing_variable_is_a_warning_unless_strict(genba: Genba, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(PLANT.replace("unit: °C", 'unit: °C, label: "${PW}"'))
    done = genba("check", file)
    assert (done.status, "W050" in done.out, "plant.yaml is fine, 1 warning" in done.out) == (0, True, True)
    done = genba("check", file, "--strict-env")
    assert (done.status, "E050" in done.out) == (2, True)
    monkeypatch.setenv("PW", "x")
    assert genba("check", file, "--strict-env").status == 0


def test_what_cannot_be_judged_without_a_variable_is_said(genba: Genba) -> None:
    done = genba("check", written(PLANT.replace("tcp://10.0.0.7:502", "${PW}")))
    assert done.status == 0
    assert done.out.endswith(
        "plant.yaml: no errors found, 1 warning; what depends on the missing variables could not be checked\n"
    )


def test_json_is_a_contract(genba: Genba) -> None:
    done = genba("check", written(PLANT), "--format", "json", "--tags")
    assert json.loads(done.out) == {
        "file": "plant.yaml",
        "ok": True,
        "errors": 0,
        "warnings": 0,
        "diagnostics": [],
        "summary": {
            "plant": "acme/osaka",
            "gateway": "gw-1",
            "time_zone": "Asia/Tokyo",
            "adapters": {"press-07": {"kind": "modbus", "devices": 1, "tags": 2}, "drives": {"kind": "modbus", "devices": 2, "tags": 2}},
            "models": {"wear": {"kind": "stuck", "patterns": 1}},
            "sinks": {"lake": "parquet"},
            "routes": {
                "telemetry": ["lake"], "event": [], "score": [], "alert": ["lake"], "health": ["lake"], "image": ["lake"], "gap": ["lake"],
            },
            "spool": {"max_size": 20_000_000_000, "hours": 6419.2},
            "tags": 4,
            "tag_list": [
                {"path": "acme/osaka/press-07/motor_temp", "adapter": "press-07", "address": "hr:100", "type": "number", "unit": "Cel", "period_us": 500_000},
                {"path": "acme/osaka/press-07/mode", "adapter": "press-07", "address": "hr:40", "type": "number", "unit": "1", "period_us": 500_000},
                {"path": "acme/osaka/a/speed", "adapter": "drives", "address": "hr:1", "type": "number", "unit": "1", "period_us": 1_000_000},
                {"path": "acme/osaka/b/speed", "adapter": "drives", "address": "hr:1", "type": "number", "unit": "1", "period_us": 1_000_000},
            ],
        },
    }  # fmt: skip


def test_json_of_errors(genba: Genba) -> None:
    done = genba("check", written(PLANT.replace("kind: stuck", "kind: stcuk")), "--format", "json")
    found = json.loads(done.out)
    assert (done.status, found["ok"], found["errors"], found["summary"]) == (2, False, 1, None)
    assert found["diagnostics"] == [
        {
            "code": "E013",
            "level": "error",
            "file": "plant.yaml",
            "line": 20,
            "column": 16,
            "key": "models.wear.kind",
            "message": "unknown kind of model 'stcuk'",
            "hint": "did you mean 'stuck'?",
        }
    ]


def test_a_thousand_errors_are_counted_and_fifty_shown(genba: Genba) -> None:
    tags = "".join(f"      t{i}: {{address: hr:{i}, type: float33}}\n" for i in range(1000))
    done = genba("check", written(PLANT.replace("    tags:\n", "    tags:\n" + tags, 1)))
    assert done.out.count(" E018 ") == 50
    assert "… and 950 more: 950 × E018\n" in done.out
    assert "plant.yaml: 1,000 errors" in done.out


def test_other_commands_say_the_same_on_stderr(genba: Genba) -> None:
    done = genba("doctor", written(PLANT.replace("kind: stuck", "kind: stcuk")))
    assert (done.status, done.out) == (2, "")
    assert "plant.yaml:20:16 E013 models.wear.kind" in done.err
    assert "Traceback" not in done.err
