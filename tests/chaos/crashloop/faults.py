"""Gateways that are broken on purpose: the controls. The check of the crash loop must find each of them out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

_LATE_S: Final = 0.3


def acknowledge_before_writing() -> None:
    """What goes into a segment is kept in the process and written a moment later; the spool hears that it is written and flushed."""
    from gateway.spool.storage import DiskStorage

    write = DiskStorage.write

    def kept(self: DiskStorage, fd: int, buffers: Any, offset: int) -> int:
        if len(buffers) == 1:
            return write(self, fd, buffers, offset)
        own, data = os.dup(fd), b"".join(buffers)

        def late() -> None:
            time.sleep(_LATE_S)
            os.pwrite(own, data, offset)
            os.close(own)

        threading.Thread(target=late, daemon=True).start()
        return len(data)

    DiskStorage.write = kept  # type: ignore[method-assign]


def name_files_by_time() -> None:
    """A file of a lake is named after the moment of its writing and not after its rows: a span that is repeated becomes another file."""
    from cloud_sinks.parquet import publish
    from schemas.lake import LakeFile
    from schemas.span import SpoolSpan

    def named(site: str, date: Any, span: SpoolSpan) -> LakeFile:
        return LakeFile(site, date, replace(span, epoch=time.time_ns() // 1000))

    publish.LakeFile = named  # type: ignore[assignment,misc]


FAULTS: Final[Mapping[str, Callable[[], None]]] = {
    "a spool that acknowledges before it has written": acknowledge_before_writing,
    "lakes whose file names do not come from the rows": name_files_by_time,
}
