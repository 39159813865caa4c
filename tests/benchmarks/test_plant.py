"""The synthetic plant: the same seed is the same plant, its faults are where it says, and what models find is counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from model_sets._plant import DAY, KINDS, NAMES, Plant, plant
from model_sets.plant import MEASURED, RECOMMENDED, found_by, labels_of, only, watch

from gateway.jobs.backtest import Alarm
from gateway.jobs.labels import Labels, resolved
from schemas import quality as q


@pytest.fixture(scope="module")
def small() -> Plant:
    """Twelve machines for two days, half a day of it without faults."""
    return plant(assets=12, days=2.0, learning_days=0.5, seed=1)


def test_the_same_seed_is_the_same_plant(small: Plant) -> None:
    again, other = (plant(assets=12, days=2.0, learning_days=0.5, seed=seed) for seed in (1, 2))
    assert again.faults == small.faults != other.faults
    assert all(np.array_equal(again.values[name], small.values[name]) for name in NAMES)


def test_every_kind_of_fault_is_there_behind_the_learning_and_none_over_another(small: Plant) -> None:
    assert {fault.kind for fault in small.faults} == {*KINDS}
    assert len(KINDS) == 12
    assert len(small.faults) == 2 * small.assets
    for fault in small.faults:
        assert small.learning <= fault.start < fault.end <= small.polls
        assert not any(
            other is not fault and other.asset == fault.asset and other.start < fault.end and fault.start < other.end
            for other in small.faults
        )
    given = Labels([label for some in labels_of(small).values() for label in some])
    meant = resolved(given, small.tags)
    swapped = [one for one in meant if one.label.subject.endswith("*_temp")]
    assert {len(one.tags) for one in swapped} == {2}
    assert {len(one.tags) for one in meant if one not in swapped} == {1}


def test_rows_are_those_that_were_sent_in_order_and_bad_ones_have_no_value(small: Plant) -> None:
    batches = list(small.batches(polls=500))
    assert sum(batch.num_rows for batch in batches) == sum(int(one.sum()) for one in small.sent.values())
    seq = np.concatenate([batch.column("seq").to_numpy() for batch in batches])
    assert np.array_equal(seq, np.arange(len(seq)))
    for batch in batches:
        bad = q.is_bad(batch.column("quality").to_numpy())
        assert np.array_equal(bad, ~batch.column("value").is_valid().to_numpy(zero_copy_only=False))
    dropouts = [fault for fault in small.faults if fault.kind == "dropout"]
    assert dropouts
    assert not any(small.sent[fault.names[0]][fault.start : fault.end, fault.asset].any() for fault in dropouts)


def test_the_set_in_the_docs_is_the_one_that_is_measured() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.partition("### A set to begin with")[2].partition("```yaml\n")[2].partition("```")[0])["models"]
    measured = {name: {"kind": name, **entry} for name, entry in RECOMMENDED.items() if name[-2:] not in ("-1", "-2")}
    assert shown == measured
    for number in ("-1", "-2"):  # the other recipes differ in nothing else
        for name in [name for name in measured if name.endswith("-0")]:
            condition = f"mode == run and recipe == {number[1]}"
            assert RECOMMENDED[name[:-2] + number] == {**RECOMMENDED[name], "active_when": condition}


def test_frozen_and_silent_sensors_are_found_and_counted(small: Plant) -> None:
    seen, _ = watch(small, {"stuck": {"tags": MEASURED, "active_when": "mode == run", "warm_up": "6h", "at_least": "10m"}})
    found = found_by(seen, small, {"stuck"})
    assert {kind for kind, (hits, _) in found.of.items() if hits} == {"stuck", "dropout"}
    assert all(found.of[kind][0] == found.of[kind][1] > 0 for kind in ("stuck", "dropout"))
    assert found.share == pytest.approx(sum(hits for hits, _ in found.of.values()) / len(small.faults))
    assert found_by(seen, small, {"drift"}).share == 0.0
    # A false alarm weighs one over the asset-days behind the learning; one behind a fault is none.
    fault, days = small.faults[0], 12 * (small.polls - small.learning) / DAY
    asset = small.tags[fault.asset].asset
    end = 1_767_225_600_000_000 + fault.end * 10_000_000
    seen.alarms = {"x": Alarm(end + 60_000_000, "flow.stuck", small.tags[fault.asset].id, asset, "warning", "")}
    assert found_by(seen, small, {"stuck"}).false == 0.0
    assert not only(seen, small, {"stuck"}).alarms
    seen.alarms = {"x": Alarm(end - 60_000_000, "flow.stuck", small.tags[0].id, "elsewhere", "warning", "")}
    assert found_by(seen, small, {"stuck"}).false == pytest.approx(1 / days)
