"""`multivariate`: what it finds, what it leaves alone, what it says, and the conformance suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from edge_models import multivariate
from edge_models.base import EdgeModel, ModelContext
from schemas.errors import ConfigError
from schemas.kinds import SCORE, telemetry, with_seq
from tests.conformance.model import POLL_US, T0, TAGS, ModelConformance, by_tag, make_tag, plain_stream, readings, renumbered

Rows = npt.NDArray[np.float64]


def build(tags: Sequence[int], per_asset: int = 8, **options: Any) -> multivariate.Multivariate:
    config = multivariate.MultivariateConfig.model_validate(
        {"kind": "multivariate", "every": "500ms", "warm_up": "100s", **options}
    )
    model = multivariate.PLUGIN.build(
        config, ModelContext("watch", [make_tag(tag, asset=f"acme/osaka/press-{tag // per_asset}") for tag in tags])
    )
    assert isinstance(model, multivariate.Multivariate)
    return model


def machine(polls: int, seed: int = 0) -> Rows:
    """Six tags of a machine that two loads drive, and one that is alone; their correlations say more than their ranges."""
    rng = np.random.default_rng(seed)
    load, pushed = np.zeros((polls, 2)), rng.normal(0, 1, (polls, 2))
    for poll in range(1, polls):
        load[poll] = 0.9 * load[poll - 1] + pushed[poll]
    mix = np.array([[2.0, 0.1], [1.5, -0.4], [0.2, 1.8], [-1.2, 0.6], [0.7, 0.7], [0.0, 0.0]])
    return np.asarray(50 + load @ mix.T + rng.normal(0, 0.2, (polls, 6)))


def polls(values: Rows, first: int = 0) -> pa.RecordBatch:
    n, tags = values.shape
    time = np.repeat(T0 + (first + np.arange(n)) * POLL_US, tags)
    return readings(np.tile(np.arange(tags, dtype=np.int32), n), values.ravel(), time, first_seq=first * tags)


def scores(values: Rows, model: multivariate.Multivariate | None = None, first: int = 0) -> pa.Table:
    found = (model or build(range(6))).update(polls(values, first), 0)
    return pa.Table.from_batches(found, SCORE)


def test_a_broken_correlation_is_found_and_its_tag_named() -> None:
    values = machine(1600)
    low, high = values[:1400, 1].min(), values[:1400, 1].max()
    values[1400:, 1] += 4
    assert ((values[1400:, 1] > low) & (values[1400:, 1] < high)).mean() > 0.85  # no limit and no range would have told
    table = scores(values)
    assert table.num_rows == 1600
    score = table.column("score").to_numpy()
    assert (score[300:1400] >= 0.999999).mean() < 0.005
    after = score[1430:] >= 0.999999
    assert after.mean() > 0.8
    alarmed = table.slice(1430).filter(pa.array(after))
    named = [json.loads(text) for text in alarmed.column("contributions").to_pylist()]
    first = [max(one, key=one.__getitem__) for one in named]
    assert first.count("acme/osaka/press-0/t1") > 0.9 * len(first)
    assert all(0.99 <= sum(one.values()) <= 1.01 or len(one) == 5 for one in named)
    assert set(table.column("asset").to_pylist()) == {"acme/osaka/press-0"}
    assert table.column("tag").null_count == table.num_rows


def test_a_lasting_state_is_accepted_and_an_ended_one_is_not_learnt() -> None:
    values = machine(3000)
    values[1200:1500, 4] += 6  # comes and goes
    values[1900:, 4] += 6  # stays
    score = scores(values, build(range(6), accept_after="300s")).column("score").to_numpy(zero_copy_only=False)
    assert (score[1230:1500] >= 0.999999).all()
    assert (score[1560:1900] >= 0.999999).mean() < 0.02
    assert (score[1930:2480] >= 0.999999).mean() > 0.95
    relearning = np.isnan(score[2520:])
    assert relearning.any()
    assert (score[2520:][~relearning] >= 0.999999).mean() < 0.05


def test_a_tag_may_fall_silent_come_back_and_come_late() -> None:
    values = machine(2400)
    whole = polls(values)
    tag, time = whole.column("tag").to_numpy(), whole.column("time").view(pa.int64()).to_numpy()
    at = (time - T0) // POLL_US
    silent = (tag == 2) & (at > 1000) & (at < 1300) | (tag == 3) & (at < 700)
    table = pa.Table.from_batches(build(range(6), lateness="1s").update(renumbered(whole.filter(pa.array(~silent))), 0))
    score = table.column("score").to_numpy(zero_copy_only=False)
    assert (score[260:] >= 0.999999).mean() < 0.01  # neither the absence nor the return is an alarm


@pytest.mark.parametrize("pause_s", [0, 60])
def test_what_was_before_a_pause_is_not_averaged_with_what_is_behind_it(pause_s: int) -> None:
    values = machine(1600)
    values[1400:1500, 1] += 8  # mended in the pause
    whole = polls(values)
    time = whole.column("time").view(pa.int64()).to_numpy() + pause_s * 1_000_000 * (np.arange(whole.num_rows) >= 1500 * 6)
    stream = readings(whole.column("tag").to_numpy(), whole.column("value").to_numpy(), time)
    score = pa.Table.from_batches(build(range(6)).update(stream, 0)).column("score").to_numpy(zero_copy_only=False)
    assert (score[1490:1500] >= 0.999999).all()
    assert (score[1500] >= 0.999999) == (pause_s == 0)
    assert (score[1540:] >= 0.999999).mean() < 0.05
    assert pause_s == 0 or (score[1500:] < 0.999999).all()


def test_copies_and_constants_are_no_trouble() -> None:
    values = machine(1200)
    values[:, 1], values[:, 5] = values[:, 0], 7.0
    score = scores(values).column("score").to_numpy(zero_copy_only=False)
    assert np.isfinite(score[210:]).all()
    assert (score[210:] >= 0.999999).mean() < 0.005
    values[1100:, 1] += 3.0  # the copy is none any more
    assert (scores(values).column("score").to_numpy(zero_copy_only=False)[1120:] >= 0.999).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_quick_way_of_whole_polls_gives_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    values = machine(2400, seed)
    values[1900:1960, 3] += 9
    stream = polls(values)
    lost = renumbered(stream.filter(pa.array(~((rng.random(stream.num_rows) < 0.002) & (np.arange(stream.num_rows) > 9000)))))
    whole, pieces = build(range(6), accept_after="20s"), build(range(6), accept_after="20s")
    quick: list[bool] = []
    score = multivariate.Multivariate._score

    def watched(self: multivariate.Multivariate, rows: Any) -> Any:
        quick.append(rows.complete and self._steady)
        return score(self, rows)

    monkeypatch.setattr(multivariate.Multivariate, "_score", watched)
    at, poll = 0, lost.column("time").view(pa.int64()).to_numpy()
    fast = []
    while at < lost.num_rows:
        n = int(np.searchsorted(poll, poll[at], side="right")) - at
        fast += whole.update(lost.slice(at, n), 0)
        at += n
    assert sum(quick) > 1000
    quick.clear()
    slow = [found for at in range(0, lost.num_rows, 5) for found in pieces.update(lost.slice(at, 5), 0)]
    assert not any(quick)
    assert by_tag(fast) == by_tag(slow)
    assert whole.snapshot() == pieces.snapshot()


def test_too_many_tags_of_one_asset_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"press-0 has 33 of the model's tags.*takes 32"):
        build(range(33), per_asset=100)


def test_an_asset_whose_tags_changed_is_estimated_anew_from_what_is_known() -> None:
    values = machine(1500)
    old = build(range(6))
    old.update(polls(values[:1000]), 0)
    new = build(range(5))
    new.restore(old.snapshot())
    table = pa.Table.from_batches(new.update(polls(values[1000:], 1000), 0), SCORE)
    score = table.column("score").to_numpy(zero_copy_only=False)
    assert np.isfinite(score[5:]).all()
    assert (score[5:] >= 0.999999).mean() < 0.01


class TestConformance(ModelConformance):
    plugin = multivariate.PLUGIN
    kind = "multivariate"
    row_per_reading = False
    most_bytes_per_tag = 600

    def model(self, tags: Sequence[int] = range(TAGS), **options: Any) -> EdgeModel:
        return build(tags, **{"warm_up": f"{self.warm_up_us / 1e6:g}s", "smoothing": 2, **options})

    def test_each_reading_of_a_watched_tag_has_one_row_in_order(self) -> None:
        found = pa.Table.from_batches(self.run([plain_stream()]))
        assert found.num_rows == 120
        assert found.column("tag").null_count == 120
        assert found.column("seq").to_pylist() == list(range(TAGS - 1, 120 * TAGS, TAGS))

    def test_the_order_of_tags_within_a_poll_changes_nothing(self) -> None:
        values = machine(200)
        stream, rng = polls(values), np.random.default_rng(1)
        order = np.concatenate([poll * 6 + rng.permutation(6) for poll in range(200)])
        other = renumbered(stream.take(pa.array(order)))
        assert by_tag(self.run([other]), seq=False) == by_tag(self.run([stream]), seq=False)

    def test_tags_may_appear_and_vanish_over_a_restart(self) -> None:
        old = self.model([0, 1, 2, 8, 9, 10])
        stream = plain_stream(polls=200, tags=12)
        self.run([stream.slice(0, 1200)], old)
        new = self.model([8, 9, 10, 16, 17])  # one asset stays, one is gone, one is new
        new.restore(old.snapshot())

        def of(model: EdgeModel, asset: str) -> list[Any]:
            table = pa.Table.from_batches(self.run([stream.slice(1200)], model))
            return [row["score"] for row in table.to_pylist() if row["asset"] == f"acme/osaka/{asset}"]

        assert of(new, "press-1") == of(old, "press-1") != []

    def test_a_clock_set_back_blinds_it_for_ten_readings_at_most(self) -> None:
        model = self.model()
        self.run([plain_stream()], model)
        after = plain_stream(seed=8)
        shift = pa.array(after.column("time").view(pa.int64()).to_numpy() - 3_600_000_000).view(pa.timestamp("us", tz="UTC"))
        back = renumbered(after.set_column(0, after.schema.field(0), shift), 10_000)
        found = pa.Table.from_batches(self.run([back], model))
        assert found.num_rows >= 109
        assert found.column("score").null_count == 0

    def test_a_million_rows_in_one_batch(self) -> None:
        tags, count = 10_000, 20
        rng = np.random.default_rng(0)
        ids = np.tile(np.arange(tags, dtype=np.int32), count)
        time = np.repeat(T0 + np.arange(count) * POLL_US, tags)
        batch = with_seq(
            telemetry(
                time_us=time, tag=ids, value=rng.normal(20, 1, tags * count), quality=np.zeros(tags * count, np.uint32)
            ), 0,
        )  # fmt: skip
        found = self.run([batch], self.model(range(tags)))
        assert sum(one.num_rows for one in found) == tags // 8 * count
