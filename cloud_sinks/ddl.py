"""The lake as tables of other engines: Athena and Glue with partition projection, Spark, DuckDB. Text from `schemas.lake` alone.

Nothing is connected to. Files of a lake have one schema for ever, so a table is defined once; with partition projection no crawler
and no `ALTER TABLE … ADD PARTITION` is needed for new days, and with an injected or listed site none for new sites.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from schemas.lake import COLUMNS, SCHEMA_VERSION, TAGS_COLUMNS, Column

if TYPE_CHECKING:
    from schemas.lake import ColumnType

Dialect = Literal["athena", "glue", "spark", "duckdb"]
TABLES: Final = (*COLUMNS, "tags")
_HIVE: Final[dict[ColumnType, str]] = {
    "time": "timestamp", "text": "string", "float64": "double", "int64": "bigint", "int32": "int", "float32 list": "array<float>",
}  # fmt: skip
_NAME: Final = re.compile(r"[a-z0-9_]+")
_UNQUOTABLE: Final = re.compile(r"""['"`\\\x00-\x1f]""")


def columns_of(table: str) -> tuple[Column, ...]:
    """The columns in its files. Raises ValueError for an unknown table."""
    if table == "tags":
        return TAGS_COLUMNS
    for kind, columns in COLUMNS.items():
        if kind == table:
            return columns
    raise ValueError(f"unknown table {table!r}; known are {', '.join(TABLES)}")


def athena(table: str, location: str, *, database: str, sites: Sequence[str] = (), since: date = date(2020, 1, 1)) -> str:
    """`CREATE EXTERNAL TABLE` with partition projection. Without `sites` a query must name its site: `where site = 'osaka'`.

    Raises ValueError for a location, database or site that cannot stand in a statement.
    """
    _check(location, database, sites, bucket=True)
    columns = ",\n".join(f"  `{c.name}` {_HIVE[c.type]} COMMENT '{_comment(c)}'" for c in columns_of(table))
    partitions = ", ".join(f"`{name}` string" for name in _partitions(table))
    properties = {"genba.schema_version": str(SCHEMA_VERSION), **_projection(table, location, sites, since)}
    listed = ",\n".join(f"  '{key}' = '{value}'" for key, value in properties.items())
    return (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS `{database}`.`{table}` (\n{columns}\n)\n"
        f"PARTITIONED BY ({partitions})\nSTORED AS PARQUET\nLOCATION '{_folder(table, location)}/'\n"
        f"TBLPROPERTIES (\n{listed}\n);\n"
    )


def glue(
    table: str, location: str, *, database: str, sites: Sequence[str] = (), since: date = date(2020, 1, 1)
) -> dict[str, Any]:
    """The same table as the arguments of `boto3.client("glue").create_table`. Raises ValueError as `athena`."""
    _check(location, database, sites, bucket=True)
    serde = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
    formats = "org.apache.hadoop.hive.ql.io.parquet.MapredParquet"
    return {
        "DatabaseName": database,
        "TableInput": {
            "Name": table,
            "Description": f"{table} of genba",
            "TableType": "EXTERNAL_TABLE",
            "PartitionKeys": [{"Name": name, "Type": "string"} for name in _partitions(table)],
            "Parameters": {
                "EXTERNAL": "TRUE",
                "classification": "parquet",
                "genba.schema_version": str(SCHEMA_VERSION),
                **_projection(table, location, sites, since),
            },
            "StorageDescriptor": {
                "Columns": [{"Name": c.name, "Type": _HIVE[c.type], "Comment": _comment(c)} for c in columns_of(table)],
                "Location": f"{_folder(table, location)}/",
                "InputFormat": f"{formats}InputFormat",
                "OutputFormat": f"{formats}OutputFormat",
                "SerdeInfo": {"SerializationLibrary": serde, "Parameters": {"serialization.format": "1"}},
            },
        },
    }


def spark(table: str, location: str, *, database: str) -> str:
    """`CREATE TABLE … USING parquet` and the statement that finds new partitions, which is run again for new days.

    A bucket is written `s3a://`, which Spark and EMR both read. Raises ValueError as `athena`.
    """
    _check(location, database, ())
    columns = [f"  `{c.name}` {_HIVE[c.type].upper()} COMMENT '{_comment(c)}'" for c in columns_of(table)]
    columns += [f"  `{name}` {'DATE' if name == 'date' else 'STRING'}" for name in _partitions(table)]
    listed, name = ",\n".join(columns), f"`{database}`.`{table}`"
    folder = _folder(table, location).replace("s3://", "s3a://", 1)
    return (
        f"CREATE TABLE IF NOT EXISTS {name} (\n{listed}\n)\nUSING parquet\n"
        f"PARTITIONED BY ({', '.join(f'`{one}`' for one in _partitions(table))})\nLOCATION '{folder}';\n"
        f"MSCK REPAIR TABLE {name};\n"
    )


def duckdb(table: str, location: str) -> str:
    """A view over the files, with the meaning of each column. A lake without such files gives an error when it is made.

    Raises ValueError as `athena`.
    """
    _check(location, "x", ())
    partitions = _partitions(table)
    types = ", ".join(f"'{name}': {'DATE' if name == 'date' else 'VARCHAR'}" for name in partitions)
    files = f"{_folder(table, location)}/{'*/' * len(partitions)}*.parquet"
    columns = ", ".join(f'"{name}"' for name in (*(c.name for c in columns_of(table)), *partitions))
    comments = "".join(f"COMMENT ON COLUMN {table}.\"{c.name}\" IS '{_comment(c)}';\n" for c in columns_of(table))
    return (
        f"CREATE OR REPLACE VIEW {table} AS SELECT {columns}\n"
        f"FROM read_parquet('{files}', hive_partitioning = true, hive_types = {{{types}}}, union_by_name = true);\n{comments}"
    )


def has_files(table: str, location: str) -> bool:
    """False for a directory that has no folder of that table yet; of a bucket it is not asked."""
    return "://" in location or (Path(location) / table).is_dir()


def _partitions(table: str) -> tuple[str, ...]:
    return ("site",) if table == "tags" else ("site", "date")


def _projection(table: str, location: str, sites: Sequence[str], since: date) -> dict[str, str]:
    found = {"projection.enabled": "true"}
    if sites:
        found |= {"projection.site.type": "enum", "projection.site.values": ",".join(sites)}
    else:
        found |= {"projection.site.type": "injected"}
    if "date" in _partitions(table):
        found |= {
            "projection.date.type": "date",
            "projection.date.format": "yyyy-MM-dd",
            "projection.date.range": f"{since.isoformat()},NOW+1DAY",  # a device's clock may be a day ahead
            "projection.date.interval": "1",
            "projection.date.interval.unit": "DAYS",
        }
    path = "/".join(f"{name}=${{{name}}}" for name in _partitions(table))
    return {**found, "storage.location.template": f"{_folder(table, location)}/{path}"}


def _folder(table: str, location: str) -> str:
    return f"{location.rstrip('/')}/{table}"


def _comment(column: Column) -> str:
    return column.meaning.replace("'", "’").replace("`", "")  # engines differ in how a quote is escaped; none needs to be


def _check(location: str, database: str, sites: Sequence[str], *, bucket: bool = False) -> None:
    if bucket and not re.fullmatch(r"s3://[^/]+(/.*)?", location):
        raise ValueError(f"{location}: Athena and Glue read s3://bucket/prefix")
    if _UNQUOTABLE.search(location) or "$" in location:
        raise ValueError(f"{location!r}: a quote, a backslash or $ in the location cannot stand in these statements")
    if not _NAME.fullmatch(database):
        raise ValueError(f"{database!r} is no name of a database: lower-case letters, digits and _")
    for site in sites:
        if _UNQUOTABLE.search(site) or "," in site or not site:
            raise ValueError(f"{site!r} cannot stand in a list of sites")
