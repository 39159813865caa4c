"""The rows kept in memory are bounded by what they really take, however small the batches are."""

from __future__ import annotations

from gateway.spool.recent import Recent
from tests.gateway.spool.conftest import readings


def test_batches_of_one_row_do_not_fill_memory_with_their_own_bookkeeping():
    recent = Recent(4 << 20)
    for row in range(3_000):
        recent.add(row, readings(1, row), 200)
    held = [row for row in range(3_000) if recent.read(row, end=3_000, max_rows=1, max_bytes=1 << 20) is not None]
    assert held == list(range(held[0], 3_000))  # the newest, without a hole
    assert 300 < len(held) <= 512  # 200 bytes of values each, and 8 kB beside them


def test_what_is_forgotten_makes_room_again():
    recent = Recent(1 << 20)
    for row in range(100):
        recent.add(row, readings(1, row), 200)
    recent.forget(90)
    for row in range(100, 200):
        recent.add(row, readings(1, row), 200)
    assert recent.read(90, end=200, max_rows=200, max_bytes=1 << 20) is not None
