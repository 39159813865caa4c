"""What docs/spool-format.md says is what is in the files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gateway.spool import format as f
from gateway.spool.codec import Decoder, Encoder
from gateway.spool.segment import scan
from schemas.kinds import telemetry

from .conftest import crash, everything, numbers, readings, running, segments, values

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "spool-format.md").read_text(encoding="utf-8")
T0 = 1_767_225_600_000_000


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def example() -> bytes:
    return bytes.fromhex("".join(line.split("  ", 1)[1] for line in block("hex").splitlines()))


def test_the_worked_example_is_a_segment_of_three_rows():
    data = example()
    header, summary = f.unpack_segment_header(data), f.unpack_trailer(data)
    assert header == f.SegmentHeader("telemetry", 1000, 1_767_225_600, T0 + 2_250_000, 1, 13)
    assert summary is not None
    assert (summary.first, summary.next, summary.rows, summary.records) == (1000, 1003, 3, 1)
    assert f.unpack_index(data[summary.index_offset :][: summary.index_length], summary) == scan(data, 0).entries
    found = f.read_record(data, 64)
    assert found is not None
    batch = Decoder().decode("telemetry", *found)
    put = telemetry(time_us=T0 + np.arange(3) * 1_000_000, tag=np.array([7, 7, 7], np.int32), value=np.array([21.5, 21.75, 22.0]))
    assert batch.equals(put)
    again = Encoder(Decoder()).encode("telemetry", [put], 1000, T0 + 2_250_000)
    assert again.record._replace(length=0) == found[0]._replace(length=0)


def test_the_reader_of_the_page_reads_the_example_of_the_page(tmp_path):
    (tmp_path / "example.seg").write_bytes(example())
    (tmp_path / "reader.py").write_text(block("python"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "reader.py", tmp_path / "example.seg"],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["1000 7 21.5", "1001 7 21.75", "1002 7 22.0"], done.stderr


def test_sizes_are_those_of_the_page():
    assert (f.SEGMENT_HEADER_BYTES, f.RECORD_HEADER_BYTES, f.TRAILER_BYTES) == (64, 80, 100)


def test_headers_pack_and_unpack():
    header = f.SegmentHeader("alert", 2**60, 2**40, -5, 3, 23)
    assert f.unpack_segment_header(f.pack_segment_header(header)) == header
    record = f.Record(3, 9, 2**62, 2**32 - 1, 7, 1, 1, 1, 2**63, 1, -1, -(2**62), 2**62)
    assert f.read_record(f.pack_record(record, b"abc") + b"abc", 0) == (record, b"abc")
    assert f.read_record(f.pack_record(record, b"abc") + b"abd", 0) is None


async def test_a_downsampled_record_holds_fewer_rows_than_it_stands_for(open_spool, tmp_path):
    """The seam for thinning old segments: readers and the accounts go by numbers already."""
    spool = await open_spool()
    await spool.ledger.register("telemetry", "lake")
    log = spool._logs["telemetry"]
    for n in range(3):
        await spool.put("telemetry", readings(10, 10 * n))
        await spool.flush()
    one = Encoder(Decoder()).encode("telemetry", [readings(2, 100)], 30, 5)
    thinned = one.record._replace(span=10, flags=f.FLAG_DOWNSAMPLED)
    await spool._writer.run(lambda: log.append([(thinned, one.body)], 5))
    spool._end["telemetry"] = spool._durable["telemetry"] = 40
    await spool.put("telemetry", readings(5, 40))
    await spool.flush()
    crash(spool)
    async with running(open_spool) as again:
        assert again.end("telemetry") == 45
        read = await everything(again)
        assert numbers(read) == [*range(32), *range(40, 45)]
        assert values(read)[30:32] == [100, 101]
        assert numbers(await again.read("telemetry", 31, max_rows=2)) == [31, 40]
        assert numbers(await again.read("telemetry", 35, max_rows=1)) == [40]
        assert await again.read("telemetry", 32, max_rows=5, last=39) == []
        assert again.recovery["telemetry"].missing == []
    assert len(segments(tmp_path / "spool")) == 1


@pytest.mark.parametrize("size", [0, 1, 63])
def test_bytes_that_are_too_short_are_nothing(size):
    assert f.unpack_segment_header(b"G" * size) is None
    assert f.unpack_trailer(b"G" * size) is None
    assert scan(b"G" * size, 0).entries == []
