"""Labels: the files that people write, their mistakes, and verdicts of a lake."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateway.jobs.labels import Label, Labels, read, resolved
from schemas.errors import ConfigError
from tests.conformance.model import make_tag

EIGHT = int(datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp() * 1e6)
HOUR = 3_600_000_000


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_parquet_and_json_say_the_same(tmp_path: Path) -> None:
    text = "tag;start;end;note\npress/temp;2026-03-01T08:00:00Z;2026-03-01 18:00:00+09:00;hot\n"
    table = pa.table({"tag": ["press/temp"], "start": [datetime(2026, 3, 1, 8, tzinfo=UTC)], "end": [EIGHT / 1e6 + 3600]})
    pq.write_table(table, tmp_path / "l.parquet")
    made = json.dumps([{"tag": "press/temp", "start": "2026-03-01T08:00:00Z", "end": (EIGHT + HOUR) // 1000}])
    for path in (
        written(tmp_path / "l.csv", text), tmp_path / "l.parquet", written(tmp_path / "l.json", made)
    ):  # fmt: skip
        found = read(path)
        assert found.complete
        (one,) = found.labels
        assert (one.subject, one.start_us, one.end_us, one.real) == ("press/temp", EIGHT, EIGHT + HOUR, True), path


def test_times_without_an_offset_are_on_the_clocks_of_the_zone(tmp_path: Path) -> None:
    path = written(tmp_path / "l.csv", "asset,start,end,verdict\npress,2026-03-01 17:00,2026-03-01 18:00,false\n")
    (one,) = read(path, ZoneInfo("Asia/Tokyo")).labels
    assert (one.start_us, one.end_us, one.real) == (EIGHT, EIGHT + HOUR, False)
    assert read(path).labels[0].start_us == EIGHT + 9 * HOUR


@pytest.mark.parametrize(
    ("name", "text", "where", "says"),
    [
        ("l.csv", "tag,begin,end\n", "l.csv", "no column `start`"),
        ("l.csv", "tga,start,end\n", "l.csv", "no column `tag` (did you mean 'tga'?)"),
        ("l.csv", "", "l.csv", "no column `start`"),
        ("l.csv", "tag,start,end\n", "l.csv", "no label is in it"),
        ("l.csv", "tag,start,end\na,1,2\n,3,4\n", "l.csv:3", "neither `tag` nor `asset`"),
        ("l.csv", "tag,start,end\na,1,2\nb,yesterday,4\n", "l.csv:3", "`start` is 'yesterday', which is no time (write it like"),
        ("l.csv", "tag,start,end\na,1,\n", "l.csv:2", "`end` is '', which is no time"),
        ("l.csv", "tag,start,end\na,4,2\n", "l.csv:2", "`end` is before `start`"),
        ("l.csv", "tag,start,end\na,1,nan\n", "l.csv:2", "`end` is 'nan', which is no time"),
        ("l.csv", "tag,start,end\na,1,2,3\n", "l.csv:2", "more cells than columns"),
        ("l.csv", "tag,start,end,verdict\na,1,2,maybe\n", "l.csv:2", "`verdict` is 'maybe' (write real or false"),
        ("l.json", '[{"tag": "a",\n "start" 1}]', "l.json:2:10", "no JSON"),
        ("l.json", '{"tag": "a"}', "l.json", "labels are a list"),
        ("l.json", '[{"tag": "a", "start": 1, "end": 2}, 7]', "l.json, entry 2", "a label is an object"),
        ("l.json", '[{"tag": "a", "start": true, "end": 2}]', "l.json, entry 1", "`start` is True"),
        ("l.parquet", "no parquet", "l.parquet", "cannot read"),
    ],
)
def test_mistakes_name_the_place_and_the_way_out(tmp_path: Path, name: str, text: str, where: str, says: str) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    told = str(caught.value)
    assert f"{tmp_path / where}" in told
    assert says in told
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read(tmp_path / "absent.csv")


def test_what_a_label_is_about() -> None:
    tags = [make_tag(0), make_tag(1), make_tag(2, asset="acme/osaka/press/pump")]

    def about(subject: str) -> tuple[set[int], set[str]]:
        (one,) = resolved(Labels([Label(subject, 0, 1, where="l.csv:2")]), tags)
        return set(one.tags), set(one.assets)

    assert about("acme/osaka/press/t1") == ({1}, {"acme/osaka/press"})
    assert about("press/t1") == ({1}, {"acme/osaka/press"})
    assert about("acme/osaka/press") == ({0, 1, 2}, {"acme/osaka/press", "acme/osaka/press/pump"})
    assert about("press/pump/*") == ({2}, {"acme/osaka/press/pump"})
    with pytest.raises(ConfigError, match=r"l.csv:2: nothing in the recording is called 'acme/osaka/pres'.*did you mean"):
        about("acme/osaka/pres")
