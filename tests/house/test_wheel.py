"""The wheel works outside the repository: an environment of its own, the pinned packages beside it, another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["gateway", "adapters", "schemas", "edge_models", "cloud_sinks"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; the other packages are seen through a .pth, which leaves the editable install out."""
    venv = tmp_path_factory.mktemp("outside") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "pinned.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return venv


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_all_five_packages_come_from_the_wheel(environment: Path, run: Run) -> None:
    code = f"import {', '.join(PACKAGES)}, json; print(json.dumps([m.__file__ for m in ({', '.join(PACKAGES)})]))"
    found = json.loads(run(environment / "bin" / "python", "-c", code).stdout)
    assert [Path(file).is_relative_to(environment) for file in found] == [True] * 5


def test_every_module_of_the_repository_is_in_the_wheel(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(zipfile.ZipFile(wheel).namelist()) >= {file for file in tracked if (ROOT / file).exists()}
    assert "genba-0.1.0.dist-info/licenses/LICENSE" in zipfile.ZipFile(wheel).namelist()


def test_every_module_imports(environment: Path, run: Run) -> None:
    code = (
        "import importlib, pkgutil\n"
        f"for name in {PACKAGES}:\n"
        "    package = importlib.import_module(name)\n"
        "    for found in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not found.name.endswith('__main__'):\n"
        "            importlib.import_module(found.name)\n"
    )
    run(environment / "bin" / "python", "-c", code)


def test_version(environment: Path, run: Run) -> None:
    assert "0.1.0" in run(environment / "bin" / "genba", "--version").stdout


def test_check_accepts_the_example_and_refuses_a_broken_one(environment: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run(environment / "bin" / "genba", "check", "examples/demo.yaml")
    (tmp_path / "broken.yaml").write_text((ROOT / "examples" / "demo.yaml").read_text().replace("adapters:", "adaptors:", 1))
    refused = run(environment / "bin" / "genba", "check", "broken.yaml", status=2)
    assert "adaptors" in refused.stdout + refused.stderr


def test_schema_is_json_schema(environment: Path, run: Run) -> None:
    schema = json.loads(run(environment / "bin" / "genba", "schema").stdout)
    assert {"adapters", "sinks"} <= schema["properties"].keys()


def test_an_isolated_adapter_has_its_process(environment: Path, run: Run, tmp_path: Path) -> None:
    plant = (
        "enterprise: acme\nsite: osaka\ngateway: gw-1\nsinks: {lake: {kind: parquet, location: ./lake}}\n"
        "adapters: {press: {kind: modbus, endpoint: 'tcp://127.0.0.1:1', isolation: process, tags: {a: {address: 'hr:0', type: int16}}}}\n"
    )
    (tmp_path / "plant.yaml").write_text(plant)
    (tmp_path / "schemas.py").write_text("raise ImportError('a file of the user, where the service runs')\n")
    shown = run(environment / "bin" / "genba", "test", "plant.yaml", "--duration", "4s", status=3)
    assert "press cannot be read: tcp://127.0.0.1:1: Connection refused" in shown.stderr
