"""Plug-ins are found by name without being imported, and a broken one hurts only who uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import catalogue
from gateway.catalogue import Catalogue
from schemas.errors import ConfigError
from schemas.plugin import Plugin

PLUGIN = """\
from pydantic import BaseModel
from schemas.plugin import Plugin

class Config(BaseModel):
    kind: str

PLUGIN = Plugin(Config, lambda config, context: None)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Catalogue:
    """Packages of adapters and sinks in a folder, and a distribution with entry points."""
    package = f"packages_{abs(hash(request.node.name))}"
    for name, text in {
        "good/__init__.py": PLUGIN,
        "good/config.py": "",
        "broken/__init__.py": "PLUGIN = 1 / 0\n",
        "empty/__init__.py": "",
        "other.py": PLUGIN.replace("PLUGIN =", "PLUGIN: Plugin[Config, None] ="),
        "wrong.py": "PLUGIN = 5\n",
        "helper.py": "from schemas.plugin import Plugin\n# PLUGIN is not here\n",
        "_private.py": PLUGIN,
        "notes.txt": "PLUGIN = 1\n",
        "__init__.py": "",
    }.items():
        file = tmp_path / package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / f"third_{package}.py").write_text(PLUGIN)
    info = tmp_path / f"third_{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: third-{package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[genba.sinks]\nthird = third_{package}:PLUGIN\nmodule = third_{package}\ngood = third_{package}\nlost = nowhere_{package}:PLUGIN\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return Catalogue(packages={"adapters": package, "models": package, "sinks": package})


def test_names_are_folders_and_files_that_export_a_plug_in(own: Catalogue) -> None:
    assert own.built_in("adapters") == ["broken", "good", "other", "wrong"]
    assert own.names("adapters") == ["broken", "good", "other", "wrong"]
    assert own.names("sinks") == ["broken", "good", "lost", "module", "other", "third", "wrong"]


def test_naming_imports_nothing_and_loading_imports_one(own: Catalogue) -> None:
    package = own.packages["sinks"]
    own.names("sinks")
    assert not [name for name in sys.modules if name.startswith((f"{package}.", f"third_{package}"))]
    assert isinstance(own.plugin("sinks", "good"), Plugin)
    assert [name for name in sys.modules if name.startswith((f"{package}.", f"third_{package}"))] == [f"{package}.good"]


def test_entry_points_name_a_plug_in_or_its_module(own: Catalogue) -> None:
    assert own.plugin("sinks", "third") is own.plugin("sinks", "module")


def test_our_own_plug_in_wins_over_one_of_the_same_name(own: Catalogue) -> None:
    assert own.plugin("sinks", "good").config.__module__ == f"{own.packages['sinks']}.good"


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("goood", "unknown kind of sink 'goood'", "did you mean 'good'?"),
        ("zzzz", "unknown kind of sink 'zzzz'", "known kinds are broken, good, lost, module, other, third, wrong"),
        ("broken", "the sink 'broken' cannot be loaded: ZeroDivisionError: division by zero", "reinstall genba"),
        ("wrong", "the sink 'wrong' exports no plug-in", "its last line is `PLUGIN = Plugin(…)`"),
        ("empty", "unknown kind of sink 'empty'", ""),
        ("config", "unknown kind of sink 'config'", ""),
        ("../good", "unknown kind of sink '../good'", ""),
    ],
)
def test_what_is_wrong_is_said(own: Catalogue, kind: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own.plugin("sinks", kind)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_an_entry_point_that_is_gone_names_its_distribution(own: Catalogue) -> None:
    with pytest.raises(ConfigError, match="ModuleNotFoundError") as caught:
        own.plugin("sinks", "lost")
    assert caught.value.hint == f"reinstall third-{own.packages['sinks']}"


def test_the_built_in_plug_ins_are_there() -> None:
    assert {"modbus", "opcua", "s7"} <= set(catalogue.names("adapters"))
    assert {"limits", "forecast_residual", "drift", "stuck"} <= set(catalogue.names("models"))
    assert {"mqtt", "parquet"} <= set(catalogue.names("sinks"))


BUILT_IN = [(group, kind) for group in catalogue.GROUPS for kind in catalogue.installed().built_in(group)]


@pytest.mark.parametrize(("group", "kind"), BUILT_IN)
def test_every_built_in_plug_in_can_be_loaded_and_documents_its_options(group: catalogue.Group, kind: str) -> None:
    config = catalogue.plugin(group, kind).config
    assert config.model_config.get("extra") == "forbid"
    assert [name for name, field in config.model_fields.items() if not field.description] == []


def test_configuration_classes_import_no_protocol_library() -> None:
    heavy = {"pymodbus", "asyncua", "s7", "snap7", "paho", "pyarrow", "polars", "numpy", "structlog", "rich", "asyncio"}
    kinds = [("adapters", kind) for kind in catalogue.installed().built_in("adapters")]
    kinds += [("sinks", kind) for kind in catalogue.installed().built_in("sinks")]
    code = f"import sys\nfrom gateway import catalogue\nimport gateway.config\nfor g, k in {kinds}: catalogue.plugin(g, k)\n"
    code += f"print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
