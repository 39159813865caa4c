"""What the tests of the house share: the wheel, built once, and a way to run a program and see what it said."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def build_bundle() -> ModuleType:
    """The module deploy/build_bundle.py."""
    spec = importlib.util.spec_from_file_location("build_bundle", ROOT / "deploy" / "build_bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def wheel(build_bundle: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built: Path = build_bundle.build_wheel(tmp_path_factory.mktemp("wheel"))
    return built


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program in a folder outside the repository, without this process's Python paths; fails where `status` is another."""

    def run(*command: str | Path, status: int | None = 0, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert status is None or done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
