"""docs/models.md says what there is: every parameter with its default, and the memory that a tag takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_models import (
    drift,
    ensemble,
    envelope,
    forecast,
    forecast_residual,
    limits,
    multivariate,
    novelty,
    onnx,
    remaining_life,
    rules,
    seasonal,
    shape,
    stuck,
    trend_to_limit,
    vibration,
)
from edge_models.base import AlarmConfig, ModelConfig, ModelContext
from edge_models.file_model import FileModelConfig
from tests.conformance.model import make_tag

from .graphs import mean_graph
from .test_remaining_life import CONFORMAL

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
PLUGINS = {
    "forecast_residual": forecast_residual.PLUGIN,
    "drift": drift.PLUGIN,
    "stuck": stuck.PLUGIN,
    "limits": limits.PLUGIN,
    "rules": rules.PLUGIN,
    "envelope": envelope.PLUGIN,
    "novelty": novelty.PLUGIN,
    "forecast": forecast.PLUGIN,
    "seasonal": seasonal.PLUGIN,
    "trend_to_limit": trend_to_limit.PLUGIN,
    "vibration": vibration.PLUGIN,
    "shape": shape.PLUGIN,
    "ensemble": ensemble.PLUGIN,
    "multivariate": multivariate.PLUGIN,
    "onnx": onnx.PLUGIN,
    "remaining_life": remaining_life.PLUGIN,
}
REQUIRED = {"vibration": {"sample_rate": 25_600}}
TAG = {"vibration": {"value_type": "samples", "unit": "m/s2"}}
TAGS_OF_AN_ASSET = 8


def section(kind: str) -> str:
    return PAGE.partition(f"### `{kind}`\n")[2].partition("\n### ")[0].partition("\n## ")[0]


@pytest.mark.parametrize("kind", PLUGINS)
def test_every_parameter_stands_there_with_its_default(kind: str) -> None:
    said = dict(re.findall(r"^\| `(\w+)` \| (\S*?)(?: .*?)? \|", section(kind), re.MULTILINE))
    fields = PLUGINS[kind].config.model_fields
    expected = {
        name: "required"
        if field.is_required()
        else "none"
        if field.default is None
        else str(field.default).replace("True", "true").partition(" ")[0]
        for name, field in fields.items()
        if name not in ModelConfig.model_fields
    }
    assert said == expected


def test_the_alarm_settings_stand_there() -> None:
    table = PAGE.partition("| `alarm:` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(AlarmConfig.model_fields)


@pytest.mark.parametrize("kind", PLUGINS)
def test_the_memory_per_tag_is_what_is_stated(kind: str, tmp_path: Path) -> None:
    plugin = PLUGINS[kind]
    options: dict[str, Any] = {"kind": kind, **REQUIRED.get(kind, {})}
    if issubclass(plugin.config, FileModelConfig):
        names = [f"t{n}" for n in range(TAGS_OF_AN_ASSET)]
        metadata = {"genba.features": names, "genba.cap": "125", "genba.conformal": CONFORMAL.text()}
        file = mean_graph(tmp_path / "m.onnx", 1, len(names), metadata=metadata, change=lambda model: model.graph.output.pop())
        options["file"] = str(file)

    def size(tags: int) -> int:
        model = plugin.build(
            plugin.config(**options),
            ModelContext(
                "m",
                [
                    make_tag(
                        n, name=f"t{n % TAGS_OF_AN_ASSET}", asset=f"acme/osaka/press-{n // TAGS_OF_AN_ASSET}", **TAG.get(kind, {})
                    )
                    for n in range(tags)
                ],
            ),
        )
        return len(model.snapshot())

    per_tag = (size(2000) - size(1000)) / 1000
    stated = int(re.search(r"(\d+) bytes per tag", section(kind))[1])  # type: ignore[index]
    assert per_tag == pytest.approx(stated, abs=1)
    docstring = plugin.build.__doc__ or ""  # type: ignore[union-attr]
    assert f"{stated} bytes" in docstring
