"""The lake's layout: names are a bijection, contained files are passed over, columns never change."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import date
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.kinds import KINDS, SCHEMAS, Kind
from schemas.lake import COLUMNS, SCHEMA_VERSION, TAGS_COLUMNS, ColumnType, LakeFile, date_of, tags_path
from schemas.span import SpoolSpan

SLUG = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@st.composite
def lake_files(draw: st.DrawFn) -> LakeFile:
    first = draw(st.integers(0, 10**16))
    span = SpoolSpan(
        draw(SLUG), draw(st.integers(0, 10**6)), draw(st.sampled_from(KINDS)), first, first + draw(st.integers(0, 10**15))
    )
    return LakeFile(draw(SLUG), draw(st.dates()), span, draw(st.sampled_from(["", "0123456789ab"])))


@given(lake_files())
def test_path_and_parse_are_inverse(file: LakeFile) -> None:
    assert LakeFile.parse(file.path()) == file
    assert not any(part.startswith(("_", ".")) for part in file.path().split("/"))


@pytest.mark.parametrize(
    "path",
    [
        "telemetry/site=a/date=2026-01-01/.tmp-x.parquet",
        "telemetry/site=a/date=2026-01-01/gw-0001-event-00000000000000-00000000000001.parquet",
        "telemetry/site=a/date=2026-13-01/gw-0001-telemetry-00000000000000-00000000000001.parquet",
        "telemetry/site=a/date=20260101/gw-0001-telemetry-00000000000000-00000000000001.parquet",
        "telemetry/site=a/date=2026-01-01/gw-0001-telemetry-00000000000002-00000000000001.parquet",
        "telemetry/date=2026-01-01/site=a/gw-0001-telemetry-00000000000000-00000000000001.parquet",
        "telemetry/gw-0001-telemetry-00000000000000-00000000000001.parquet",
        "nonsense/site=a/date=2026-01-01/gw-0001-nonsense-00000000000000-00000000000001.parquet",
        "tags/site=a/gw.parquet",
    ],
)
def test_other_files_are_not_of_the_lake(path: str) -> None:
    with pytest.raises(ValueError, match=r"not a file of the lake|month must be|not a span"):
        LakeFile.parse(path)


def test_every_kind_has_a_table_with_its_own_row_number() -> None:
    assert set(COLUMNS) == set(KINDS)
    for kind, columns in COLUMNS.items():
        names = [column.name for column in columns]
        assert len(set(names)) == len(names)
        assert names[0] == "time"
        assert names[-3:] == ["gateway", "epoch", "row" if kind in ("score", "health") else "seq"]
        assert {column.type for column in columns} <= set(get_args(ColumnType))
        assert set(SCHEMAS[kind].names) - set(names) <= {"thinned"}
    assert TAGS_COLUMNS[0].name == "tag"


FINGERPRINTS: dict[Kind, str] = {
    "telemetry": "948d33142c14a2df",
    "event": "f82e12913bbdd7c0",
    "score": "206089a2d635d96d",
    "alert": "eac16a5431aaf907",
    "health": "fe8b662c5ea00821",
    "image": "0f2a7e024d3b1ecc",
    "gap": "a2aad3f2f14cb886",
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_fixed_for_ever(kind: Kind) -> None:
    """A change here breaks every lake there is. Append columns, raise SCHEMA_VERSION, and add a fingerprint beside the old one."""
    said = ",".join(f"{column.name}:{column.type}" for column in COLUMNS[kind])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == FINGERPRINTS[kind]
    assert SCHEMA_VERSION == 1


def test_date_of_is_utc_on_both_sides_of_midnight_and_of_1970() -> None:
    assert date_of(1_767_225_600_000_000) == date(2026, 1, 1)
    assert date_of(1_767_225_599_999_999) == date(2025, 12, 31)
    assert date_of(-1) == date(1969, 12, 31)


def test_tags_path() -> None:
    assert tags_path("osaka", "gw-1") == "tags/site=osaka/gw-1.parquet"


def test_importing_the_layout_imports_nothing_heavy() -> None:
    code = "import sys, schemas.lake; print(sorted({'pyarrow', 'numpy', 'polars', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
