"""`genba lake compact` and `genba lake verify` as people and timers call them: what they say and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloud_sinks import lake
from tests.cloud_sinks.test_lake import put
from tests.gateway.cli.conftest import Genba

DAY = "telemetry/site=osaka/date=2026-01-01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "lake"
    for first in range(0, 40, 10):
        put(made, first, 10, described=False)
    put(made, 0, 3, kind="event", described=False)
    put(made, 3, 3, kind="event", described=False)
    return made


def test_what_would_be_merged_and_what_was(root: Path, genba: Genba) -> None:
    before = sorted(root.rglob("*"))
    done = genba("lake", "compact", root, "--dry-run")
    assert done.status == 0
    assert done.out.splitlines()[0].startswith(f"{DAY}: 4 files, ")
    assert done.out.splitlines()[-1] == "2 merges to begin with"
    assert sorted(root.rglob("*")) == before
    done = genba("lake", "compact", root, "--kind", "telemetry", "--grace", "0s", "--json")
    assert (done.status, done.err) == (0, "")
    report = json.loads(done.out)
    assert sorted(report) == ["merged", "ok", "planned", "problems", "removed", "restored"]
    (merged,) = report["merged"]
    assert (merged["folder"], merged["rows"], len(merged["files"]), report["ok"]) == (DAY, 40, 4, True)
    assert len(report["removed"]) == 4
    assert genba("lake", "compact", root, "--grace", "0s").out.splitlines()[-1] == "1 merge, 2 replaced files removed"
    done = genba("lake", "compact", root)
    assert (done.status, done.out) == (0, "nothing to merge\n")
    assert lake.scan(root).collect().height == 40
    assert genba("lake", "verify", root, "--deep").status == 0


def test_only_what_has_ended(root: Path, genba: Genba) -> None:
    assert genba("lake", "compact", root, "--dry-run", "--older-than", "36500d").out == "nothing to merge\n"
    assert genba("lake", "compact", root, "--dry-run", "--older-than", "1d").out.splitlines()[-1] == "2 merges to begin with"


def test_a_damaged_file_ends_it_with_1(root: Path, genba: Genba) -> None:
    victim = root / DAY / "gw-1-0001-telemetry-00000000000010-00000000000019.parquet"
    victim.write_bytes(victim.read_bytes()[:100])
    done = genba("lake", "compact", root, "--grace", "0s")
    assert done.status == 1
    assert f"{victim.name}: cannot be read" in done.out
    assert genba("lake", "verify", root).status == 1
    assert victim.exists()


def test_mistakes_are_said(root: Path, genba: Genba, tmp_path: Path) -> None:
    for wrong in (
        ("compact", root, "--target-size", "5 kB"),
        ("compact", root, "--target-size", "much"),
        ("compact", root, "--older-than", "soon"),
        ("compact", root, "--kind", "nonsense"),
        ("compact", root, "--sink", "lake"),
        ("compact", tmp_path / "nowhere"),
        ("verify", root, "--sink", "lake"),
        ("verify", root, tmp_path / "plant.yaml", "--spool", tmp_path),
        ("verify", root, "--spool", tmp_path / "nowhere"),
    ):
        done = genba("lake", *wrong)
        assert done.status == 2, wrong
        assert done.err


def test_a_lake_that_cannot_be_written_to(root: Path, genba: Genba) -> None:
    """What is in the place of the lock stops everybody, root too, whom no permission stops."""
    (root / ".manifest.lock").mkdir()
    assert genba("lake", "compact", root).status == 1
    assert genba("lake", "verify", root).status == 0


def test_an_unreadable_manifest_is_a_matter_for_a_person(root: Path, genba: Genba) -> None:
    assert genba("lake", "compact", root, "--grace", "0s").status == 0
    manifest = root / DAY / "_merged.json"
    manifest.write_bytes(b"\0")
    done = genba("lake", "compact", root)
    assert done.status == 1
    assert "remove it: it is made again" in done.out
    assert genba("lake", "verify", root).status == 1
    manifest.unlink()
    assert genba("lake", "verify", root).status == 1
    done = genba("lake", "compact", root, "--grace", "0s")
    assert (done.status, done.out.splitlines()[0]) == (0, f"{DAY}: the manifest was lost and is made again")
    assert genba("lake", "verify", root, "--deep").status == 0
