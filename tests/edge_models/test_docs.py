"""docs/models.md says what there is: every parameter with its default, and the memory that a tag takes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
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
from schemas.kinds import kind_of
from tests.conformance.model import T0, make_tag, readings

from .graphs import mean_graph
from .test_remaining_life import CONFORMAL, lives

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
        file = mean_graph(
            tmp_path / "m.onnx", "rows", len(names), metadata=metadata, change=lambda model: model.graph.output.pop()
        )
        options |= {"file": str(file), "window": 1}

    def size(tags: int, **further: Any) -> int:
        model = plugin.build(
            plugin.config(**{**options, **further}),
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
    if issubclass(plugin.config, FileModelConfig):
        assert f"{stated} bytes per tag at a window of one row" in section(kind)
        assert "4 for each further row" in section(kind)
        assert (size(2000, window=40) - size(1000, window=40)) / 1000 == pytest.approx(per_tag + 39 * 4, abs=0.1)


def test_the_script_of_remaining_life_makes_a_file_from_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", section("remaining_life"), re.DOTALL)
    quick, whole = "Recipe(window=8, cap=60, trees=4, leaves=4, networks=0, edges=())", "Recipe(window=30, cap=125)"
    assert script.count(whole) == 1
    (tmp_path / "train.py").write_text(script.replace(whole, quick), encoding="utf-8")
    (tmp_path / "lives").mkdir()
    for number, life in enumerate(lives(6)):
        lines = ["hour,flow,pressure,vibration", *(f"{at},{a},{b},{a - b}" for at, (a, b) in enumerate(life))]
        (tmp_path / "lives" / f"{number}.csv").write_text("\n".join(lines), encoding="utf-8-sig" if number else "utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("train.py")
    config = remaining_life.RemainingLifeConfig(kind="remaining_life", file="pumps.onnx", cycle="cycles")
    tags = [make_tag(n, name=name) for n, name in enumerate(("cycles", "vibration", "flow", "pressure"))]
    model = remaining_life.PLUGIN.build(config, ModelContext("life", tags))
    table = np.column_stack([np.arange(20.0), *np.random.default_rng(0).normal(50, 1, (3, 20))])
    batch = readings([0, 1, 2, 3] * 20, table.ravel(), np.repeat(np.arange(20), 4) * 1_000_000 + T0)
    health = [row for one in model.update(batch, 0) if kind_of(one) == "health" for row in one.to_pylist()]
    assert {row["unit"] for row in health} == {"cycles"}
    assert len(health) == 20 - 8 + 1
