"""One module per data set (or question) of `benchmarks/models.py`, found by its file name; names with `_` are helpers.

A module holds

- its docstring: the protocol, published with the figures. What is scored, on which files, what was chosen where;
- `NEEDS`: glob patterns below the data directory; where one matches nothing the set is left out. Empty: needs no data;
- `run(data, calibrate, quick) -> Measured`: scores the files of `data` with what was chosen and trained on those of
  `calibrate` (the same directory: cross-validated). `quick` asks for less certain figures in a minute or so.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from report import Figure


@dataclass(frozen=True)
class Measured:
    """What a module found. `notes` are sentences that hold for this run: files and rows, chosen parameters, baselines in words."""

    figures: Sequence[Figure]
    notes: Sequence[str] = ()


class ModelBenchmark(Protocol):
    """What a module of this folder is to the dispatcher."""

    __doc__: str | None
    NEEDS: Sequence[str]

    def run(self, data: Path, calibrate: Path, quick: bool) -> Measured:
        """See above."""
        ...


def names() -> list[str]:
    """The modules of this folder in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def load(name: str) -> ModelBenchmark:
    """One module of this folder."""
    return cast(ModelBenchmark, importlib.import_module(f"{__name__}.{name}"))


def missing(benchmark: ModelBenchmark, folder: Path | None) -> list[str]:
    """The needs that nothing in `folder` meets."""
    return [pattern for pattern in benchmark.NEEDS if folder is None or not any(folder.glob(pattern))]
