"""Examines configurations in a folder of their own, with made-up plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.catalogue import Catalogue
from gateway.config import examine
from tests.gateway.config.rig import Examine, Examined, make_catalogue


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return make_catalogue()


@pytest.fixture
def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue) -> Examine:
    """Write plant.yaml and other files into a folder of their own and examine it from there."""
    monkeypatch.chdir(tmp_path)

    def run(
        text: str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        strict_env: bool = False,
    ) -> Examined:
        for name, content in {"plant.yaml": text, **(files or {})}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Examined(*examine(Path("plant.yaml"), env=env or {}, strict_env=strict_env, catalogue=catalogue))

    return run
