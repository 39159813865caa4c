"""Spooled rows become lake tables: nothing lost, sorted by (tag, time, row), the right date, the same for the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sinks.parquet.checksum import checksum
from cloud_sinks.parquet.columns import lake_schema
from cloud_sinks.parquet.rows import Names, partition_days, parts
from schemas.kinds import KINDS, Kind, Origin, make_batch, telemetry, with_seq
from schemas.lake import date_of
from schemas.span import SpoolSpan
from schemas.tags import TagVersion
from tests.conformance.sink import T0, Tags, batch_of

TAGS = Tags("acme/osaka/z", "acme/osaka/a", "acme/osaka/m", "acme/osaka/ü")
DAY = 86_400_000_000
ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 3]),
        st.integers(-2 * DAY, 2 * DAY),
        st.one_of(st.none(), st.floats(allow_nan=False)),
        st.sampled_from(["", "run", None]),
    ),
    min_size=1,
    max_size=40,
)


def batch(rows: list[tuple[int, int, float | None, str | None]], first: int = 0) -> pa.RecordBatch:
    ids, times, values, texts = zip(*rows, strict=True)
    made = telemetry(
        time_us=np.array(times, dtype=np.int64) + T0,
        tag=np.array(ids, dtype=np.int32),
        value=list(values),
        text=list(texts),
    )
    return with_seq(made, first)


def span(rows: int, kind: Kind = "telemetry", first: int = 0) -> SpoolSpan:
    return SpoolSpan("gw-1", 1, kind, first, first + rows - 1)


@given(ROWS, st.integers(1, 39))
@settings(max_examples=150)
def test_every_row_once_sorted_in_its_date_whatever_the_batches(
    rows: list[tuple[int, int, float | None, str | None]], cut: int
) -> None:
    whole = batch(rows)
    batches = [b for b in (whole.slice(0, cut), whole.slice(cut)) if b.num_rows]
    names = Names(TAGS)
    made = list(parts([whole], span(len(rows)), names))
    assert [p.table for p in parts(batches, span(len(rows)), names)] == [p.table for p in made]
    assert [p.date for p in made] == sorted({date_of(T0 + row[1]) for row in rows})
    found = []
    for part in made:
        table = part.table.to_pylist()
        keys = [(row["tag"], row["time"], row["seq"]) for row in table]
        assert keys == sorted(keys)
        assert all(row["time"].date() == part.date for row in table)
        assert part.first_us.tolist() == [
            min(int(r["time"].timestamp() * 1e6 + 0.5) for r in table if r["tag"] == TAGS[i].path) for i in part.ids.tolist()
        ]
        found += table
    found.sort(key=lambda row: row["seq"])
    assert [(row["tag"], row["value"], row["text"]) for row in found] == [(TAGS[r[0]].path, r[2], r[3]) for r in rows]
    assert {(row["gateway"], row["epoch"], row["unit"], row["origin"]) for row in found} == {("gw-1", 1, "Cel", "live")}


@given(ROWS, st.randoms(use_true_random=False))
def test_checksum_is_of_the_rows_and_not_of_their_order(
    rows: list[tuple[int, int, float | None, str | None]], random: object
) -> None:
    (part, *others) = parts([batch([(r[0], 0, r[2], r[3]) for r in rows])], span(len(rows)), Names(TAGS))
    assert not others
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = part.table.take(pa.array(order))
    plain = part.table.cast(lake_schema("telemetry"))
    want = checksum("telemetry", part.table)
    assert checksum("telemetry", shuffled) == want
    assert checksum("telemetry", plain) == want
    assert checksum("telemetry", pa.concat_tables([shuffled.slice(0, 1), shuffled.slice(1)])) == want


@pytest.mark.parametrize(
    "column", ["time", "tag", "value", "value_int", "text", "samples", "quality", "origin", "lag", "count", "seq"]
)
def test_checksum_changes_with_any_value(column: str) -> None:
    def make(changed: bool) -> str:
        values: dict[str, list[object]] = {
            "time": [T0, T0 + 1], "tag": [0, 1], "value": [1.0, None], "value_int": [7, None], "text": ["a", None],
            "samples": [[1.0, 2.0], None], "quality": [0, 0], "origin": [0, 0], "lag": [0, 0], "count": [None, 4],
        }  # fmt: skip
        other: dict[str, object] = {
            "time": T0 + 5, "tag": 2, "value": -1.0, "value_int": 8, "text": "", "samples": [1.0], "quality": 1, "origin": 1, "lag": 1, "count": 5,
        }  # fmt: skip
        if changed and column != "seq":
            values[column][1] = other[column]
        rows = with_seq(make_batch("telemetry", 2, **values), 1 if changed and column == "seq" else 0)
        (part,) = parts([rows], span(2), Names(TAGS))
        return checksum("telemetry", part.table)

    assert make(False) == make(False)
    assert make(False) != make(True)


def test_checksum_tells_swapped_values_and_null_from_zero() -> None:
    def of(*values: float | None) -> str:
        (part,) = parts([batch([(0, 0, v, None) for v in values])], span(len(values)), Names(TAGS))
        return checksum("telemetry", part.table)

    assert len({of(1.0, 2.0), of(2.0, 1.0), of(None, 1.0), of(0.0, 1.0), of(None, None), of(0.0, 0.0), of(-0.0, 0.0)}) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_fits_its_table_also_without_a_tag(kind: Kind) -> None:
    rows = batch_of(kind, 0, 6, TAGS)
    none = rows.set_column(rows.schema.get_field_index("tag"), "tag", pa.array([0, None, 1, None, 2, 3], pa.int32()))
    (part,) = parts([none], span(6, kind), Names(TAGS))
    assert part.table.schema.names == lake_schema(kind).names
    assert part.table.column("tag").to_pylist().count(None) == 2
    assert part.ids.tolist() == [1, 2, 0, 3]
    assert part.table.cast(lake_schema(kind)).num_rows == 6
    last = part.table.schema.names[-1]
    assert sorted(part.table.column(last).to_pylist()) == list(range(6))


def test_reading_number_and_own_row_number_are_two_columns() -> None:
    (part,) = parts([batch_of("score", 3, 2, TAGS)], span(2, "score", 3), Names(TAGS))
    assert sorted(zip(part.table["seq"].to_pylist(), part.table["row"].to_pylist(), strict=True)) == [(1003, 3), (1004, 4)]


def test_an_unknown_tag_id_is_a_bug_and_new_tags_are_noticed() -> None:
    tags = Tags("a/b/c")
    names = Names(tags)
    assert not names.stale
    tags.add("a/b/d")
    assert names.stale
    with pytest.raises(ValueError, match="tag id 1 is not in the registry"):
        list(parts([batch([(1, 0, 1.0, None)])], span(1), names))
    assert list(parts([], span(1), names)) == []


def days(times_us: list[int], lags_ms: list[int] | None) -> list[date]:
    lag = None if lags_ms is None else np.array(lags_ms, dtype=np.int32)
    found = partition_days(np.array(times_us, dtype=np.int64), lag)
    return [date.fromordinal(date(1970, 1, 1).toordinal() + day) for day in found.tolist()]


TODAY = date(2026, 1, 1)
SATURATED = 2**31 - 1


def test_impossible_clocks_go_to_the_day_they_arrived() -> None:
    assert days([T0], [0]) == [TODAY]
    assert days([T0 + 3_600_000_000], [-3_600_000]) == [TODAY], "an hour ahead is a badly set clock, and possible"
    assert days([T0 + 3 * DAY], [-3 * 86_400_000]) == [TODAY], "three days in the future are not"
    assert days([T0 - 40 * DAY], [SATURATED]) == [date(2025, 11, 22)], "late data keeps its date"
    assert days([0, T0], [SATURATED, 5]) == [TODAY, TODAY], "never set, lag saturated: the latest day of the span"
    assert days([T0 + 90 * DAY, T0], [-SATURATED - 1, 0]) == [TODAY, TODAY]
    assert days([0], [SATURATED]) == [date(1970, 1, 1)], "nothing to go by"
    assert days([5, 6], [0, 0]) == [date(1970, 1, 1)] * 2, "the gateway's own clock was never set"
    assert days([0, T0], None) == [TODAY, TODAY]
    assert days([-(2**63)], [0]) == [date.min], "no clock ends the write"
    assert days([2**63 - 1], [0]) == [date.max]


def test_a_span_with_an_unset_clock_makes_no_folder_of_its_own() -> None:
    rows = make_batch("telemetry", 3, time=[T0, 1000, T0 + 5], tag=[0, 1, 2], lag=[0, SATURATED, 0], quality=0, origin=0)
    (part,) = parts([with_seq(rows, 0)], span(3), Names(TAGS))
    assert part.date == TODAY
    assert sorted(t.year for t in part.table["time"].to_pylist()) == [1970, 2026, 2026]


def test_more_tags_than_sixteen_bits() -> None:
    tags = Tags(*(f"a/b/{n:06d}" for n in range(70_000)))
    ids = np.arange(70_000, dtype=np.int32)[::-1].copy()
    rows = telemetry(time_us=T0, tag=ids, value=ids.astype(float), origin=Origin.LIVE)
    (part,) = parts([with_seq(rows, 0)], span(70_000), Names(tags))
    assert part.table["value"].to_pylist() == [float(n) for n in range(70_000)]


def test_late_rows_are_sorted_by_time_within_their_tag() -> None:
    (part,) = parts([batch([(0, 5, 1.0, None), (1, 9, 2.0, None), (0, 3, 3.0, None), (0, 5, 4.0, None)])], span(4), Names(TAGS))
    assert part.table["value"].to_pylist() == [2.0, 3.0, 1.0, 4.0]


class Renamed(Tags):
    """A directory in which the unit of the first tag changed at row 6, and again at row 8."""

    def history(self) -> Iterator[TagVersion]:
        first, *others = self
        yield TagVersion(replace(first, unit="degF"), T0, T0 + 1)
        yield TagVersion(replace(first, unit="K"), T0 + 1, T0 + 1, 6)
        yield TagVersion(first, T0 + 1, None, 8)
        for tag in others:
            yield TagVersion(tag, T0)


def test_rows_keep_the_unit_they_were_read_in_however_late_they_are_written() -> None:
    """By row number, so that a clock that was set back does not matter; times here run backwards."""
    tags = Renamed("acme/osaka/b", "acme/osaka/a")
    rows = telemetry(time_us=T0 + np.arange(12)[::-1].copy(), tag=np.tile(np.array([0, 1], dtype=np.int32), 6), value=1.0)
    (part,) = parts([with_seq(rows, 0)], span(12), Names(tags))
    units = dict(zip(part.table["seq"].to_pylist(), part.table["unit"].to_pylist(), strict=True))
    assert [units[n] for n in range(12)] == ["degF", "Cel", "degF", "Cel", "degF", "Cel", "K", "Cel", "Cel", "Cel", "Cel", "Cel"]


def test_midnight_and_a_leap_second_inside_a_batch() -> None:
    """A leap second is a second that comes twice: the second time it is still the old day, and its rows lie there beside the first."""
    midnight = T0 + DAY
    times = [-500_000, -1, 0, 200_000, -900_000, -1, 0, 300_000]
    rows = batch([(0, DAY + t, float(n), None) for n, t in enumerate(times)])
    made = list(parts([rows], span(len(times)), Names(TAGS)))
    assert [part.date for part in made] == [date(2026, 1, 1), date(2026, 1, 2)]
    found = [[(round(r["time"].timestamp() * 1e6) - midnight, int(r["value"])) for r in part.table.to_pylist()] for part in made]
    assert found == [[(-900_000, 4), (-500_000, 0), (-1, 1), (-1, 5)], [(0, 2), (0, 6), (200_000, 3), (300_000, 7)]]


def test_when_a_tag_was_seen_leaves_impossible_clocks_out() -> None:
    rows = make_batch(
        "telemetry", 4, time=[T0 + 9, 1000, T0 + 5, 10], tag=[0, 0, 0, 1], lag=[0, SATURATED, 0, SATURATED], quality=0, origin=0
    )
    (part,) = parts([with_seq(rows, 0)], span(4), Names(TAGS))
    assert part.table.num_rows == 4
    assert (part.ids.tolist(), part.first_us.tolist(), part.last_us.tolist()) == ([0], [T0 + 5], [T0 + 9])


def test_rows_with_holes_in_their_numbers_keep_them() -> None:
    whole = batch([(n % 3, n, float(n), None) for n in range(30)])
    some = [whole.slice(0, 5), whole.slice(7, 3), whole.slice(20, 10)]
    (part,) = parts(some, span(30), Names(TAGS))
    assert sorted(part.table["seq"].to_pylist()) == [*range(5), 7, 8, 9, *range(20, 30)]
    assert all(row["value"] == row["seq"] for row in part.table.to_pylist())
