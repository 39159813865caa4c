"""The odd adapter as an installed plug-in, behind a process, with what drives it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from adapters.base import AdapterContext
from gateway.clock import WallClock
from gateway.isolation.adapter import IsolatedAdapter
from tests.conformance.adapter import bind
from tests.gateway.isolation.odd import OddConfig


@pytest.fixture
def odd_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kind: odd` is there, in this process and in those that it starts."""
    folder = tmp_path / "site" / "odd-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[genba.adapters]\nodd = tests.gateway.isolation.odd\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))


@dataclass
class Odd:
    """An isolated odd adapter and its log."""

    adapter: IsolatedAdapter
    config: OddConfig
    log: list[Mapping[str, Any]] = field(default_factory=list)

    def ends(self) -> list[Mapping[str, Any]]:
        """What was logged of processes that ended."""
        return [entry for entry in self.log if entry["event"] == "the process of the adapter ended"]


Make = Callable[..., Any]


@pytest.fixture
def odd(odd_installed: None, tmp_path: Path) -> Make:
    """`async with odd("hog", memory_limit="200 MB") as it`: built, not connected; closed at the end."""

    @asynccontextmanager
    async def make(does: str, **options: Any) -> AsyncIterator[Odd]:
        entry = {
            "kind": "odd",
            "endpoint": f"odd://{does}",
            "isolation": "process",
            "timeout": "500ms",
            "tags": {"a": {"address": "1", "type": "x"}, "b": {"address": "2", "type": "x", "enum": {1: "one"}}},
        } | options
        config = OddConfig.model_validate(entry)
        capture = structlog.testing.LogCapture()
        log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger)
        context = AdapterContext("strange", bind("strange", config), WallClock(), tmp_path / "state", log)
        made = Odd(IsolatedAdapter(config, context), config, capture.entries)
        try:
            yield made
        finally:
            await made.adapter.aclose()

    return make
