"""Readings of several tags become rows of one asset: the quick way and the slow way are one, whatever the batches are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from edge_models.aligned import Aligned, Aligner
from edge_models.slots import decode
from schemas import quality as q
from schemas.errors import StateMismatch
from schemas.kinds import Origin
from tests.conformance.model import T0, cut, readings, wild_stream

S = 1_000_000
GROUPS = ((0, 1, 2), (3,), (4, 5))


def aligner(groups: tuple[tuple[int, ...], ...] = GROUPS, lateness: float = 3.0) -> Aligner:
    return Aligner(groups, every_us=S, lateness_us=round(lateness * S))


def rows(found: list[Aligned], group: int = 0) -> list[tuple[float, int, list[float | None]]]:
    """(seconds, seq, values) of one group."""
    told = []
    for one in found:
        for column in np.flatnonzero(one.groups == group).tolist():
            values = [None if np.isnan(v) else float(v) for v in one.value[:, column]]
            told.append(((int(one.time[column]) - T0) / S, int(one.seq[column]), values))
    return told


def fed(batch: pa.RecordBatch, into: Aligner | None = None) -> list[Aligned]:
    return (into or aligner()).take(decode(batch))


def stream(*told: tuple[int, float, float], **columns: object) -> pa.RecordBatch:
    """(tag, seconds, value) …"""
    return readings(
        [tag for tag, _, _ in told], [value for _, _, value in told], [T0 + round(s * S) for _, s, _ in told], **columns
    )


def test_a_poll_makes_a_row_with_its_last_reading() -> None:
    found = fed(stream((0, 0.0, 1), (1, 0.1, 2), (2, 0.2, 3), (0, 1.0, 4), (2, 1.2, 6), (1, 1.4, 5)))
    assert rows(found) == [(0.2, 2, [1, 2, 3]), (1.4, 5, [4, 5, 6])]


def test_a_row_is_not_made_twice_and_not_forgotten() -> None:
    into = aligner()
    poll = stream((0, 0, 1), (1, 0, 2), (2, 0, 3))
    assert len(rows(fed(poll, into))) == 1
    assert rows(fed(stream((0, 0.5, 9), first_seq=3), into)) == []  # the step has its row
    # Tag 2 is silent: the row comes with the first reading of the next step, and after that nobody waits for it.
    assert rows(fed(stream((0, 1, 10), (1, 1, 20), first_seq=4), into)) == []
    assert rows(fed(stream((0, 2, 11), first_seq=6), into)) == [(1.0, 6, [10, 20, 3])]
    assert rows(fed(stream((1, 2, 21), first_seq=7), into)) == [(2.0, 7, [11, 21, 3])]


def test_what_is_older_than_lateness_is_missing() -> None:
    into = aligner(lateness=1.5)
    fed(stream((0, 0, 1), (1, 0, 2), (2, 0, 3)), into)
    fed(stream((0, 1, 10), (1, 1, 20), first_seq=3), into)
    assert rows(fed(stream((0, 2, 11), (1, 2, 21), first_seq=5), into)) == [(1.0, 5, [10, 20, 3]), (2.0, 6, [11, 21, None])]


def test_bad_readings_are_as_if_they_had_never_come() -> None:
    told = [(0, 0, 1.0), (1, 0, 2.0), (2, 0, 3.0), (0, 1, 4.0), (1, 1, 5.0), (2, 1, 6.0), (0, 2, 7.0), (1, 2, 8.0), (2, 2, 9.0)]
    whole = stream(*told, quality=[0, 0, 0, 0, q.BAD_TIMEOUT, 0, 0, 0, 0])
    assert rows(fed(whole)) == [(0.0, 2, [1, 2, 3]), (1.0, 6, [4, 2, 6]), (2.0, 8, [7, 8, 9])]


def test_groups_do_not_wait_for_each_other() -> None:
    found = fed(stream((0, 0, 1), (3, 0, 30), (4, 0, 40), (5, 0, 50), (1, 0, 2), (2, 0, 3)))
    assert rows(found, 1) == [(0.0, 1, [30, None, None])]
    assert rows(found, 2) == [(0.0, 3, [40, 50, None])]
    assert rows(found, 0) == [(0.0, 5, [1, 2, 3])]


def test_a_clock_set_back_is_followed_after_ten_readings() -> None:
    into = aligner()
    fed(stream(*[(tag, float(s), s) for s in range(100, 110) for tag in (0, 1, 2)]), into)
    back = [(tag, float(s), s) for s in range(20) for tag in (0, 1, 2)]
    found = rows(fed(stream(*back, first_seq=100), into))
    assert [time for time, _, _ in found] == [9.0, *map(float, range(10, 20))]
    replayed = aligner()
    fed(stream(*[(tag, float(s), s) for s in range(100, 110) for tag in (0, 1, 2)]), replayed)
    assert fed(stream(*back, first_seq=100, origin=int(Origin.BACKFILL)), replayed) == []  # old rows are no clock


@pytest.mark.parametrize("seed", range(4))
def test_batches_change_nothing_and_neither_does_the_quick_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = wild_stream(seed)
    whole = [rows(fed(batch), group) for group in range(3)]
    assert all(len(one) > 50 for one in whole)
    for most in (2, 7, 60):
        into = aligner()
        pieces = [one for piece in cut(batch, seed, most) for one in into.take(decode(piece))]
        assert [rows(pieces, group) for group in range(3)] == whole
    monkeypatch.setattr(Aligner, "_odd", lambda *_: np.ones(len(_[1]), dtype=bool))
    assert [rows(fed(batch), group) for group in range(3)] == whole


def test_a_state_goes_with_its_tags() -> None:
    batch = wild_stream()
    old = aligner()
    old.take(decode(batch.slice(0, 400)))
    same, fewer = aligner(), aligner(((5, 4), (2, 0), (9,)))
    assert same.restore(old.arrays()).same
    assert not fewer.restore(old.arrays()).same
    rest = batch.slice(400)
    expected = old.take(decode(rest))
    found = same.take(decode(rest))
    assert [rows(found, group) for group in range(3)] == [rows(expected, group) for group in range(3)]
    assert rows(fewer.take(decode(rest)), 0)[3:] == [(time, seq, [b, a]) for time, seq, (a, b, _) in rows(expected, 2)][3:]
    with pytest.raises(StateMismatch):
        aligner().restore({**old.arrays(), "value": np.zeros((2, 2))})


@pytest.mark.parametrize("seed", range(3))
def test_many_polls_in_one_batch_are_the_rows_of_polls_one_by_one(seed: int) -> None:
    """Wide enough that a batch is taken poll by poll; some tags are missing, some rows late or of another step."""
    rng = np.random.default_rng(seed)
    groups = tuple(tuple(range(at * 6, at * 6 + 6)) for at in range(9))
    tag = np.concatenate([rng.permutation(54)[: rng.integers(40, 55)] for _ in range(40)]).astype(np.int32)
    poll = np.cumsum(np.r_[0, np.diff(np.arange(len(tag)) // 50)])
    time = T0 + poll * S // 2 + rng.integers(0, S // 5, len(tag)) - (rng.random(len(tag)) < 0.02) * S
    batch = readings(tag, rng.normal(size=len(tag)), time)
    whole, pieces = aligner(groups), aligner(groups)
    found = fed(batch, whole)
    one_by_one = [row for at in range(batch.num_rows) for row in fed(batch.slice(at, 1), pieces)]
    for group in range(9):
        assert rows(found, group) == rows(one_by_one, group) != []
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(whole.arrays().values(), pieces.arrays().values(), strict=True)
    )
