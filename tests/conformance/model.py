"""What every model keeps. A test class inherits `ModelConformance`.

```python
class TestDrift(ModelConformance):
    plugin = PLUGIN
    kind = "drift"
    options = {"warm_up": "4s"}
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from edge_models.base import EdgeModel, ModelConfig, ModelContext
from schemas import quality as q
from schemas.errors import StateMismatch
from schemas.kinds import HEALTH, SCORE, Origin, kind_of, make_batch, telemetry, with_seq
from schemas.plugin import Plugin
from schemas.tags import Limits, Tag

T0 = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC
POLL_US = 500_000
TAGS = 6
FOREIGN = 77  # the id of a tag that no model under test watches
Row = dict[str, Any]


def make_tag(number: int, **options: Any) -> Tag:
    """A tag of the test press; `number` is its id."""
    name = options.pop("name", f"t{number}")
    asset = options.pop("asset", "acme/osaka/press")
    return Tag(
        path=f"{asset}/{name}", asset=asset, name=name, adapter="press", device="press", address=f"hr:{number}", id=number,
        **{"period_us": POLL_US, "limits": Limits(low=15, high=25, low_low=5, high_high=60, hysteresis=0.5), "unit": "mm/s", **options},
    )  # fmt: skip


def readings(
    tag: Sequence[int] | npt.NDArray[np.int32],
    value: object,
    time: object,
    *,
    first_seq: int = 0,
    quality: object = 0,
    **columns: Any,
) -> pa.RecordBatch:
    """TELEMETRY(n) with `seq` as the spool hands it to models; `value` may hold None."""
    n = len(tag)
    numbers = pa.array(value, pa.float64()) if not isinstance(value, np.ndarray) else pa.array(value.astype(np.float64))
    batch = make_batch(
        "telemetry", n, time=np.broadcast_to(np.asarray(time, dtype=np.int64), (n,)).copy(), tag=np.asarray(tag, dtype=np.int32),
        value=numbers, quality=np.broadcast_to(np.asarray(quality, dtype=np.uint32), (n,)).copy(),
        **{"lag": 0, "origin": int(Origin.LIVE), **columns},
    )  # fmt: skip
    return with_seq(batch, first_seq)


def renumbered(batch: pa.RecordBatch, first: int = 0) -> pa.RecordBatch:
    """The same rows with `seq` counted anew."""
    return with_seq(batch.drop_columns(["seq"]), first)


def plain_stream(polls: int = 120, tags: int = TAGS, seed: int = 3, *, step: float = 0.0) -> pa.RecordBatch:
    """Polls of noisy tags around 20; the second half of them is `step` higher."""
    rng = np.random.default_rng(seed)
    value = rng.normal(20, 1, (polls, tags))
    value[polls // 2 :] += step
    time = T0 + np.arange(polls)[:, None] * POLL_US + np.zeros((1, tags), dtype=np.int64)
    ids = np.tile(np.arange(tags, dtype=np.int32), polls)
    return readings(ids, value.ravel(), time.ravel())


def wild_stream(seed: int = 5, polls: int = 160) -> pa.RecordBatch:
    """Everything a plant sends: noise, a step, a ramp, a frozen and a constant tag, silence, bursts, late and repeated rows,
    bad quality, NaN, huge and denormal numbers, rows of tags that nobody watches."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for k in range(polls):
        gateway = T0 + k * POLL_US
        for tag in (*range(TAGS), FOREIGN):
            value = float(20 + rng.normal())
            if tag == 1 and k > 90:
                value += 15 * (k < 140)
            elif tag == 2 and k > 80:
                value += 0.2 * (k - 80)
            elif tag == 3 and 60 < k < 120:
                value = 20.125
            elif tag == 4:
                value = 7.0
            elif tag == 5 and 70 < k < 110:
                continue  # silent
            times, quality = [gateway], q.GOOD
            draw = rng.random()
            if draw < 0.03:
                times = [gateway - 300_000, gateway - 200_000, gateway]  # a burst
            elif draw < 0.05:
                times = [gateway - 2_000_000]  # late
            elif draw < 0.07:
                times = [gateway, gateway]  # told twice
            elif draw < 0.10:
                quality = int(rng.choice([q.BAD_SENSOR_FAILURE, q.BAD_TIMEOUT, q.UNCERTAIN]))
            elif draw < 0.13:
                value = float(rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, 0.0]))
            for time in times:
                rows.append(
                    {"time": time, "tag": tag, "value": None if quality >= q.BAD else value, "quality": quality,
                     "lag": (gateway - time) // 1000, "origin": int(Origin.BACKFILL) if draw < 0.04 and draw > 0.03 else 0}
                )  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return readings(
        columns["tag"],
        columns["value"],
        columns["time"],
        quality=columns["quality"],
        lag=columns["lag"],
        origin=columns["origin"],
    )


def cut(batch: pa.RecordBatch, seed: int, most: int = 40) -> list[pa.RecordBatch]:
    """The rows in pieces of random length."""
    rng = np.random.default_rng(seed)
    pieces, at = [], 0
    while at < batch.num_rows:
        n = int(rng.integers(1, most))
        pieces.append(batch.slice(at, n))
        at += n
    return pieces


def by_tag(found: Sequence[pa.RecordBatch], *, seq: bool = True) -> dict[tuple[int, str], list[tuple[object, ...]]]:
    """SCORE rows per tag and alarm in order, bit for bit comparable."""
    told: dict[tuple[int, str], list[tuple[object, ...]]] = {}
    for batch in found:
        assert batch.schema.equals(SCORE, check_metadata=True)
        for row in batch.to_pylist():
            exact = tuple(None if row[n] is None else float(row[n]).hex() for n in ("value", "score", "limit", "low", "high"))
            told.setdefault((row["tag"], row["alarm"]), []).append(
                (row["time"], row["seq"] if seq else None, row["since"], *exact)
            )
    return told


class ModelConformance:
    """Inherit, and give `plugin`, `kind`, `options` (beside the kind; a short warm-up) and what differs below."""

    plugin: ClassVar[Plugin[Any, EdgeModel]]
    kind: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    warm_up_us: ClassVar[int] = 4_000_000
    most_bytes_per_tag: ClassVar[int] = 200
    row_per_reading: ClassVar[bool] = True
    looks_at_bad: ClassVar[bool] = False
    gives_health: ClassVar[bool] = False
    bulk: ClassVar[tuple[int, int]] = 10_000, 20  # tags and polls of the large batch

    refill: ClassVar[int] = 0  # readings without a break that it must see again after a clock was set back

    @staticmethod
    def carry(batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows in the form in which this model takes them. Each row by itself, so that cutting and cleaning may come first."""
        return batch

    @staticmethod
    def tag(number: int) -> Tag:
        """A tag as this model takes it."""
        return make_tag(number)

    def config(self, **options: Any) -> ModelConfig:
        config: ModelConfig = self.plugin.config.model_validate(
            {"kind": self.kind, "warm_up": f"{self.warm_up_us / 1e6:g}s", **self.options, **options}
        )
        return config

    def model(self, tags: Sequence[int] = range(TAGS), **options: Any) -> EdgeModel:
        return self.plugin.build(self.config(**options), ModelContext("watch", [self.tag(tag) for tag in tags]))

    def run(self, batches: Sequence[pa.RecordBatch], model: EdgeModel | None = None) -> list[pa.RecordBatch]:
        """SCORE batches; HEALTH has a test of its own."""
        model = model or self.model()
        return [found for batch in batches for found in model.update(self.carry(batch), T0) if kind_of(found) == "score"]

    def test_a_prefix_of_the_rows_gives_a_prefix_of_the_scores(self) -> None:
        stream = wild_stream()
        whole = by_tag(self.run([stream]))
        for rows in (1, 50, 333, stream.num_rows - 7):
            for key, found in by_tag(self.run([stream.slice(0, rows)])).items():
                assert whole[key][: len(found)] == found

    def test_it_depends_on_no_more_rows_than_its_scope_says(self) -> None:
        stream = wild_stream()
        scope = getattr(self.model(), "scope", "gateway")
        units = [[tag] for tag in range(TAGS)] if scope == "tag" else [[*range(TAGS)]]
        apart = {}
        for unit in units:
            mine = stream.filter(pa.array(np.isin(stream.column("tag").to_numpy(), unit)))
            apart |= by_tag(self.run([stream if scope == "gateway" else mine], self.model(unit)))
        assert apart == by_tag(self.run([stream]))

    @pytest.mark.parametrize("seed", range(3))
    def test_batch_cuts_change_nothing(self, seed: int) -> None:
        stream = wild_stream(seed)
        assert by_tag(self.run(cut(stream, seed))) == by_tag(self.run([stream]))
        assert by_tag(self.run(cut(stream, seed, most=3))) == by_tag(self.run([stream]))

    def test_health_does_not_depend_on_batches_and_goes_on_after_a_restart(self) -> None:
        def rows(batches: Sequence[pa.RecordBatch]) -> list[str]:
            found = [batch for batch in batches if kind_of(batch) == "health"]
            assert all(batch.schema.equals(HEALTH, check_metadata=True) and batch.num_rows for batch in found)
            return [repr(row) for batch in found for row in batch.to_pylist()]

        stream = wild_stream()
        model = self.model()
        whole = rows(model.update(self.carry(stream), T0))
        pieces: list[str] = []
        model = self.model()
        for number, piece in enumerate(cut(stream, 4)):
            pieces += rows(model.update(self.carry(piece), T0))
            if number % 5 == 0:
                state = model.snapshot()
                model = self.model()
                model.restore(state)
        assert sorted(pieces) == sorted(whole)
        assert self.gives_health == bool(whole)

    def test_the_order_of_tags_within_a_poll_changes_nothing(self) -> None:
        stream = wild_stream()
        order = np.arange(stream.num_rows)
        gateway = stream.column("time").view(pa.int64()).to_numpy() + stream.column("lag").to_numpy() * 1000
        rng = np.random.default_rng(1)
        shuffled = []
        for time in np.unique(gateway):
            poll = order[gateway == time]
            tags = stream.column("tag").to_numpy()[poll]
            shuffled += [row for tag in rng.permutation(np.unique(tags)) for row in poll[tags == tag].tolist()]
        other = renumbered(stream.take(pa.array(shuffled)))
        assert by_tag(self.run([other]), seq=False) == by_tag(self.run([stream]), seq=False)

    @pytest.mark.parametrize("at", [1, 40, 400, 700])
    def test_a_restored_model_goes_on_bit_for_bit(self, at: int) -> None:
        stream = wild_stream()
        first, second = self.model(), self.model()
        self.run([stream.slice(0, at)], first)
        state = first.snapshot()
        second.restore(state)
        assert second.snapshot() == state
        assert by_tag(self.run([stream.slice(at)], second)) == by_tag(self.run([stream.slice(at)], first))

    def test_tags_may_appear_and_vanish_over_a_restart(self) -> None:
        stream = wild_stream()
        half = stream.num_rows // 2
        old = self.model(range(TAGS))
        self.run([stream.slice(0, half)], old)
        new = self.model([5, 9, 1, 2])
        new.restore(old.snapshot())
        later = by_tag(self.run([stream.slice(half)], new))
        same = by_tag(self.run([stream.slice(half)], old))
        for key, found in later.items():
            assert key[0] in (1, 2, 5)
            assert found == same[key]
        cold = renumbered(plain_stream(polls=4, tags=10))
        told = [row for batch in self.run([cold], new) for row in batch.to_pylist() if row["tag"] == 9]
        assert not self.row_per_reading or [row["score"] for row in told] == [None] * 4

    def test_state_of_others_and_damaged_state_is_refused(self) -> None:
        model = self.model()
        self.run([plain_stream()], model)
        state, before = model.snapshot(), model.snapshot()
        flipped = bytearray(state)
        flipped[len(state) // 2] ^= 1
        for bad in (
            b"",
            b"GBS1",
            state[:-1],
            state[: len(state) // 2],
            bytes(flipped),
            state.replace(self.kind.encode(), b"x" * len(self.kind)),
        ):
            with pytest.raises(StateMismatch):
                model.restore(bad)
        assert model.snapshot() == before

    def test_scores_are_null_until_warm_and_between_0_and_1(self) -> None:
        for batch in self.run([wild_stream()]):
            score = batch.column("score").drop_null().to_numpy()
            assert ((score >= 0) & (score <= 1)).all()
        for batch in self.run([plain_stream()]):
            time = batch.column("time").view(pa.int64()).to_numpy()
            early = batch.filter(pa.array(time < T0 + self.warm_up_us))
            assert early.column("score").null_count == early.num_rows or not self.row_per_reading
            late = batch.filter(pa.array(time > T0 + 30_000_000))
            assert late.column("score").null_count == 0

    def test_each_reading_of_a_watched_tag_has_one_row_in_order(self) -> None:
        stream = plain_stream()
        found = self.run([stream])
        if self.row_per_reading:
            assert [batch.num_rows for batch in found] == [stream.num_rows]
        assert set(pa.Table.from_batches(found, SCORE).column("tag").to_pylist()) <= set(range(TAGS))
        for batch in found:
            assert batch.column("seq").to_pylist() == sorted(batch.column("seq").to_pylist())
            assert set(batch.column("model").to_pylist()) <= {"watch"}

    def test_rows_of_other_tags_ticks_and_no_tags_are_nothing(self) -> None:
        model = self.model()
        foreign = readings([FOREIGN, 10**6, FOREIGN], np.array([1.0, 2.0, 3.0]), T0)
        assert self.run([foreign], model) == []
        assert model.update(self.carry(foreign.slice(0, 0)), T0 + 10**6) == []
        nobody = self.model([])
        assert self.run([plain_stream(polls=3), foreign.slice(0, 0)], nobody) == []
        nobody.restore(nobody.snapshot())

    def test_bad_rows_are_scored_null_and_never_learnt(self) -> None:
        stream = plain_stream()
        rng = np.random.default_rng(2)
        bad = np.flatnonzero(rng.random(stream.num_rows) < 0.2)
        codes = rng.choice([q.BAD, q.BAD_SENSOR_FAILURE, q.BAD_TIMEOUT], len(bad)).astype(np.uint32)
        value = stream.column("value").to_numpy().copy()
        value[bad] = rng.choice([1e6, np.nan, -1e300, np.inf, 1.0], len(bad))
        quality = np.zeros(stream.num_rows, dtype=np.uint32)
        quality[bad] = codes
        tags, time = stream.column("tag").to_numpy(), stream.column("time").view(pa.int64()).to_numpy()
        spoiled = readings(tags, value, time, quality=quality)
        if not self.looks_at_bad:
            rest = stream.filter(pa.array(quality == 0))  # as if the bad rows had never come
            clean = {row["seq"]: row["score"] for batch in self.run([rest]) for row in batch.to_pylist()}
            found = {row["seq"]: row["score"] for batch in self.run([spoiled]) for row in batch.to_pylist()}
            assert {seq: found[seq] for seq in clean if seq not in set(bad.tolist())} == {
                seq: score for seq, score in clean.items() if seq not in set(bad.tolist())
            }
            assert all(found[seq] is None for seq in bad.tolist() if seq in found)

    def test_gated_rows_are_scored_null_and_never_learnt(self) -> None:
        stream = plain_stream(polls=200)
        active = np.ones(stream.num_rows, dtype=bool)
        active[300:480] = False
        value = stream.column("value").to_numpy().copy()
        value[~active] += 500
        tags, time = stream.column("tag").to_numpy(), stream.column("time").view(pa.int64()).to_numpy()
        gated = readings(tags, value, time).append_column("active", pa.array(active))
        other = readings(tags, np.where(active, value, -3.0), time).append_column("active", pa.array(active))
        found = by_tag(self.run(cut(gated, 1)))
        assert {key: [row[4] for row in rows] for key, rows in found.items()} == {
            key: [row[4] for row in rows] for key, rows in by_tag(self.run([other])).items()
        }
        for batch in self.run([gated]):
            shut = batch.filter(pa.array(~active[batch.column("seq").to_numpy()]))
            assert shut.column("score").null_count == shut.num_rows

    def test_late_and_repeated_rows_are_scored_null_and_not_learnt(self) -> None:
        stream = plain_stream()
        order = sorted([*range(stream.num_rows), *range(100, 400, 7)], key=lambda row: row if row < 100 else row + 0.0)
        repeated = renumbered(stream.take(pa.array(order)))
        again = np.flatnonzero(np.diff(order, prepend=-1) == 0)
        clean = [row["score"] for batch in self.run([stream]) for row in batch.to_pylist()]
        found = [row for batch in self.run([repeated]) for row in batch.to_pylist()]
        if self.row_per_reading:
            assert [row["score"] for row in found if row["seq"] in set(again.tolist())] == [None] * len(again)
            assert [row["score"] for row in found if row["seq"] not in set(again.tolist())] == clean

    def test_a_clock_set_back_blinds_it_for_ten_readings_at_most(self) -> None:
        before, after = plain_stream(), plain_stream(seed=8)
        model = self.model()
        self.run([before], model)
        shift = pa.array(after.column("time").view(pa.int64()).to_numpy() - 3_600_000_000).view(pa.timestamp("us", tz="UTC"))
        back = renumbered(after.set_column(0, before.schema.field(0), shift), before.num_rows)
        scores = [row["score"] for batch in self.run([back], model) for row in batch.to_pylist()]
        assert None not in scores[(11 + self.refill) * TAGS :]

    def test_it_survives_extremes_and_goes_on(self) -> None:
        model = self.model()
        self.run([plain_stream()], model)
        extremes = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e99, -1e99, 5e-324, -0.0, 1e-300, 0.0, 0.0])
        n = len(extremes)
        wild = readings([0] * n, extremes, T0 + 10**9 + np.arange(n) * POLL_US, first_seq=10_000)
        for batch in self.run([wild], model):
            assert np.isfinite(batch.column("score").drop_null().to_numpy()).all()
        after = plain_stream(polls=400)
        time = pa.array(after.column("time").view(pa.int64()).to_numpy() + 2 * 10**9).view(pa.timestamp("us", tz="UTC"))
        found = self.run([renumbered(after.set_column(0, after.schema.field(0), time), 20_000)], model)
        assert pa.Table.from_batches(found, SCORE).slice(1800).column("score").null_count == 0

    def test_values_may_come_as_64_bit_integers_and_text_is_no_number(self) -> None:
        n = 60
        whole = np.random.default_rng(0).integers(15, 25, n)
        time = T0 + np.arange(n) * POLL_US
        as_float = by_tag(self.run([readings([0] * n, whole.astype(np.float64), time)]))
        as_integer = self.run([readings([0] * n, [None] * n, time, value_int=whole)])
        assert by_tag(as_integer) == as_float
        text = readings([0] * n, [None] * n, time, text=["x"] * n)
        for batch in self.run([text]):
            assert batch.column("score").null_count == batch.num_rows

    def test_memory_is_bounded_and_stated(self) -> None:
        model = self.model()
        self.run([plain_stream(polls=50)], model)
        small = len(model.snapshot())
        self.run(cut(wild_stream(), 1), model)
        assert abs(len(model.snapshot()) - small) <= 8  # the header's checks, nothing that grows
        many = self.model(range(1000))
        assert len(many.snapshot()) / 1000 <= self.most_bytes_per_tag

    def test_a_million_rows_in_one_batch(self) -> None:
        tags, polls = self.bulk
        rng = np.random.default_rng(0)
        ids = np.tile(np.arange(tags, dtype=np.int32), polls)
        time = np.repeat(T0 + np.arange(polls) * POLL_US, tags)
        batch = with_seq(
            telemetry(time_us=time, tag=ids, value=rng.normal(20, 1, tags * polls), quality=np.zeros(tags * polls, np.uint32)), 0
        )
        found = self.run([batch], self.model(range(tags)))
        assert sum(one.num_rows for one in found) == batch.num_rows or not self.row_per_reading
