"""The `tags` table beside the data: what every tag is, from when to when, and between which times the lake has readings of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.lake import SCHEMA_VERSION, tags_path
from schemas.tags import Limits, TagDirectory, TagHistory, TagVersion

from .columns import tags_schema
from .file import write_file
from .rows import Part
from .store import Store

_NEVER: Final = np.iinfo(np.int64).max
_SEEN: Final = ["first_seen", "last_seen"]


class TagTable:
    """One gateway's part of the data dictionary. All methods block and are called in the sink's thread; all may raise OSError."""

    def __init__(self, tags: TagDirectory, *, enterprise: str, site: str, gateway: str) -> None:
        self._tags, self._enterprise, self._site, self._gateway = tags, enterprise, site, gateway
        self._path = tags_path(site, gateway)
        self._first = np.full(0, _NEVER)
        self._last = np.full(0, -_NEVER)
        self.dirty = False

    def load(self, store: Store) -> None:
        """Take over first and last seen of what is there, and write the table anew when the tags are described otherwise."""
        self._grow()
        try:
            with store.reader(self._path) as file:
                there = pq.read_table(file, schema=tags_schema())
        except (FileNotFoundError, pa.ArrowException):  # none yet, or of a broken disk: it is made again from the registry
            self.write(store)
            return
        self._merge_seen(there)
        if not there.drop_columns(_SEEN).equals(self._table().drop_columns(_SEEN)):
            self.write(store)

    def note(self, part: Part) -> None:
        """Remember between which times there are readings."""
        self._grow()
        self._first[part.ids] = np.minimum(self._first[part.ids], part.first_us)
        self._last[part.ids] = np.maximum(self._last[part.ids], part.last_us)
        self.dirty = True

    def write(self, store: Store) -> None:
        """Replace the table; readers see the old or the new one."""
        self._grow()
        scratch = store.scratch(f"tags-{self._gateway}")
        about = {
            "schema_version": str(SCHEMA_VERSION),
            "enterprise": self._enterprise,
            "site": self._site,
            "gateway": self._gateway,
        }
        write_file(scratch, self._table(), {f"genba.{key}": value for key, value in about.items()})
        store.replace(scratch, self._path)
        self.dirty = False

    def _grow(self) -> None:
        missing = len(self._tags) - len(self._first)
        if missing > 0:
            self._first = np.r_[self._first, np.full(missing, _NEVER)]
            self._last = np.r_[self._last, np.full(missing, -_NEVER)]

    def _versions(self) -> Iterator[tuple[TagVersion, int | None]]:
        if isinstance(self._tags, TagHistory):
            for version in self._tags.history():
                yield version, version.valid_from_us
        else:
            for tag in self._tags:
                yield TagVersion(tag, 0), None  # since when is not known

    def _table(self) -> pa.Table:
        rows = []
        for version, valid_from in self._versions():
            tag, limits = version.tag, version.tag.limits or Limits()
            rows.append(
                {
                    "tag": tag.path, "valid_from": valid_from, "valid_to": version.valid_to_us, "asset": tag.asset, "name": tag.name,
                    "label": tag.label, "description": tag.description, "unit": tag.unit, "value_type": tag.value_type,
                    "adapter": tag.adapter, "device": tag.device, "address": tag.address, "period": tag.period_us / 1e6,
                    "low_low": limits.low_low, "low": limits.low, "high": limits.high, "high_high": limits.high_high,
                    "first_seen": _or_none(self._first, tag.id), "last_seen": _or_none(self._last, tag.id), "gateway": self._gateway,
                }
            )  # fmt: skip
        rows.sort(key=lambda row: (str(row["tag"]), row["valid_from"] or 0))
        return pa.Table.from_pylist(rows, schema=tags_schema())

    def _merge_seen(self, there: pa.Table) -> None:
        ids = {tag.path: tag.id for tag in self._tags}
        columns = (there.column("tag"), *(there.column(name).cast(pa.int64()) for name in _SEEN))
        for path, first, last in zip(*(column.to_pylist() for column in columns), strict=True):
            if path in ids and first is not None and last is not None:
                at = ids[path]
                self._first[at], self._last[at] = min(self._first[at], first), max(self._last[at], last)


def _or_none(times: npt.NDArray[np.int64], tag_id: int) -> int | None:
    found = int(times[tag_id]) if 0 <= tag_id < len(times) else _NEVER
    return None if abs(found) == _NEVER else found
