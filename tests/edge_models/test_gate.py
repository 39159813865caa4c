"""Conditions and the gate that follows them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_models.gate import Comparison, Gate, parse
from edge_models.slots import decode
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.tags import Tag
from tests.conformance.model import T0, make_tag, readings

MODE = {0: "idle", 1: "run", 2: "fault"}


def truth_of(text: str, **values: bool) -> bool:
    """Evaluates with each comparison `name == 1` taken from `values`."""
    condition = parse(text)
    row = [values[comparison.tag] == (comparison.op == "==") for comparison in condition.comparisons]
    return bool(condition.evaluate(np.array([row]))[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mode == run", Comparison("mode", "==", "run")),
        ("mode=='in run'", Comparison("mode", "==", "in run")),
        ("speed >= -1.5e3", Comparison("speed", ">=", -1500.0)),
        ("clutch != true", Comparison("clutch", "!=", True)),
        ('"or" == 3', Comparison("or", "==", 3.0)),
        ("モード == 運転", Comparison("モード", "==", "運転")),
        ("3phase < .5", Comparison("3phase", "<", 0.5)),
        ("not speed > 5", Comparison("speed", "<=", 5.0)),
    ],
)
def test_one_comparison(text: str, expected: Comparison) -> None:
    assert parse(text).comparisons == (expected,)


def test_names_are_told_once_in_order() -> None:
    assert parse("b == 1 or a > 2 and b < 3").names == ("b", "a")


@given(st.tuples(*[st.booleans()] * 3))
def test_and_binds_tighter_than_or_and_not_tightest(values: tuple[bool, bool, bool]) -> None:
    a, b, c = values
    said = {"a": a, "b": b, "c": c}
    assert truth_of("a == 1 or b == 1 and c == 1", **said) == (a or (b and c))
    assert truth_of("(a == 1 or b == 1) and c == 1", **said) == ((a or b) and c)
    assert truth_of("not a == 1 and b == 1", **said) == (not a and b)
    assert truth_of("not (a == 1 or not (b == 1 and c == 1))", **said) == (not (a or not (b and c)))


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 1, "missing at the end"),
        ("mode", 5, "a comparison behind 'mode' is missing"),
        ("mode = run", 6, "cannot be read"),
        ("mode == ", 9, "a value behind '==' is missing"),
        ("mode == run or", 15, "the name of a tag is missing"),
        ("mode == run clutch == 1", 13, "'clutch' is not expected"),
        ("(mode == run", 13, "`)` is missing"),
        ("mode == run)", 12, "')' is not expected"),
        ("mode < run", 8, "has no order"),
        ("5 == mode", 1, "the name of a tag expected"),
        ("mode == (1)", 9, "a number, a text"),
        ("(" * 40 + "a == 1" + ")" * 40, 31, "parentheses"),
    ],
)
def test_what_cannot_be_read_names_the_position_and_the_way_out(text: str, position: int, says: str) -> None:
    with pytest.raises(ValueError, match=r"write it like: mode == run") as caught:
        parse(text)
    assert f"position {position}:" in str(caught.value)
    assert says in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse(text)
    except ValueError:
        return
    assert condition.names
    assert condition.evaluate(np.zeros((1, len(condition.comparisons)), dtype=bool)).shape == (1,)


PRESS, DRILL = "acme/osaka/press", "acme/osaka/drill"
TAGS = [
    make_tag(0, name="vibration", asset=PRESS),
    make_tag(1, name="mode", asset=PRESS, enum=MODE),
    make_tag(2, name="vibration", asset=DRILL),
    make_tag(3, name="mode", asset=DRILL, enum=MODE),
    make_tag(4, name="program", asset=PRESS, value_type="text"),
    make_tag(5, name="program", asset=DRILL, value_type="text"),
]
WATCHED = [TAGS[0], TAGS[2]]


def gate(text: str, tags: list[Tag] | None = None) -> Gate:
    return Gate(parse(text), WATCHED, tags or TAGS, where="models.m.active_when")


def test_the_gate_follows_the_rows_of_each_asset_in_order() -> None:
    g = gate("mode == run")
    rows = readings([0, 1, 0, 2, 3, 2, 0, 1, 0], [1.0, 1, 1, 1, 1, 1, 1, 0, 1], T0 + np.arange(9))
    assert g.active(decode(rows))[[0, 2, 3, 5, 6, 8]].tolist() == [False, True, False, True, True, False]
    later = readings([0, 2], [1.0, 1], T0 + 20)
    assert g.active(decode(later)).tolist() == [False, True]


def test_cuts_change_nothing_and_the_truth_is_its_whole_state() -> None:
    rng = np.random.default_rng(0)
    n = 400
    tag = rng.integers(0, 4, n)
    value = np.where(tag % 2, rng.integers(0, 3, n), 1).astype(float)
    rows = readings(tag.astype(np.int32), value, T0 + np.arange(n), quality=np.where(rng.random(n) < 0.1, q.BAD, 0))
    whole = gate("mode == run or mode == fault").active(decode(rows))
    g, found = gate("mode == run or mode == fault"), []
    stays, known = gate("mode == run or mode == fault"), []  # remembers what it has tested
    for at in range(0, n, 7):
        found += g.active(decode(rows.slice(at, 7))).tolist()
        known += stays.active(decode(rows.slice(at, 7))).tolist()
        fresh = gate("mode == run or mode == fault")
        fresh.restore(g.truth)
        assert fresh.signature == g.signature
        g = fresh
    assert found == known == whole.tolist()
    assert 0 < whole.sum() < n


def test_unknown_and_bad_are_inactive_whatever_the_condition_says() -> None:
    for text in ("mode == run", "mode != fault", "not mode == fault"):
        g = gate(text)
        assert not g.active(decode(readings([0], [1.0], T0))).any()
        assert g.active(decode(readings([1, 0], [1.0, 1.0], T0))).tolist() == [False, True]
        bad = readings([1, 0], [None, 1.0], T0, quality=np.array([q.BAD_TIMEOUT, 0]))
        assert not g.active(decode(bad)).any()


def test_texts_numbers_and_booleans() -> None:
    g = gate("program == weld-217 or mode >= 2")
    said = readings([4, 0], [None, 1.0], T0, text=["weld-217", None])
    assert g.active(decode(said)).tolist() == [False, True]
    assert g.active(decode(readings([4, 0], [None, 1.0], T0, text=["other", None]))).tolist() == [False, False]
    assert g.active(decode(readings([1, 0], [2.0, 1.0], T0))).tolist() == [False, True]
    b = gate("mode == true")
    assert b.active(decode(readings([1, 0], [1.0, 1.0], T0))).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [("moed == run", "has no tag 'moed'"), ("mode == running", "is never 'running'"), ("vibration == fast", "is a number")],
)
def test_what_can_never_hold_is_told_when_it_is_built(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        gate(text)
    assert caught.value.where == "models.m.active_when"
    assert caught.value.hint


def test_a_state_of_another_shape_leaves_everything_unknown() -> None:
    g = gate("mode == run")
    g.restore(np.ones((7, 1), dtype=bool))
    assert not g.active(decode(readings([0, 2], [1.0, 1.0], T0))).any()
