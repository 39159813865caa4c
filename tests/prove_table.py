"""The table of `make prove`: from its result, into docs/reliability.md, and a look whether what stands there is one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.proof import FIGURES

Result = Mapping[str, Any]
"""What `tests.prove.described` returns, and what is in prove.json."""

BEGIN, END = "<!-- make prove DOCS=1 writes from here -->", "<!-- to here -->"
NOT_RUN: Final = "Not run yet."
"""Stands between the two while there is no table."""

_COLUMNS: Final = ("part", *(name.replace("_", " ") for name in FIGURES), "controls found", "seed", "seconds")
_CELLS: Final = (*(r"(?:[\d,]+)?" for _ in FIGURES), r"(?:\d+ of \d+)?", r"\d+", r"[\d,]+")
_CAPTION: Final = re.compile(
    r"genba \S+ at [0-9a-f]{12}(?: with changes)?, \d{4}-\d\d-\d\d, (?:release|quick) tier, seed \d+, .+"
)


def table(result: Result) -> str:
    """As Markdown: a row by part, one for all together, and a line above that says what ran where."""
    rows = [_row(part) for part in result["parts"]]
    proofs = [part["proof"] or {} for part in result["parts"]]
    sums = {name: sum(proof.get("figures", {}).get(name, 0) for proof in proofs) for name in FIGURES}
    found = [what for proof in proofs for what in proof.get("controls", {}).values()]
    all_of_it = ["**all**", *(f"{sums[name]:,}" for name in FIGURES), _found(found), str(result["seed"]), _seconds(result)]
    lines = [list(_COLUMNS), ["---", *["--:"] * (len(_COLUMNS) - 1)], *rows, all_of_it]
    return "\n".join([_caption(result), "", *(f"| {' | '.join(cells)} |".replace("  ", " ") for cells in lines)])


def _caption(result: Result) -> str:
    where = result["machine"]
    changed = " with changes" if result["changed"] else ""
    return (
        f"genba {result['genba']} at {result['commit'][:12]}{changed}, {result['began'][:10]}, {result['tier']} tier, seed {result['seed']}, "
        f"{where['cores']} cores, {where['memory_gib']} GiB, Linux {where['kernel']} {where['architecture']}, Python {where['python']}: "
        f"{'all is proven' if result['proven'] else '**not proven**'}."
    )


def _row(part: Mapping[str, Any]) -> list[str]:
    proof = part["proof"] or {}
    figures = proof.get("figures", {})
    name = part["part"] if not part["wrong"] else f"{part['part']} (**not proven**)"
    cells = [f"{figures[figure]:,}" if figure in figures else "" for figure in FIGURES]
    return [name, *cells, _found(list(proof.get("controls", {}).values())), str(part["seed"]), _seconds(part)]


def _found(controls: Sequence[str]) -> str:
    return f"{sum(map(bool, controls))} of {len(controls)}" if controls else ""


def _seconds(timed: Mapping[str, Any]) -> str:
    return f"{timed['seconds']:,.0f}"


def inserted(page: str, table: str) -> str:
    """The page with this table in the place of the last one. Raises ValueError where the page has no place for it."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line {BEGIN!r} and one line {END!r}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def check(page: str, parts: Sequence[str]) -> list[str]:
    """What is wrong with the table on the page, in words: its form, its rows, and what it says. No table yet is said by NOT_RUN alone."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        return [f"it needs one line {BEGIN!r} and after it one line {END!r}"]
    between = page.partition(BEGIN)[2].partition(END)[0].strip()
    if between == NOT_RUN:
        return []
    lines = between.splitlines()
    caption, rows = lines[0], [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    if len(rows) < 3 or rows[0] != list(_COLUMNS) or not _CAPTION.fullmatch(caption):
        return ["it has no table of `make prove`: run `make prove DOCS=1`, never write it by hand"]
    wrong = [] if caption.endswith(": all is proven.") else ["the run that it shows was no proof"]
    names = [row[0] for row in rows[2:]]
    wrong += [f"the part {name!r} is missing: run `make prove DOCS=1`" for name in parts if name not in names]
    wrong += [f"there is no part {name!r}: run `make prove DOCS=1`" for name in names if name not in (*parts, "**all**")]
    if len(set(names)) != len(names) or names[-1] != "**all**":
        wrong.append("its rows are not one for each part and one for all")
    for row in rows[2:]:
        wrong += _wrong_in(row)
    return wrong


def _wrong_in(row: Sequence[str]) -> list[str]:
    if len(row) != len(_COLUMNS) or not all(re.fullmatch(cell, text) for cell, text in zip(_CELLS, row[1:], strict=True)):
        return [f"the row {' | '.join(row)!r} is not what `make prove` writes"]
    cell = dict(zip(_COLUMNS, row, strict=True))
    wrong = [f"{cell['part']}: {cell[name]} rows {name}" for name in ("lost", "duplicated") if cell[name] not in ("", "0")]
    found, _, made = cell["controls found"].partition(" of ")
    if not made or found != made:
        wrong.append(f"{cell['part']}: not every control was found: {cell['controls found'] or 'there is none'}")
    return wrong
