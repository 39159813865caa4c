"""The benchmarks are scripts; their modules find each other by the folder they stand in."""

from __future__ import annotations

import sys
from pathlib import Path

# Behind everything that is installed: some benchmarks are called like a library.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
