"""Which rows of a gateway a lake holds, by the names in its folders and by what was merged: so that none is written a second time. Blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from schemas.manifest import MANIFEST, Manifest, lake_files

if TYPE_CHECKING:
    from schemas.span import SpoolSpan

    from .shelf import Shelf

_DATE: Final = "date="


def held(shelf: Shelf, site: str, span: SpoolSpan) -> list[tuple[int, int]]:
    """The spans (first, last) of files with rows among those of `span`, in row order; a file that was merged still counts.

    A span over a date border counts as soon as one of its files is there. Raises ValueError for a manifest of a newer version.
    """
    found: set[tuple[int, int]] = set()
    for day in shelf.entries(f"{span.kind}/site={site}"):
        folder = f"{span.kind}/site={site}/{day.name}"
        if not day.folder or not day.name.startswith(_DATE):
            continue
        names = [entry.name for entry in shelf.entries(folder)]
        for file in lake_files(folder, names):
            if not file.merged and (file.span.gateway, file.span.epoch) == (span.gateway, span.epoch):
                found.add((file.span.first, file.span.last))
        if MANIFEST in names and (read := shelf.read_small(f"{folder}/{MANIFEST}")) is not None:
            replaced = Manifest.unpack(read[0]).replaced()
            found |= {(first, last) for gateway, epoch, first, last in replaced if (gateway, epoch) == (span.gateway, span.epoch)}
    return sorted((first, last) for first, last in found if first <= span.last and span.first <= last)
