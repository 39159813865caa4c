"""Every alert explains itself: the readings before it, what contributed, how far it was from what was expected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_models.alarm_context import FEW, MOST_POINTS, MOST_ROWS, SPAN_US, Recent, series, told
from edge_models.slots import Readings, decode
from schemas.kinds import make_batch
from tests.conformance.model import T0, make_tag, readings
from tests.edge_models.test_alarms import S, layer
from tests.edge_models.test_runtime import build


def rows(tag: list[int], value: list[float | None], second: list[float], first_seq: int = 0, **columns: Any) -> Readings:
    return decode(readings(tag, value, np.array([T0 + round(s * S) for s in second]), first_seq=first_seq, **columns))


def test_an_alert_bears_the_minute_before_it() -> None:
    models = build({}, [make_tag(0)])
    for k in range(200):
        out = models.update(readings([0], [20.0 + k % 3 if k < 150 else 1e4], T0 + k * S, first_seq=k), T0)
        if out.alerts:
            break
    (row, *_) = out.alerts[0].to_pylist()
    found = series(row["context"])
    assert [at for at, _ in found] == [T0 + second * S for second in range(91, 151)]
    assert found[-1] == (T0 + 150 * S, 1e4)
    assert found[-2][1] == 20.0 + 149 % 3
    assert json.loads(row["context"])[-1] == [T0 + 150 * S, 1e4]


def test_nothing_of_what_came_behind_the_row_is_in_it_however_rows_are_cut() -> None:
    whole = readings([0] * 40, [20.0] * 20 + [1e4] * 20, np.array([T0 + s * S for s in range(40)]))
    at_once = build({}, [make_tag(0)]).update(whole, T0).alerts[0].to_pylist()[0]["context"]
    models = build({}, [make_tag(0)])
    one_by_one = [row for k in range(40) for batch in models.update(whole.slice(k, 1), T0).alerts for row in batch.to_pylist()]
    assert at_once == one_by_one[0]["context"]
    assert series(at_once)[-1] == (T0 + 20 * S, 1e4)


def test_bad_readings_are_null_and_many_are_thinned_to_their_extremes() -> None:
    recent = Recent()
    recent.add(rows([0, 0, 0], [1.0, None, 3.0], [0, 1, 2], quality=[0, 0x80000000, 0]))
    assert json.loads(recent.explain([(0, 9, T0 + 2 * S)])[0] or "") == [[T0, 1.0], [T0 + S, None], [T0 + 2 * S, 3.0]]
    value = np.random.default_rng(0).normal(size=60_000)
    value[12_345], value[54_321] = 99.0, -99.0
    found = series(told(T0 + np.arange(60_000) * 1000, value))
    assert len(found) <= MOST_POINTS
    assert {max(v for _, v in found), min(v for _, v in found)} == {99.0, -99.0}
    assert [at for at, _ in found] == sorted({at for at, _ in found})
    assert len(series(told(T0 + np.arange(500), np.full(500, np.nan)))) <= MOST_POINTS


def test_memory_is_bounded_however_fast_readings_come() -> None:
    recent = Recent()
    n = 100_000
    for k in range(12):
        recent.add(rows([0] * n, [1.0] * n, [k * 0.1] * n, first_seq=k * n))
        assert recent.rows <= MOST_ROWS
    recent.add(rows([1] * (MOST_ROWS + 7), [2.0] * (MOST_ROWS + 7), [2.0] * (MOST_ROWS + 7), first_seq=20 * n))
    assert recent.rows == MOST_ROWS
    recent.add(rows([1], [2.0], [70.0], first_seq=99 * n))
    assert recent.rows == 1
    # A part of a large batch must not keep the whole of it.
    whole = readings([0] * n, [1.0] * n, T0 + 80 * S)
    for few in (5, FEW):
        part = decode(whole.slice(10, few))
        recent.add(part)
        assert not any(np.shares_memory(getattr(recent._pieces[-1], name), getattr(part, name)) for name in ("time", "value"))


def test_small_batches_are_kept_together_and_in_order_beside_large_ones() -> None:
    recent = Recent()
    sizes = [3, FEW - 1, 3 * FEW, 1, *([7] * 2_000), FEW, 2]
    value, first = np.arange(float(sum(sizes))), 0
    for n in sizes:
        part = value[first : first + n]
        recent.add(rows([first % 2] * n, part.tolist(), (part * 0.001).tolist(), first_seq=first))
        first += n
    assert recent.rows == first
    assert len(recent._pieces) < 10
    assert [v for piece in recent._pieces for v in piece.value] == value.tolist()
    assert [n for piece in recent._pieces for n in piece.seq] == list(range(first))
    recent.add(rows([0], [-1.0], [100.0], first_seq=first))
    assert recent.rows == 3  # the piece that still grows goes as a whole


def test_a_mass_of_alarms_costs_one_pass() -> None:
    recent = Recent()
    ids = list(range(5000))
    for k in range(60):
        recent.add(rows(ids, [float(k)] * 5000, [k] * 5000, first_seq=k * 5000))
    found = recent.explain([(tag, 10**9, T0 + 59 * S) for tag in ids])
    assert sum(one is not None for one in found) == 100
    assert found[0] is not None
    assert len(series(found[0])) == 60
    assert recent.explain([(10**6, 5, T0), (-1, 5, T0)]) == [None, None]
    assert Recent().explain([(0, 5, T0)]) == [None]


def test_an_alarm_about_an_asset_shows_the_tag_that_contributes_most() -> None:
    made = layer()
    made.remember(rows([0, 1, 0, 1], [1.0, 5.0, 2.0, 6.0], [0, 0, 1, 1]))

    def raised(contributions: str | None) -> dict[str, Any]:
        batch = make_batch(
            "score", 1, time=T0 + S, seq=3, asset="acme/osaka/press", score=0.95, limit=0.9, model="wear", alarm="wear",
            contributions=contributions,
        )  # fmt: skip
        fresh = layer()
        fresh.remember(rows([0, 1, 0, 1], [1.0, 5.0, 2.0, 6.0], [0, 0, 1, 1]))
        found = fresh.update(batch, T0)
        assert found is not None
        row: dict[str, Any] = found.to_pylist()[0]
        return row

    row = raised('{"t0": 0.2, "t1": 0.7, "t9": 0.1}')
    assert row["problem"] == "press is unusual, its score is 0.95 of 1, mostly by t1 and t0"
    assert [value for _, value in series(row["context"])] == [5.0, 6.0]
    assert [v for _, v in series(raised('{"acme/osaka/press/t0": 0.9}')["context"])] == [1.0, 2.0]
    for nothing in (None, "", "{", "[]", '{"elsewhere": 1}', '{"t0": "much"}', "7"):
        assert raised(nothing)["problem"].startswith("press is unusual, its score is 0.95 of 1")


def test_the_context_is_no_part_of_the_state() -> None:
    made = layer()
    before = made.snapshot()
    made.remember(rows([0], [1.0], [0]))
    assert made.snapshot() == before


@pytest.mark.parametrize("context", ["[[1,2.5],[2,null]]", "[]"])
def test_series_is_the_inverse(context: str) -> None:
    found = series(context)
    assert told(np.array([at for at, _ in found], np.int64), np.array([value for _, value in found])) == context


def test_the_span_is_a_minute() -> None:
    assert SPAN_US == 60 * S
