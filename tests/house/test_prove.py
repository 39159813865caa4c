"""`make prove`: what is no proof is told, nothing of it stays behind, and the table in the docs is one of its own."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import prove, prove_table
from tests.e2e.plant import until
from tests.house.conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMES = [part.name for part in prove.PARTS]


class _Hanging(prove.Part):
    def deadline_s(self, quick: bool) -> float:
        return 4.0


STAND_IN = prove.Part("stand-in", "tests.house.stand_in_part", 1)
HANGING = _Hanging("stand-in", "tests.house.stand_in_part", 1)
ONE_LEFT = f"{prove_table.BEGIN}\n\n{prove_table.NOT_RUN}\n\n{prove_table.END}"


async def _outcome(folder: Path, parts: tuple[prove.Part, ...] = (STAND_IN,)) -> prove.Proving:
    proving = prove.Proving(parts, master=7, quick=True, folder=folder)
    await proving.run()
    return proving


def _table(proving: prove.Proving) -> str:
    told = prove.described(proving.outcomes, master=7, quick=True, began=datetime(2026, 1, 2, tzinfo=UTC), seconds=3.4)
    return prove_table.table(told)


def test_the_table_in_the_docs_is_one_of_make_prove_and_has_every_part() -> None:
    assert prove_table.check(PAGE, NAMES) == []


def test_parts_have_names_and_seeds_of_their_own() -> None:
    assert (
        len(set(NAMES)) == len({part.module for part in prove.PARTS}) == len({part.seed(7) for part in prove.PARTS}) == len(NAMES)
    )
    assert prove.PARTS[0].seed(7) == prove.PARTS[0].seed(7) != prove.PARTS[0].seed(8)


@pytest.mark.parametrize(("idle", "nice"), [(False, 5), (True, 0)])
async def test_parts_that_work_come_behind_the_one_that_waits(tmp_path: Path, idle: bool, nice: int) -> None:
    proving = await _outcome(tmp_path, (replace(STAND_IN, idle=idle),))
    proof = proving.outcomes[0].proof
    assert proof is not None
    assert proof.measured["nice"] == max(nice, os.nice(0))


async def test_a_run_becomes_a_table_that_fits_the_docs(tmp_path: Path) -> None:
    proving = await _outcome(tmp_path)
    assert proving.outcomes[0].wrong == []
    page = prove_table.inserted(ONE_LEFT, _table(proving))
    assert f"| stand-in | 2 | | | | 1,500 | 0 | | 1 of 1 | {STAND_IN.seed(7)} |" in page
    assert prove_table.check(page, ["stand-in"]) == []
    assert prove_table.inserted(page, _table(proving)) == page
    assert prove_table.check(page, ["stand-in", "soak"]) == ["the part 'soak' is missing: run `make prove DOCS=1`"]
    assert prove_table.check(page, []) == ["there is no part 'stand-in': run `make prove DOCS=1`"]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("| 0 | | 1 of 1", "| 4 | | 1 of 1", "4 rows lost"),
        ("| 1 of 1", "| 0 of 1", "not every control was found"),
        ("all is proven.", "**not proven**.", "no proof"),
        ("| 1,500 |", "| many |", "is not what"),
        ("| part |", "| piece |", "never write it by hand"),
        (prove_table.END, "", "it needs one line"),
    ],
)
async def test_a_table_that_make_prove_did_not_write_is_found_out(
    tmp_path: Path, before: str, after: str, complaint: str
) -> None:
    page = prove_table.inserted(ONE_LEFT, _table(await _outcome(tmp_path)))
    assert before in page
    assert complaint in " ".join(prove_table.check(page.replace(before, after), ["stand-in"]))


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("dies", "it ended with 3"),
        ("misses", "the control 'no CRC' went unnoticed"),
        ("uncontrolled", "it has no control"),
        ("loses", "1 rows lost"),
    ],
)
async def test_a_part_that_is_no_proof_is_told_with_its_reason(
    what: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENBA_STAND_IN", what)
    proving = await _outcome(tmp_path)
    assert complaint in " ".join(proving.outcomes[0].wrong)
    assert complaint in capsys.readouterr().out
    assert "(**not proven**)" in _table(proving)
    assert prove_table.check(prove_table.inserted(ONE_LEFT, _table(proving)), ["stand-in"]) != []


async def test_a_part_that_hangs_is_a_failure_and_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBA_STAND_IN", "hangs")
    proving = await _outcome(tmp_path, (HANGING,))
    assert "it hangs" in proving.outcomes[0].wrong[0]
    assert _left() == []


async def test_an_interrupt_ends_all_that_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBA_STAND_IN", "hangs")
    task = asyncio.create_task(_outcome(tmp_path))
    await until(lambda: len(_left()) == 2, "the part and what it starts", 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _left() == []


def _left() -> list[int]:
    return prove.marked(prove.mark_of(STAND_IN))


def test_every_part_is_a_module_that_can_be_run() -> None:
    for part in prove.PARTS:
        found = find_spec(part.module)
        assert found is not None, part
        assert found.submodule_search_locations is None or find_spec(f"{part.module}.__main__") is not None, part
