"""Plans and rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_models.slots import Slots, decode
from schemas import quality as q
from tests.conformance.model import T0, readings


@given(st.lists(st.integers(-1, 12), max_size=60))
def test_rounds_hold_each_own_row_once_in_the_order_of_its_tag(tags: list[int]) -> None:
    slots = Slots([3, 4, 5, 9, 0])
    batch = np.array(tags, dtype=np.int32)
    for _ in range(2):  # the second time from the kept plan
        plan = slots.plan(batch)
        own = [row for row, tag in enumerate(tags) if tag in (3, 4, 5, 9, 0)]
        assert plan.count == len(own)
        rows, order = [], {}
        for part in plan.rounds:
            indices = np.arange(len(tags))[part.rows].tolist()
            at = np.arange(len(slots))[part.at].tolist()
            assert at == part.slots.tolist()
            assert len(set(at)) == len(at)
            assert [own[i] for i in np.arange(len(own))[part.out]] == indices
            assert [int(slots.ids[slot]) for slot in at] == [tags[row] for row in indices]
            rows += indices
            for slot, row in zip(at, indices, strict=True):
                order.setdefault(slot, []).append(row)
        assert sorted(rows) == own
        assert all(found == sorted(found) for found in order.values())


def test_a_poll_of_all_tags_is_one_view() -> None:
    slots = Slots(range(100, 200))
    (part,) = slots.plan(np.arange(100, 200, dtype=np.int32)).rounds
    assert (part.rows, part.at) == (slice(None), slice(0, 100))


def test_a_tag_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each tag once"):
        Slots([1, 2, 1])


def test_decode_knows_what_is_usable() -> None:
    fine = decode(readings([0, 1], np.array([1.0, 2.0]), T0))
    assert fine.usable is None
    odd = decode(readings([0] * 5, [1.0, None, float("nan"), 1e200, 2.0], T0, quality=np.array([0, 0, 0, 0, q.BAD])))
    usable = odd.usable
    assert usable is not None
    assert usable.tolist() == [True, False, False, False, False]


def test_decode_takes_whole_numbers_beside_floats() -> None:
    mixed = decode(readings([0, 1], [1.5, None], T0, value_int=[None, 2**53 + 1], lag=[7, None]))
    assert mixed.value.tolist() == [1.5, float(2**53)]
    assert (mixed.gateway_time() - mixed.time).tolist() == [7000, 0]
