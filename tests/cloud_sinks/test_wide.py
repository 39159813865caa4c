"""`lake.pivot` against a reference in plain Python, and every case by name: gaps, bad quality, units, types, clocks, sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cloud_sinks import lake, wide
from cloud_sinks.align import FOREVER, HOW, How
from cloud_sinks.signals import Signal
from cloud_sinks.wide import Grid, Wide
from schemas import quality as q
from tests.cloud_sinks.lake_rig import START, Lake
from tests.conformance.sink import Tags

TEMP, SPEED, STATE = "acme/osaka/press-1/temp", "acme/osaka/press-1/speed", "acme/osaka/press-1/state"


@dataclass(frozen=True)
class Row:
    """A reading, times in whole units of the grid's µs."""

    time: int
    value: float | None
    quality: int
    seq: int


def reference(
    rows: Sequence[Row], gaps: Sequence[tuple[int, int]], grid: Grid, how: How, tolerance: int, coverage: float
) -> list[float | None]:
    """What `Wide` promises, as a person would work it out: slowly, one cell at a time."""
    newest: dict[int, Row] = {}
    for row in rows:
        if row.time not in newest or newest[row.time].seq < row.seq:
            newest[row.time] = row
    ordered = [newest[time] for time in sorted(newest)]

    def known(row: Row) -> bool:
        return row.quality < q.UNCERTAIN and row.value is not None

    def value_at(moment: int) -> float | None:
        before = [row for row in ordered if row.time <= moment]
        if not before or not known(before[-1]):
            return None
        row = before[-1]
        if row.time == moment:
            return row.value
        carried_into_a_gap = any(start <= moment and end > row.time and start < end for start, end in gaps)
        return None if carried_into_a_gap else row.value

    def at(moment: int) -> float | None:
        before = [row for row in ordered if row.time <= moment]
        return value_at(moment) if before and moment - before[-1].time <= tolerance else None

    cells: list[float | None] = []
    for begin in range(grid.start_us, grid.end_us, grid.every_us):
        end = min(begin + grid.every_us, grid.end_us)
        inside = [row.value for row in ordered if begin <= row.time < end and known(row)]
        if how == "last":
            cells.append(at(begin))
        elif how == "time_weighted":
            held = [at(moment) for moment in range(begin, end)]  # a value that holds at a µs holds for all of it
            for i, moment in enumerate(range(begin, end)):
                before = [row for row in ordered if row.time <= moment]
                if before and (moment - before[-1].time >= tolerance or any(s <= moment < e for s, e in gaps)):
                    held[i] = None
            there = [value for value in held if value is not None]
            cells.append(sum(there) / len(there) if there and len(there) >= coverage * grid.every_us else None)
        elif not inside:
            cells.append(None)
        else:
            numbers = [value for value in inside if value is not None]
            cells.append({"mean": sum(numbers) / len(numbers), "min": min(numbers), "max": max(numbers)}[how])
    return cells


def frame_of(rows: dict[str, list[Row]]) -> pl.LazyFrame:
    flat = [
        {
            "time": datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row.time), "tag": tag, "value": row.value,
            "value_int": None, "text": None, "unit": "Cel", "quality": row.quality, "value_min": None, "value_max": None,
            "count": None, "epoch": 1, "seq": row.seq, "date": datetime.fromtimestamp(0, UTC).date(),
        }
        for tag, each in rows.items()
        for row in each
    ]  # fmt: skip
    types = {
        "time": pl.Datetime("us", "UTC"), "tag": pl.String, "value": pl.Float64, "value_int": pl.Int64, "text": pl.String,
        "unit": pl.String, "quality": pl.Int64, "value_min": pl.Float64, "value_max": pl.Float64, "count": pl.Int32,
        "epoch": pl.Int64, "seq": pl.Int64, "date": pl.Date,
    }  # fmt: skip
    return pl.LazyFrame(flat, schema=types)


_QUALITY = st.sampled_from([q.GOOD, q.GOOD, q.GOOD, q.BAD_TIMEOUT, q.UNCERTAIN])
_VALUE = st.one_of(st.none(), st.integers(-50, 50).map(float), st.just(0.1))
_ROWS = st.lists(st.tuples(st.integers(0, 60), _VALUE, _QUALITY), max_size=12).map(
    lambda rows: [Row(time, value, quality, seq) for seq, (time, value, quality) in enumerate(rows)]
)
_GAPS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)).map(lambda g: (g[0], g[0] + g[1])), max_size=4)


@given(
    rows=st.fixed_dictionaries({"a": _ROWS, "b": _ROWS}),
    gaps=st.fixed_dictionaries({"a": _GAPS, "b": _GAPS}),
    start=st.integers(0, 30),
    length=st.integers(0, 40),
    every=st.integers(1, 13),
    how=st.sampled_from(HOW),
    tolerance=st.integers(0, 30),
    coverage=st.sampled_from([0.0, 0.5, 1.0]),
    cells=st.integers(1, 40),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_cell_is_what_a_person_would_say(
    monkeypatch: pytest.MonkeyPatch,
    rows: dict[str, list[Row]],
    gaps: dict[str, list[tuple[int, int]]],
    start: int,
    length: int,
    every: int,
    how: How,
    tolerance: int,
    coverage: float,
    cells: int,
) -> None:
    monkeypatch.setattr(wide, "_CELLS", cells)  # in slices of every size
    grid = Grid(start, start + length, every)
    missing = pl.DataFrame(
        [(tag, begin, end) for tag, each in gaps.items() for begin, end in each],
        schema={"tag": pl.String, "time": pl.Int64, "end": pl.Int64},
        orient="row",
    )
    made = Wide(
        frame_of(rows), missing, [Signal(tag, tag, "number", "Cel") for tag in "ab"], grid, how=how, tolerance_us=tolerance,
        uncertain=False, coverage=coverage, total=sum(map(len, rows.values())),
    ).collect()  # fmt: skip
    assert made.columns == ["time", "a", "b"]
    assert made["time"].to_physical().to_list() == list(range(start, start + length, every))
    for tag in "ab":
        expected = reference(rows[tag], gaps[tag], grid, how, tolerance, coverage)
        found = made[tag].to_list()
        assert [value is None for value in found] == [value is None for value in expected], (found, expected)
        for one, other in zip(found, expected, strict=True):
            assert one is other or math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)


@pytest.fixture
def plant(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def cells(made: Wide, name: str) -> list[Any]:
    return made.collect()[name].to_list()


def test_the_control_without_gaps_carries_into_them() -> None:
    """The property test can fail: the same rows without the gap give another table."""
    rows = {"a": [Row(0, 1.0, q.GOOD, 0)]}
    grid = Grid(0, 10, 1)
    made = [
        Wide(
            frame_of(rows), pl.DataFrame(gap, schema={"tag": pl.String, "time": pl.Int64, "end": pl.Int64}, orient="row"),
            [Signal("a", "a", "number", "1")], grid, how="last", tolerance_us=100, uncertain=False, coverage=0, total=1,
        ).collect()["a"].to_list()
        for gap in ([], [("a", 5, 7)])
    ]  # fmt: skip
    assert made[0] == [1.0] * 10
    assert made[1] == [1.0] * 5 + [None] * 5
    assert reference(rows["a"], [], grid, "last", 100, 0) != reference(rows["a"], [(5, 7)], grid, "last", 100, 0)


def test_as_of_with_tolerance_bad_rows_and_gaps(plant: Lake) -> None:
    tags = Tags(TEMP, SPEED)
    plant.put(tags, [(0, 0, 1.0), (1, 0, 2.0), (6, 0, 3.0), (0, 1, 50.0)])
    plant.put(tags, [(3, 0, None)], quality=q.BAD_TIMEOUT)
    plant.gap(tags, [(8, 9, 0), (2, 4, None)])  # of the tag, and of the whole adapter
    plant.describe(tags)
    made = lake.pivot(plant.root, tags="**", every="1s", start=at(0), end=at(12), tolerance="4s")
    assert made.units == {SPEED: "Cel", TEMP: "Cel"}
    assert cells(made, TEMP) == [1.0, 2.0, None, None, None, None, 3.0, 3.0, None, None, None, None]
    assert cells(made, SPEED) == [50.0, 50.0, *[None] * 10]
    without = lake.pivot(plant.root, tags=SPEED, every="1s", start=at(5), end=at(8), tolerance="1h")
    assert cells(without, SPEED) == [None] * 3, "nothing is carried over the gap, however long the tolerance"


def test_a_gap_of_another_adapter_or_sink_is_no_gap(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.put(tags, [(0, 0, 1.0)])
    plant.gap(tags, [(1, 2, None)], source="other")
    plant.gap(tags, [(3, 4, None)], source="spool", sink="kinesis")
    plant.gap(tags, [(5, 6, None)], source="spool", sink="lake")
    plant.describe(tags)
    made = lake.pivot(plant.root, start=at(0), end=at(8))
    assert cells(made, TEMP) == [1.0] * 5 + [None] * 3
    assert cells(lake.pivot(plant.root, start=at(0), end=at(8), sink="archive"), TEMP) == [1.0] * 8
    assert lake.gaps(plant.root).select("tag", "cause").rows() == [(TEMP, "not_connected")]


def test_the_lake_knows_the_name_of_the_sink_that_writes_it_by_gateway(plant: Lake) -> None:
    for gateway, path, sink in (("gw-1", TEMP, "archive"), ("gw-2", SPEED, "cold")):
        tags = Tags(path)
        plant.put(tags, [(0, 0, 1.0)], gateway=gateway)
        plant.gap(tags, [(2, 3, None)], source="spool", sink="archive", gateway=gateway)
        plant.describe(tags, gateway=gateway, sink=sink)
    made = lake.pivot(plant.root, start=at(0), end=at(4))
    assert cells(made, TEMP) == [1.0, 1.0, None, None]
    assert cells(made, SPEED) == [1.0] * 4, "what was dropped before another sink is in this lake"


def test_thinned_out_readings_and_lost_rows_of_other_kinds_are_no_gap_of_the_readings(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.put(tags, [(0, 0, 1.0)])
    plant.put(
        tags,
        [(1, 2, None, "spool", "lake", "downsampled"), (3, 4, None, "spool.alert", "lake", "dropped")],
        columns=("time", "end", "tag", "source", "sink", "cause"),
        kind="gap",
    )
    plant.describe(tags)
    assert cells(lake.pivot(plant.root, start=at(0), end=at(5)), TEMP) == [1.0] * 5


def test_a_gap_that_began_long_before_is_seen(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.gap(tags, [(-20 * 86_400, 5, None)])
    plant.put(tags, [(1, 0, 1.0), (6, 0, 2.0)])
    plant.describe(tags)
    assert cells(lake.pivot(plant.root, start=at(0), end=at(8)), TEMP) == [None, 1.0, *[None] * 4, 2.0, 2.0]


def test_windows(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.put(tags, [(0, 0, 10.0), (9, 0, 20.0), (10, 0, 30.0)])
    span: dict[str, Any] = {"start": at(0), "end": at(30), "every": "10s", "tolerance": "12s"}
    assert cells(lake.pivot(plant.root, how="mean", **span), TEMP) == [15.0, 30.0, None]
    assert cells(lake.pivot(plant.root, how="min", **span), TEMP) == [10.0, 30.0, None]
    assert cells(lake.pivot(plant.root, how="max", **span), TEMP) == [20.0, 30.0, None]
    assert cells(lake.pivot(plant.root, how="time_weighted", **span), TEMP) == pytest.approx([11.0, 30.0, 30.0])
    assert cells(lake.pivot(plant.root, how="time_weighted", coverage=0.5, **span), TEMP) == [pytest.approx(11.0), 30.0, None]


def test_downsampled_rows_keep_their_weight_and_their_extremes(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.put(tags, [(0, 0, 10.0, 2.0, 99.0, 9)], columns=("time", "tag", "value", "value_min", "value_max", "count"), origin=3)
    plant.put(tags, [(5, 0, 20.0)])
    span: dict[str, Any] = {"start": at(0), "end": at(10), "every": "10s"}
    assert cells(lake.pivot(plant.root, how="mean", **span), TEMP) == [11.0]
    assert cells(lake.pivot(plant.root, how="min", **span), TEMP) == [2.0]
    assert cells(lake.pivot(plant.root, how="max", **span), TEMP) == [99.0]


def test_integers_and_text_keep_their_type(plant: Lake) -> None:
    tags = Tags(TEMP, SPEED, STATE)
    big = 2**62 + 1
    plant.put(tags, [(0, 0, 1.5)])
    plant.put(tags, [(0, 1, big), (1, 1, big + 1)], columns=("time", "tag", "value_int"))
    plant.put(tags, [(0, 2, "run"), (1, 2, "stop")], columns=("time", "tag", "text"))
    span: dict[str, Any] = {"start": at(0), "end": at(2)}
    made = lake.pivot(plant.root, **span).collect()
    assert made.schema == lake.pivot(plant.root, **span).schema
    assert made.rows() == [
        (START, big, "run", 1.5),
        (START + timedelta(seconds=1), big + 1, "stop", 1.5),
    ]
    mean = lake.pivot(plant.root, how="mean", every="2s", **span)
    assert mean.collect().rows() == [(START, float(big), "run", 1.5)]
    assert lake.pivot(plant.root, how="max", every="2s", **span).collect()[SPEED].to_list() == [big + 1]


def test_a_tag_that_turns_from_number_to_text_has_two_columns(plant: Lake) -> None:
    tags = Tags(STATE)
    plant.put(tags, [(0, 0, 1.0)])
    plant.put(tags, [(2, 0, "stop")], columns=("time", "tag", "text"))
    plant.put(tags, [(3, 0, 4.0, "run")], columns=("time", "tag", "value", "text"))  # an enumeration is a number with a name
    made = lake.pivot(plant.root, start=at(0), end=at(4)).collect()
    assert made[STATE].to_list() == [1.0, 1.0, None, 4.0]
    assert made[f"{STATE} [text]"].to_list() == [None, None, "stop", None]


def test_a_unit_that_changes_is_refused_or_split(plant: Lake) -> None:
    plant.put(Tags(TEMP, unit="bar"), [(0, 0, 1.0), (1, 0, 1.1)])
    plant.put(Tags(TEMP, unit="kPa"), [(2, 0, 120.0), (3, 0, 130.0)])
    with pytest.raises(ValueError, match=rf"{TEMP} changes its unit from bar to kPa within the interval; choose start="):
        lake.pivot(plant.root, start=at(0), end=at(4))
    assert lake.pivot(plant.root, start=at(0), end=at(2)).units == {TEMP: "bar"}
    made = lake.pivot(plant.root, start=at(0), end=at(4), units="split")
    assert made.units == {f"{TEMP} [bar]": "bar", f"{TEMP} [kPa]": "kPa"}
    assert cells(made, f"{TEMP} [bar]") == [1.0, 1.1, None, None], "not carried on as if nothing had happened"
    assert cells(made, f"{TEMP} [kPa]") == [None, None, 120.0, 130.0]


def test_two_spellings_of_a_unit_are_one(plant: Lake) -> None:
    plant.put(Tags(TEMP, unit="Cel"), [(0, 0, 1.0)])
    plant.put(Tags(TEMP, unit="°C"), [(1, 0, 2.0)])
    made = lake.pivot(plant.root, start=at(0), end=at(2))
    assert (made.units, cells(made, TEMP)) == ({TEMP: "Cel"}, [1.0, 2.0])


def test_duplicates_late_rows_and_clocks_that_jump(plant: Lake) -> None:
    tags = Tags(TEMP)
    plant.put(tags, [(0, 0, 1.0), (5, 0, 5.0), (1, 0, 2.0)])  # late
    plant.put(tags, [(5, 0, 6.0)])  # again, corrected
    plant.put(tags, [(-1_700_000_000, 0, 9.0)], lag=2**31 - 1)  # a clock that was never set
    span: dict[str, Any] = {"every": "1s"}
    assert cells(lake.pivot(plant.root, start=at(0), end=at(7), **span), TEMP) == [1.0, 2.0, 2.0, 2.0, 2.0, 6.0, 6.0]
    assert cells(lake.pivot(plant.root, start=at(0), end=at(10), every="10s", how="mean"), TEMP) == [3.0]
    unbounded = lake.pivot(plant.root, **span).collect()
    assert (unbounded["time"][0], unbounded.height) == (START, 6), "from the first sane reading to the last"


def test_several_sites_and_gateways(plant: Lake) -> None:
    kyoto = TEMP.replace("osaka", "kyoto")
    plant.put(Tags(TEMP), [(0, 0, 1.0)])
    plant.put(Tags(TEMP), [(1, 0, 2.0)], gateway="gw-2")  # took over
    plant.put(Tags(kyoto), [(0, 0, 7.0)], site="kyoto", gateway="gw-3")
    made = lake.pivot(plant.root, tags="press-1/temp", start=at(0), end=at(2)).collect()
    assert made.columns == ["time", kyoto, TEMP]
    assert made[TEMP].to_list() == [1.0, 2.0]
    assert lake.pivot(plant.root, sites="kyoto", start=at(0), end=at(2)).collect().columns == ["time", kyoto]


def test_an_empty_result_has_the_right_columns(plant: Lake) -> None:
    tags = Tags(TEMP, SPEED)
    plant.put(tags, [(0, 0, 1.0), (0, 1, 2.0)])
    plant.describe(tags)
    made = lake.pivot(plant.root, tags="**/temp", start=at(5000), end=at(5003))
    assert made.units == {TEMP: "Cel"}
    frame = made.collect()
    assert frame.schema == {"time": pl.Datetime("us", "UTC"), TEMP: pl.Float64}
    assert frame[TEMP].to_list() == [None] * 3
    assert lake.pivot(plant.root, tags="**/temp", start=at(5), end=at(5)).collect().schema == frame.schema
    assert lake.pivot(plant.root / "nothing").collect().columns == ["time"]


def test_a_silent_tag_has_a_column_of_its_type_and_a_waveform_none(plant: Lake) -> None:
    plant.put(Tags(TEMP), [(0, 0, 1.0)])
    plant.describe(Tags(TEMP))
    plant.describe(Tags(SPEED, value_type="integer"), gateway="gw-2")
    plant.describe(Tags(STATE, value_type="samples"), gateway="gw-3")
    made = lake.pivot(plant.root, start=at(0), end=at(1)).collect()
    assert made.schema == {"time": pl.Datetime("us", "UTC"), SPEED: pl.Int64, TEMP: pl.Float64}


def test_uncertain_readings_count_where_that_is_asked_for(plant: Lake) -> None:
    plant.put(Tags(TEMP), [(0, 0, 1.0)], quality=q.UNCERTAIN_LAST_USABLE_VALUE)
    assert cells(lake.pivot(plant.root, start=at(0), end=at(1)), TEMP) == [None]
    assert cells(lake.pivot(plant.root, start=at(0), end=at(1), uncertain=True), TEMP) == [1.0]


def test_units_travel_into_arrow_and_parquet(plant: Lake, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    plant.put(Tags(TEMP), [(0, 0, 1.0)])
    pq.write_table(lake.pivot(plant.root, start=at(0), end=at(1)).to_arrow(), tmp_path / "wide.parquet")
    about = pq.read_schema(tmp_path / "wide.parquet").field(TEMP).metadata
    assert {name: about[name].decode() for name in (b"tag", b"unit", b"unit_display")} == {
        b"tag": TEMP, b"unit": "Cel", b"unit_display": "°C",
    }  # fmt: skip


def test_slices_are_the_whole(plant: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = Tags(TEMP, SPEED)
    plant.put(tags, [(i * 3600, i % 2, float(i)) for i in range(100)])  # over four days and a bit
    span: dict[str, Any] = {"start": at(0), "end": at(100 * 3600), "every": "10m", "tolerance": "90m"}
    whole = lake.pivot(plant.root, **span)
    monkeypatch.setattr(wide, "_CELLS", 100)
    sliced = list(lake.pivot(plant.root, **span).batches())
    assert len(sliced) >= 12
    assert_frame_equal(whole.collect(), pl.concat(sliced))


def test_files_that_are_merged_while_it_reads(plant: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = Tags(TEMP)
    for first in range(0, 40, 10):
        plant.put(tags, [(first + i, 0, float(first + i)) for i in range(10)])
    monkeypatch.setattr(wide, "_CELLS", 5)
    batches = lake.pivot(plant.root, start=at(0), end=at(40)).batches()
    rows = [next(batches)]
    sources = sorted(plant.root.glob("telemetry/*/*/*.parquet"))
    Lake(plant.root).put(
        tags, [(i, 0, float(i)) for i in range(40)]
    )  # the same rows as one file, as `genba lake compact` leaves them
    for path in sources:
        path.unlink()
    rows += batches
    assert pl.concat(rows)[TEMP].to_list() == [float(i) for i in range(40)]


def test_mistakes_say_the_way_out(plant: Lake) -> None:
    plant.put(Tags(TEMP), [(0, 0, 1.0), (10 * 365 * 86_400, 0, 1.0)])
    for wrong, said in (
        ({"every": "soon"}, "write it like 500ms, 1s"),
        ({"every": "0s"}, "longer than nothing"),
        ({"tolerance": "-1s"}, "no time span"),
        ({"how": "median"}, "known are last, mean"),
        ({"units": "convert"}, "known are refuse, split"),
        ({"start": "2026-03-01"}, "no time zone"),
        ({"start": "0001-01-01T00:00:00+09:00"}, "outside the calendar"),
        ({}, "315,360,001 rows, 1 s apart; give start= and end="),
    ):
        with pytest.raises(ValueError, match=said):
            lake.pivot(plant.root, **wrong)  # type: ignore[arg-type]
    many = Tags(*(f"acme/osaka/a/{n}" for n in range(10_001)))
    plant.describe(many)
    with pytest.raises(ValueError, match="10,002 tags fit, and a wide table has at most 10,000 columns"):
        lake.pivot(plant.root, start=at(0), end=at(1))
    assert FOREVER > 2**61
