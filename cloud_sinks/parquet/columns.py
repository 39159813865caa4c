"""The lake's columns as Arrow types, and how each is encoded in a file."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from schemas.kinds import TIME, Origin
from schemas.lake import COLUMNS, TAGS_COLUMNS, Column

if TYPE_CHECKING:
    from schemas.kinds import Kind

_TYPES: Final[dict[str, pa.DataType]] = {
    "time": TIME,
    "text": pa.string(),
    "float64": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float32 list": pa.list_(pa.float32()),
}
ORIGINS: Final = pa.array([origin.name.lower() for origin in Origin])


def schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    """The logical schema of a table: text is plain string here, dictionary-encoded on disk."""
    return pa.schema([pa.field(column.name, _TYPES[column.type]) for column in columns])


@lru_cache(maxsize=16)
def lake_schema(kind: Kind) -> pa.Schema:
    """The logical schema of a kind's files: text is plain string here, dictionary-encoded on disk."""
    return schema_of(COLUMNS[kind])


def tags_schema() -> pa.Schema:
    """The logical schema of the data dictionary."""
    return schema_of(TAGS_COLUMNS)
