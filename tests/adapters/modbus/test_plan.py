"""The planner covers every point exactly once, in few requests, within the limits, and never across a cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.modbus.budget import requests_of
from adapters.modbus.config import ModbusConfig, check
from adapters.modbus.plan import Cut, Point, Span, blocks_of, cuts_of, halves, points_of, scan_classes
from schemas.errors import ConfigError
from tests.adapters.modbus.points import one_block, point
from tests.conformance.adapter import bind

kinds = st.sampled_from(["int16", "float32", "float64", "string[20]", "string[7]"])
registers = st.builds(
    point, st.integers(0, 600), kinds, unit=st.integers(1, 2), function=st.sampled_from([3, 4]), most=st.integers(10, 125)
)
bits = st.builds(point, st.integers(0, 5000), st.just("bool"), function=st.sampled_from([1, 2]))
points = st.lists(registers | bits, min_size=1, max_size=80)


@given(points, st.none() | st.integers(0, 50), st.sets(st.integers(0, 600), max_size=5), st.sets(st.integers(0, 79), max_size=10))
def test_every_point_is_in_one_block_that_the_device_can_answer(
    points: list[Point], max_gap: int | None, addresses: set[int], without: set[int]
) -> None:
    cuts = [Cut(unit, function, address) for address in addresses for unit in (1, 2) for function in (3, 4)]
    blocks = blocks_of(points, without=without, cuts=cuts, max_gap=max_gap)
    covered = sorted(member for block in blocks for member in block.members)
    assert covered == [position for position in range(len(points)) if position not in without]
    for block in blocks:
        assert block.span.length <= min(points[member].most for member in block.members)
        assert all(block.span.holds(points[member].span) for member in block.members)
        assert block.span.start == min(points[member].span.start for member in block.members)
        assert block.span.end == max(points[member].span.end for member in block.members)
        for cut in cuts:
            if block.span[:2] == cut[:2] and block.span.start < cut.address < block.span.end:
                assert any(points[member].span == block.span for member in block.members), "only a single value may lie across"
        if max_gap is not None:
            ends = block.span.start
            for member in block.members:
                assert points[member].span.start - ends <= max_gap * (16 if block.span.is_bits else 1)
                ends = max(ends, points[member].span.end)
    assert [block.span for block in blocks] == sorted(block.span for block in blocks)


@given(st.lists(st.builds(point, st.integers(0, 2000), st.sampled_from(["int16", "float32"])), min_size=1, max_size=60))
def test_no_plan_of_neighbours_needs_fewer_requests(points: list[Point]) -> None:
    """Left to right, each block as long as it can be, is the minimum for spans on a line: each block starts where the last must end."""
    blocks = blocks_of(points)
    for before, after in itertools.pairwise(blocks):
        first = points[after.members[0]].span
        assert max(before.span.end, first.end) - before.span.start > 125


@given(points)
def test_halving_ends_at_single_points_and_loses_none(points: list[Point]) -> None:
    for block in blocks_of(points):
        pending, seen = [block], list[int]()
        while pending:
            part = pending.pop()
            both = halves(part, points)
            if both is None:
                seen += part.members
                continue
            left, right = both
            assert left.span.end <= right.span.start
            assert left.members + right.members == part.members
            pending += both
        assert sorted(seen) == sorted(block.members)


def test_ten_thousand_floats_are_162_requests() -> None:
    assert len(blocks_of([point(2 * n, "float32") for n in range(10_000)])) == 162


def test_units_tables_and_limits_are_kept_apart() -> None:
    spans = [
        block.span
        for block in blocks_of(
            [
                point(0),
                point(124),
                point(125),
                point(3, unit=2),
                point(0, function=4),
                point(7, "bool", function=1),
                point(1999, "bool", function=1),
                point(2007, "bool", function=1),
            ]
        )
    ]
    assert spans == [
        Span(1, 1, 7, 1993),
        Span(1, 1, 2007, 1),
        Span(1, 3, 0, 125),
        Span(1, 3, 125, 1),
        Span(1, 4, 0, 1),
        Span(2, 3, 3, 1),
    ]
    assert [span.answer_bytes for span in spans] == [250, 1, 250, 2, 2, 2]


def test_halves_of_what_overlaps_stay_together() -> None:
    overlapping = [point(0, "float32"), point(1, "float32"), point(5)]
    block = one_block(overlapping)
    both = halves(block, overlapping)
    assert both is not None
    assert [part.span for part in both] == [Span(1, 3, 0, 3), Span(1, 3, 5, 1)]
    assert halves(both[0], overlapping) is None


def configure(**more: Any) -> ModbusConfig:
    tags = {"a": {"address": "hr:0", "type": "float32"}, "b": {"address": "di:9", "type": "bool", "scan": "100ms"}}
    return ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h:502", "tags": tags} | more)


def test_scan_classes_hold_their_own_tags_fastest_first() -> None:
    config = configure()
    tags = bind("press", config)
    fast, slow = scan_classes(tags, points_of(config, tags))
    assert (fast.period_us, fast.positions, fast.points[0].span) == (100_000, (1,), Span(1, 2, 9, 1))
    assert (slow.period_us, slow.positions, slow.points[0].span) == (1_000_000, (0,), Span(1, 3, 0, 2))


def test_limits_and_units_are_those_of_the_device() -> None:
    wide = {"address": "hr:0", "type": "string[20]"}
    config = configure(devices={"x": {"unit_id": 9, "max_registers": 10, "max_bits": 8, "tags": {"t": wide}}}, order="CDAB")
    (only,) = points_of(config, bind("bus", config))
    assert (only.span, only.most, only.order) == (Span(9, 3, 0, 10), 10, "CDAB")
    config = configure(devices={"x": {"max_registers": 9, "tags": {"t": wide}}})
    with pytest.raises(ConfigError, match="max_registers is 9"):
        points_of(config, bind("bus", config))


TAGS = {f"w{n}": {"address": f"hr:{n}", "type": "uint16"} for n in (90, 99, 121, 130)}


def skipping(tags: dict[str, Any] = TAGS, **more: Any) -> ModbusConfig:
    return ModbusConfig.model_validate({"kind": "modbus", "endpoint": "tcp://h", "tags": tags, "skip": ["hr:100-120"]} | more)


def test_what_is_skipped_lies_in_no_request_and_the_explanation_says_so() -> None:
    config = skipping()
    planned = [(request.fields["start"], request.fields["count"]) for request in requests_of(config, bind("x", config))]
    assert planned == [(90, 10), (121, 10)]
    assert len(requests_of(skipping(skip=[]), bind("x", config))) == 1, "without it one request reads all"


def test_a_tag_in_what_is_skipped_is_an_error_of_check_and_of_the_plan() -> None:
    for address, kind in (("hr:100", "uint16"), ("hr:99", "float32"), ("40121.3", "bool")):
        config = skipping({"t": {"address": address, "type": kind}})
        (finding,) = check(config)
        assert (finding.level, finding.loc) == ("error", ("tags", "t", "address"))
        with pytest.raises(ConfigError, match="never read"):
            points_of(config, bind("x", config))
    assert (
        list(check(skipping({"t": {"address": "hr:121", "type": "uint16"}, "i": {"address": "ir:105", "type": "uint16"}}))) == []
    )


def test_what_a_device_skips_is_its_own_or_the_connection_s() -> None:
    devices = {"a": {"unit_id": 1, "tags": TAGS}, "b": {"unit_id": 2, "tags": TAGS, "skip": ["hr:125", "di:0x10-0x20"]}}
    config = skipping({}, devices=devices)
    assert cuts_of(config) == {Cut(1, 3, 100), Cut(2, 3, 125), Cut(2, 2, 16)}


@pytest.mark.parametrize("wrong", ["hr", "hr:5-1", "xx:1-2", "hr:1-70000", "100-120"])
def test_what_cannot_be_skipped_is_told(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"write it like hr:100-120|lower one first|unknown table"):
        skipping(skip=[wrong])


@given(points, st.lists(st.tuples(st.integers(0, 600), st.integers(1, 60)), max_size=4))
def test_no_request_touches_what_is_skipped(points: list[Point], skips: list[tuple[int, int]]) -> None:
    free = [p for p in points if not any(p.span.start < start + n and start < p.span.end for start, n in skips)]
    cuts = [Cut(unit, function, start) for start, _ in skips for unit in (1, 2) for function in (1, 2, 3, 4)]
    for block in blocks_of(free, cuts=cuts):
        assert not any(block.span.start < start + n and start < block.span.end for start, n in skips)
