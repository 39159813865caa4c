"""Recordings: the option text, separators, times, gaps and missing values, and messages that help."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.recording import parse_replay, read_recording
from schemas.errors import ConfigError


def write(directory: Path, text: str, encoding: str = "utf-8") -> Path:
    file = directory / "recording.csv"
    file.write_text(text, encoding=encoding)
    return file


@pytest.mark.parametrize(
    ("text", "tag", "file", "column"),
    [
        ("press/temp=run.csv", "press/temp", "run.csv", None),
        ("press/temp=run.csv:value", "press/temp", "run.csv", "value"),
        ("press/temp=data/a=b.CSV:Air temperature [K]", "press/temp", "data/a=b.CSV", "Air temperature [K]"),
        (r"t=C:\data\run.csv", "t", r"C:\data\run.csv", None),
        (r"t=C:\data\run.csv:flow: rate", "t", r"C:\data\run.csv", "flow: rate"),
        ("t=C:/data/run", "t", "C:/data/run", None),
        ("t=C:/data/run:flow", "t", "C:/data/run", "flow"),
        ("t=run.dat:flow", "t", "run.dat", "flow"),
        ("t=12:30/run.csv", "t", "12:30/run.csv", None),
        ("t=12:30/run.csv:v", "t", "12:30/run.csv", "v"),
    ],
)
def test_the_option_is_split_at_the_right_colon(text: str, tag: str, file: str, column: str | None) -> None:
    replay = parse_replay(text, 60.0)
    assert (replay.tag, str(replay.file), replay.column, replay.speed) == (tag, str(Path(file)), column, 60.0)


@pytest.mark.parametrize(
    ("text", "speed"), [("", 1), ("t", 1), ("=a.csv", 1), ("t=", 1), ("t=a.csv:", 1), ("t=a.csv", 0), ("t=a.csv", math.nan)]
)
def test_an_option_that_cannot_be_read_says_how(text: str, speed: float) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_replay(text, speed)
    assert caught.value.hint


@given(st.text(max_size=30))
def test_any_option_is_a_replay_or_a_config_error(text: str) -> None:
    try:
        replay = parse_replay(text)
    except ConfigError:
        return
    assert replay.tag
    assert replay.column is None or replay.column.strip()


def test_times_with_gaps_and_steps_back(tmp_path: Path) -> None:
    rows = [
        "2026-01-01 00:00:00,1.5",
        "2026-01-01 00:05:00,2.5",
        "2026-01-01 02:00:00,3.5",
        "2026-01-01 01:00:00,4.5",
        "whenever,5.5",
    ]
    recording = read_recording(write(tmp_path, "timestamp,value\n" + "\n".join(rows) + "\n\n"))
    assert recording.values == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert recording.times_s == [0, 300, 7200, 7200, 7200]
    assert [recording.row_at(t) for t in (0, 299.9, 300, 7199, 7200, 1e9)] == [0, 0, 1, 1, 4, 4]


def test_missing_values_are_nan_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    file = write(tmp_path, "t,count,flow\n0,9007199254740993,1\n10,NaN,\n20,,inf\n30,-4,NA\n")
    count, flow = read_recording(file, "count"), read_recording(file, "flow")
    assert (count.values[0], type(count.values[0])) == (9007199254740993, int)
    assert [math.isnan(value) for value in count.values] == [False, True, True, False]
    assert [count.real(row) for row in range(4)] == [9007199254740993, 9007199254740993, 9007199254740993, -4]
    assert count.times_s == [0, 10, 20, 30]
    assert [flow.real(row) for row in range(4)] == [1, 1, 1, 1]
    assert read_recording(write(tmp_path, "v\nnan\n2\n")).real(0) == 2


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("datetime;Druck;Fluß\n2026-01-01T00:00:00Z;1,5;7\n2026-01-01T00:00:01Z;2,5;8\n", "Druck"),
        ("\ufefftime\tpressure\tflow\n0\t1.5\t7\n1\t2.5\t8\n", "pressure"),
        ('pressure,"flow, main"\n7,1.5\n8,2.5\n', "flow, main"),
        ("2026 pressure , flow\n1.5,7\n2.5,8\n", "2026 pressure"),
    ],
)
def test_separators_and_quotes(tmp_path: Path, text: str, column: str) -> None:
    recording = read_recording(write(tmp_path, text), column)
    assert recording.values == [1.5, 2.5]
    assert recording.times_s == [0, 1]


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("time,value\n", None, "no rows"),
        ("", None, "no rows"),
        ("time,pressure,flow\n0,1,2\n", None, "pressure, flow"),
        ("time,pressure\n0,1\n", "presure", "did you mean 'pressure'"),
        ("time,pressure\n0,1\n", "x", "it has time, pressure"),
        ("time,pressure\n0,1\n1,high\n", "pressure", "recording.csv:3: pressure is not a number: 'high'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, column: str | None, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recording(write(tmp_path, text), column)
    assert says in str(caught.value)


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_recording(tmp_path / "nothing.csv")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_recording(write(tmp_path, "zeit,wert\n0,é\n", "latin-1"))
