"""Puts the rows of one span and date into a lake, once: what is there already is compared and left alone."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import pyarrow as pa

from schemas.errors import ConfigError
from schemas.lake import LakeFile
from schemas.span import SpoolSpan

from .file import data_metadata, read_metadata, same_rows, write_file
from .rows import Part
from .store import Store


class Published(NamedTuple):
    """Where a file lies in the lake, and how large it is."""

    path: str
    bytes: int


def publish(store: Store, part: Part, span: SpoolSpan, *, enterprise: str, site: str) -> Published:
    """Write and publish the file; when there is one of this name with the same rows, that is all.

    Blocking. Raises OSError, and ConfigError when the name belongs to other rows or to what is no Parquet file.
    """
    path = LakeFile(site, part.date, span).path()
    about = data_metadata(part.table, span, enterprise=enterprise, site=site)
    scratch = store.scratch(os.path.basename(path))
    try:
        write_file(scratch, part.table, about)
    except OSError:  # a full disk: half a file takes room that others need
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise
    published = Published(path, scratch.stat().st_size)
    if store.publish(scratch, path):
        return published
    try:
        with store.reader(path) as file:
            there = read_metadata(file)
    except pa.ArrowException as error:
        raise ConfigError(f"{path} in the lake is not readable: {error}", hint="move it away; it is written again") from error
    if not same_rows(about, there):
        raise ConfigError(
            f"{path} in the lake holds other rows ({there.get('genba.rows')}, checksum {there.get('genba.checksum')}) than "
            f"this gateway is about to write ({about['genba.rows']}, checksum {about['genba.checksum']})",
            hint="two gateways share a name, or a spool was replaced: give this gateway a name of its own, or move the file away",
        )
    return published
