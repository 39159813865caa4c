"""The `tags` table beside the data: what every tag is, from when to when, and between which times the lake has readings of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.kinds import TIME
from schemas.lake import SCHEMA_VERSION, SINK, tags_path
from schemas.tags import Limits, TagDirectory, TagHistory, TagVersion

from .columns import tags_schema
from .file import write_file
from .rows import Part
from .store import Store

_NEVER: Final = np.iinfo(np.int64).max
_SEEN: Final = ["first_seen", "last_seen"]
_OF_TAG: Final = ("asset", "name", "label", "description", "unit", "value_type", "adapter", "device", "address")
_OF_LIMITS: Final = ("low_low", "low", "high", "high_high")
_NO_LIMITS: Final = Limits()


class TagTable:
    """One gateway's part of the data dictionary. All methods block and are called in the sink's thread; all may raise OSError.

    What tags are is turned into a table once per directory; a renewal with other times costs what writing the file costs.
    """

    def __init__(self, tags: TagDirectory, *, enterprise: str, site: str, gateway: str, sink: str) -> None:
        self._tags, self._enterprise, self._site, self._gateway, self._sink = tags, enterprise, site, gateway, sink
        self._path = tags_path(site, gateway)
        self._first = np.full(0, _NEVER)
        self._last = np.full(0, -_NEVER)
        self._described: tuple[pa.Table, npt.NDArray[np.int64]] | None = None
        self.dirty = False

    def load(self, store: Store) -> None:
        """Take over first and last seen of what is there, and write the table anew when the tags are described otherwise, or the sink has another name."""
        self._described = None
        self._grow()
        try:
            with store.reader(self._path) as file:
                sink = (pq.read_metadata(file).metadata or {}).get(SINK.encode(), b"").decode()
                file.seek(0)
                there = pq.read_table(file, schema=tags_schema())
        except (FileNotFoundError, pa.ArrowException):  # none yet, or of a broken disk: it is made again from the registry
            self.write(store)
            return
        self._merge_seen(there)
        if sink != self._sink or not there.drop_columns(_SEEN).equals(self._table().drop_columns(_SEEN)):
            self.write(store)

    def note(self, part: Part) -> bool:
        """Remember between which times there are readings. True when a tag is seen for the first time, or earlier than ever.

        That must be on disk before the rows are acknowledged: nobody comes by those rows again. When a tag was last seen is
        put right by its next reading.
        """
        self._grow()
        earlier = bool((part.first_us < self._first[part.ids]).any())
        self._first[part.ids] = np.minimum(self._first[part.ids], part.first_us)
        self._last[part.ids] = np.maximum(self._last[part.ids], part.last_us)
        self.dirty = self.dirty or len(part.ids) > 0
        return earlier

    def write(self, store: Store) -> None:
        """Replace the table; readers see the old or the new one."""
        self._grow()
        scratch = store.scratch(f"tags-{self._gateway}")
        about = {
            "schema_version": str(SCHEMA_VERSION),
            "enterprise": self._enterprise,
            "site": self._site,
            "gateway": self._gateway,
            "sink": self._sink,
        }
        write_file(scratch, self._table(), {f"genba.{key}": value for key, value in about.items()})
        store.replace(scratch, self._path)
        self.dirty = False

    def _grow(self) -> None:
        missing = len(self._tags) - len(self._first)
        if missing > 0:
            self._first = np.r_[self._first, np.full(missing, _NEVER)]
            self._last = np.r_[self._last, np.full(missing, -_NEVER)]
            self._described = None

    def _versions(self) -> Iterator[tuple[TagVersion, int | None]]:
        if isinstance(self._tags, TagHistory):
            for version in self._tags.history():
                yield version, version.valid_from_us
        else:
            for tag in self._tags:
                yield TagVersion(tag, 0), None  # since when is not known

    def _table(self) -> pa.Table:
        if self._described is None:
            self._described = self._describe()
        table, ids = self._described
        for name, times in zip(_SEEN, (self._first, self._last), strict=True):
            found = times[ids]
            column = pa.array(found, mask=np.abs(found) == _NEVER).view(TIME)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        return table

    def _describe(self) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The table without first and last seen, ordered by tag and time, and the id of each row's tag."""
        known = sorted(self._versions(), key=lambda one: (one[0].tag.path, one[1] or 0))
        tags = [version.tag for version, _ in known]
        limits = [tag.limits or _NO_LIMITS for tag in tags]
        columns: dict[str, Sequence[object]] = {
            "tag": [tag.path for tag in tags],
            "valid_from": [since for _, since in known],
            "valid_to": [version.valid_to_us for version, _ in known],
            "period": [tag.period_us / 1e6 for tag in tags],
            "gateway": [self._gateway] * len(tags),
        }
        for name in _OF_TAG:
            columns[name] = [getattr(tag, name) for tag in tags]
        for name in _OF_LIMITS:
            columns[name] = [getattr(limit, name) for limit in limits]
        schema = tags_schema()
        arrays = [pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(tags), field.type) for field in schema]  # fmt: skip
        return pa.Table.from_arrays(arrays, schema=schema), np.array([tag.id for tag in tags], dtype=np.int64)

    def _merge_seen(self, there: pa.Table) -> None:
        ids = {tag.path: tag.id for tag in self._tags}
        columns = (there.column("tag"), *(there.column(name).cast(pa.int64()) for name in _SEEN))
        for path, first, last in zip(*(column.to_pylist() for column in columns), strict=True):
            if path in ids and first is not None and last is not None:
                at = ids[path]
                self._first[at], self._last[at] = min(self._first[at], first), max(self._last[at], last)
