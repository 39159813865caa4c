"""The rows that became durable last, kept in memory, so that sinks that keep up cost no disk read and no decompression."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import pyarrow as pa

_BATCH_BYTES: Final = 8 << 10
"""What a batch takes beside its values, in Arrow's and malloc's bookkeeping of some twenty columns: 5.3 kB to 8.5 kB measured, for one
row as for thirty. Not counted, a slow plant's window grows to many times its bound."""


class Recent:
    """A window over the end of one log, bounded in bytes. For the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: list[tuple[int, pa.RecordBatch, int]] = []  # first row, batch, bytes it counts for

    def add(self, first: int, batch: pa.RecordBatch, size: int) -> None:
        """Rows that follow the ones added before. `size` is their decoded size without dull columns."""
        self._items.append((first, batch, size))
        self._bytes += size + _BATCH_BYTES
        dropped = 0
        while self._bytes > self._max_bytes and dropped < len(self._items):
            self._bytes -= self._items[dropped][2] + _BATCH_BYTES
            dropped += 1
        del self._items[:dropped]

    def forget(self, row: int) -> None:
        """Rows before `row` are not on disk any more as they are here."""
        kept = [item for item in self._items if item[0] + item[1].num_rows > row]
        if kept and kept[0][0] < row:
            del kept[0]  # what follows is read from here only from its first row on
        self._items, self._bytes = kept, sum(item[2] + _BATCH_BYTES for item in kept)

    def read(self, first: int, *, end: int, max_rows: int, max_bytes: int) -> list[tuple[int, pa.RecordBatch]] | None:
        """Like `Log.read`; None when the row is not in memory."""
        if not self._items or first < self._items[0][0]:
            return None
        out: list[tuple[int, pa.RecordBatch]] = []
        at = bisect_right(self._items, first, key=lambda item: item[0]) - 1
        for start, batch, size in self._items[at:]:
            skip = max(0, first - start)
            per_row = max(1.0, size / batch.num_rows)
            count = min(batch.num_rows - skip, end - start - skip, max_rows, max(0 if out else 1, int(max_bytes / per_row)))
            if count <= 0:
                break
            out.append((start + skip, batch if count == batch.num_rows else batch.slice(skip, count)))
            max_rows -= count
            max_bytes -= round(count * per_row)
            if skip + count < batch.num_rows:
                break
        return out
