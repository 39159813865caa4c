"""A gateway with a fault: its lakes say that rows are durable before they are. `python tests/chaos/early.py run plant.yaml`.

The control of the day: with this, the check must find rows missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pyarrow as pa

from cloud_sinks.parquet.sink import ParquetSink
from gateway.cli import main
from schemas.span import SpoolSpan


def acknowledge_first() -> None:
    """Replace what writes by what says yes at once, and writes half a second later."""
    write = ParquetSink._write

    def later(self: ParquetSink, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        def work() -> None:
            time.sleep(0.5)
            write(self, batches, span)

        threading.Thread(target=work, daemon=True).start()

    ParquetSink._write = later  # type: ignore[method-assign]


if __name__ == "__main__":
    acknowledge_first()
    main()
