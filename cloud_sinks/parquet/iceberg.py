"""The lake as Iceberg tables: the Parquet files that count are registered where they lie, and nothing is copied.

A table per kind, unpartitioned, with the columns of the files (`site` and `date` are in the paths only; a row's `tag` begins with enterprise
and site). One run compares the files that count (`cloud_sinks.lake.counting`) with the data files of the table's newest snapshot and commits
the difference at once: files that compaction replaced leave in the snapshot that brings the merged ones, so that no snapshot holds
a row twice or misses one. The comparison is also what heals: a run that died before its commit changed nothing but left metadata files
that nobody reads, and the next run commits the same difference.

Of two runs at once the second to commit is refused by the catalog, looks again and finds nothing left to do; pyiceberg's own retries, which
would add its files a second time, are off for these tables. Needs pyiceberg, the extra `iceberg`. Everything blocks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloud_sinks.lake import counting
from schemas.errors import ConfigError, GenbaError, NotConnected
from schemas.kinds import KINDS, Kind

from .columns import lake_schema

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from cloud_sinks.places import Place

NAMESPACE: Final = "genba"
FOLDER: Final = "_iceberg"
"""In the lake: the embedded catalog, and the tables' metadata unless a warehouse is named."""
_LAKE: Final = "genba.lake"
_RETRIES: Final = "commit.retry.num-retries"
_MAPPING: Final = "schema.name-mapping.default"
_PROPERTIES: Final = {
    _RETRIES: "0",
    "write.metadata.delete-after-commit.enabled": "true",  # else a metadata file stays for every commit there ever was
}
_TRIES: Final = 5
_USER: Final = re.compile(r"//[^/]*@")
"""User and password in a URI: of no use in a log."""
_S3: Final = {
    "aws_access_key_id": "s3.access-key-id",
    "aws_secret_access_key": "s3.secret-access-key",
    "aws_session_token": "s3.session-token",
    "aws_region": "s3.region",
    "aws_endpoint_url": "s3.endpoint",
}


@dataclass(frozen=True, slots=True)
class Registered:
    """What one run did to a table; `added` and `removed` are numbers of files, `files` and `rows` what the table holds of the lake now."""

    table: str
    added: int
    removed: int
    files: int
    rows: int

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "table": self.table, "added": self.added, "removed": self.removed, "files": self.files, "rows": self.rows,
        }  # fmt: skip


def settings(
    place: Place, catalog: str | None, warehouse: str | None, *, region: str | None = None, profile: str | None = None
) -> tuple[str, dict[str, str]]:
    """Name and properties of the catalog, as `pyiceberg.catalog.load_catalog` takes them.

    `catalog` is None for SQLite in the lake's directory, a URI (`sqlite:///…` and other databases, `http(s)://…` of a REST catalog), `glue`,
    or the name of one that pyiceberg's own configuration knows (`.pyiceberg.yaml`, `PYICEBERG_CATALOG__…`), which is also where tokens and
    passwords belong. A bucket is reached with the credentials that the lake is read with. Raises ConfigError.
    """
    found = {to: value for of, to in _S3.items() if (value := (place.options or {}).get(of)) is not None}
    root = root_of(place)
    home = f"{root}/{FOLDER}"
    if catalog is None:
        if not root.startswith("file://"):
            raise ConfigError(
                f"{root}: the embedded catalog is a file of SQLite and cannot lie in a bucket",
                hint="give --catalog: glue, the URL of a REST catalog, or sqlite:////srv/catalog.db on this machine",
            )
        folder = Path(home.removeprefix("file://"))
        folder.mkdir(exist_ok=True)
        return "genba", {"type": "sql", "uri": f"sqlite:///{folder / 'catalog.db'}", "warehouse": warehouse or home, **found}
    if catalog.startswith(("http://", "https://")):
        named = {} if warehouse is None else {"warehouse": warehouse}  # what a REST catalog calls so is its own affair
        return "genba", {"type": "rest", "uri": catalog, **named, **found}
    if "://" in catalog:
        return "genba", {"type": "sql", "uri": catalog, "warehouse": warehouse or home, **found}
    if catalog == "glue":
        if root.startswith("file://"):
            raise ConfigError(f"{root}: who reads Glue's tables cannot reach this machine", hint="register a lake in a bucket")
        place_in = {"glue.region": region or found.get("s3.region"), "glue.profile-name": profile}
        return "glue", {
            "type": "glue", "warehouse": warehouse or home, **{key: value for key, value in place_in.items() if value}, **found,
        }  # fmt: skip
    return catalog, {**({} if warehouse is None else {"warehouse": warehouse}), **found}


def root_of(place: Place) -> str:
    """The lake as Iceberg names it in its metadata: an absolute URI without a slash at its end. Raises ConfigError."""
    address = place.address("").rstrip("/")
    if "://" in address:
        return address
    path = str(Path(address).resolve())
    if "#" in path or "?" in path:
        raise ConfigError(f"{path}: Iceberg's addresses cannot hold # or ?", hint="give the lake's directory another name")
    return f"file://{path}"


@contextmanager
def opened(name: str, properties: Mapping[str, str]) -> Iterator[Catalog]:
    """The catalog; what goes wrong with it becomes an error that says who must act: ConfigError, or NotConnected where it does not answer."""
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, NotInstalledError, RESTError
    except ImportError as error:
        raise ConfigError("Iceberg needs pyiceberg, which is not installed", hint="pip install 'genba[iceberg]'") from error
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    where = f"catalog {name} ({_USER.sub('//', properties['uri'])})" if "uri" in properties else f"catalog {name}"
    try:
        made = load_catalog(name, **properties)
        try:
            yield made
        finally:
            made.close()
    except GenbaError:
        raise
    except NotInstalledError as error:
        raise ConfigError(f"{where}: {error}", hint="pip install what it names") from error
    except requests.RequestException as error:
        raise NotConnected(f"{where} does not answer: {error} (check --catalog, and whether it runs)") from error
    except CommitStateUnknownException as error:
        raise NotConnected(
            f"{where}: nobody knows whether the commit came through: {error} (run it again: it looks first)"
        ) from error
    except CommitFailedException as error:
        raise NotConnected(f"{where}: others commit all the time: {error} (let one machine register the lake)") from error
    except (RESTError, SQLAlchemyError) as error:
        raise ConfigError(f"{where}: {error}", hint="check --catalog and what it may do") from error


def register(place: Place, catalog: Catalog, *, kinds: Collection[Kind] = KINDS, namespace: str = NAMESPACE) -> list[Registered]:
    """Make the tables hold exactly the files of the lake that count, one commit a table; nothing is committed where they do.

    A kind without files gets no table. Files of a table that lie outside the lake are left alone. Raises ConfigError for a
    table that belongs to another lake, or for a lake that lost all files of a kind; what the catalog raises (see `opened`).
    """
    from pyiceberg.exceptions import CommitFailedException

    catalog.create_namespace_if_not_exists(namespace)
    done = []
    for kind in kinds:
        for attempt in range(_TRIES):
            try:
                one = _register(place, catalog, kind, f"{namespace}.{kind}")
            except (CommitFailedException, FileNotFoundError):  # another run was faster, or a compaction removed what was listed
                if attempt + 1 == _TRIES:
                    raise
                continue
            if one is not None:
                done.append(one)
            break
    return done


def _register(place: Place, catalog: Catalog, kind: Kind, name: str) -> Registered | None:
    from pyiceberg.io.pyarrow import parquet_file_to_data_file

    root = root_of(place)
    wanted = {f"{root}/{file.path()}" for file in counting(place, kind)}
    if not wanted and not catalog.table_exists(name):
        return None
    table = _table(catalog, kind, name, root)
    there = {task.file.file_path: task.file for task in table.scan().plan_files() if task.file.file_path.startswith(f"{root}/")}
    if there and not wanted:
        raise ConfigError(
            f"{root}: holds no {kind} any more, and {name} knows {len(there):,} files of it; nothing was changed",
            hint="is the right disk mounted? If they are gone on purpose, drop the table",
        )
    new, gone = sorted(wanted - there.keys()), sorted(there.keys() - wanted)
    rows = sum(there[path].record_count for path in wanted & there.keys())
    if new or gone:
        with table.transaction() as change:
            with _quiet():
                made = [parquet_file_to_data_file(table.io, change.table_metadata, path) for path in new]
            with change.update_snapshot().overwrite() as snapshot:
                for path in gone:
                    snapshot.delete_data_file(there[path])
                for file in made:
                    snapshot.append_data_file(file)
        rows += sum(file.record_count for file in made)
    return Registered(name, len(new), len(gone), len(wanted), rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """pyiceberg warns of every column of every file that has no statistics; some of ours have none on purpose, as in a column of nulls."""
    log = logging.getLogger("pyiceberg.io.pyarrow")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _table(catalog: Catalog, kind: Kind, name: str, root: str) -> Table:
    """The table of a kind, with every column of this version; made where there is none."""
    schema = lake_schema(kind)
    table = (
        catalog.load_table(name)
        if catalog.table_exists(name)
        else catalog.create_table_if_not_exists(name, schema=schema, properties={**_PROPERTIES, _LAKE: root})
    )
    owner = table.properties.get(_LAKE)
    if owner != root:
        raise ConfigError(
            f"{name} belongs to {owner or 'somebody else'}, not to {root}", hint="give each lake a --namespace of its own"
        )
    missing = set(schema.names) - {field.name for field in table.schema().fields}
    if missing:
        with table.update_schema() as update:
            update.union_by_name(schema)
    mapping = table.schema().name_mapping.model_dump_json()  # the files have names and no field ids
    if table.properties.get(_MAPPING) != mapping or table.properties.get(_RETRIES) != "0":
        with table.transaction() as change:
            change.set_properties({_MAPPING: mapping, _RETRIES: "0"})
    return table
