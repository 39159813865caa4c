"""Each sentence that the pages' tables of troubles quote is one that the code, or the library below it, says."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.exceptions
import pytest

ROOT = Path(__file__).parents[2]
SAID = re.sub(
    r'"\s*\n\s*f?"', "", "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "cloud_sinks").rglob("*.py")))
)
LIBRARY = " ".join(str(getattr(error, "fmt", "")) for error in vars(botocore.exceptions).values())
CODES = re.compile(r"[A-Z][A-Za-z]+(\.[A-Za-z]+)?|[0-9]{3}")
"""Names of errors of the service."""


@pytest.mark.parametrize("page", ["aws", "kinesis", "iot-core"])
def test_what_the_table_quotes_is_said(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    table = text[text.index("| what is seen |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 10
    for row in table:
        first = row.split("|")[1].strip()
        outside = re.sub(r"\(`(.*)`\)", "", first)
        quotes = [*re.findall(r"`([^`]+)`", outside), *re.findall(r"\(`(.*)`\)", first)]
        assert quotes, row
        for quote in quotes:
            for piece in quote.split("…"):
                piece = piece.strip(" :")
                if piece and not CODES.fullmatch(piece):
                    assert piece in SAID or piece in LIBRARY or any(part in LIBRARY for part in [piece]), (
                        f"nothing says {piece!r}"
                    )


def test_the_control_a_sentence_that_nobody_says_is_found() -> None:
    assert "the bucket is on holiday" not in SAID + LIBRARY
