"""Every model of docs/models.md has its picture, and `docs/pictures.py` can draw each of them anew."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_model_on_the_page_has_its_picture() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[\w+: an example\]\(pictures/(\w+)\.png\)", page))
    kinds = set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE))
    assert shown == kinds
    assert {path.stem for path in (ROOT / "docs" / "pictures").glob("*.png")} == kinds
    done = subprocess.run([sys.executable, "docs/pictures.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
