"""Takes variables apart whose elements or fields are tags of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas import quality as q

from .decode import ARRAY, DATETIME, FLOAT, NOTHING, TEXT_KINDS, TOO_LARGE, UINT64, UNSUPPORTED, Changes
from .plan import Plan
from .selection import Step
from .values import NUMBERS, Value, as_json, numbers, pick

_INT64_MAX: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class _Whole:
    """One variable: the tags that are parts of it, and the way to each. `elements`: every way is just an index."""

    positions: npt.NDArray[np.intp]
    ways: tuple[tuple[Step, ...], ...]
    elements: npt.NDArray[np.intp] | None


class Parts:
    """The variables of `plan` that are taken apart. Compiled once; an array of numbers is taken apart without a step per element."""

    def __init__(self, plan: Plan) -> None:
        self._taken = np.zeros(len(plan.addresses), bool)
        self._wholes: dict[int, _Whole] = {}
        for whole, members in plan.parts.items():
            ways = tuple(plan.selections[position] for position in members)
            indices = [way[0] for way in ways if len(way) == 1 and isinstance(way[0], int)]
            elements = np.array(indices, np.intp) if len(indices) == len(ways) else None
            self._wholes[whole] = _Whole(np.array(members, np.intp), ways, elements)
            self._taken[whole] = True

    def decodes(self, position: int, kind: int) -> bool:
        """Whether a value of this built-in type must be decoded before the variable at `position` can be taken apart."""
        whole = self._wholes.get(position)
        return whole is not None and (whole.elements is None or kind & ~ARRAY not in NUMBERS)

    def take_apart(self, changes: Changes, where: npt.NDArray[np.intp]) -> tuple[Changes, npt.NDArray[np.intp]]:
        """`changes`, prepared, with a value per part in place of each whole, behind all others, and the position of each.

        A part that is not there has the status BadIndexRangeNoData (no such element), BadNoMatch (no such field),
        BadDataTypeIdUnknown (the server does not describe the structure), BadTypeMismatch (no array, no structure), or
        BadDecodingError.
        """
        taken = np.flatnonzero(self._taken[where])
        if not len(taken):
            return changes, where
        pieces = [changes.only(np.flatnonzero(~self._taken[where]))]
        positions = [where[~self._taken[where]]]
        for k in taken.tolist():
            whole = self._wholes[int(where[k])]
            pieces.append(_apart(changes, k, whole))
            positions.append(whole.positions)
        return _concatenate(pieces), np.concatenate(positions)


def _apart(changes: Changes, k: int, whole: _Whole) -> Changes:
    n = len(whole.positions)
    out = Changes(
        handle=whole.positions.astype(np.uint32),
        kind=np.full(n, NOTHING, np.uint8),
        value=np.zeros(n, np.float64),
        integer=np.zeros(n, np.int64),
        status=np.full(n, changes.status[k], np.uint32),
        source=np.full(n, changes.source[k], np.int64),
        server=np.full(n, changes.server[k], np.int64),
    )
    kind = int(changes.kind[k])
    if kind == NOTHING or int(changes.status[k]) >= q.BAD:
        return out
    variant = changes.variants.get(k)
    if variant is None:  # a number, a text, or too much of either
        out.kind[:] = TOO_LARGE if kind == TOO_LARGE else UNSUPPORTED
    elif whole.elements is not None and kind & ~ARRAY in NUMBERS:
        _elements(out, kind & ~ARRAY, numbers(variant), whole.elements)
    else:
        value = changes.prepared[k]
        assert isinstance(value, Value)
        for number, way in enumerate(whole.ways):
            _store(out, number, pick(value, way))
    return out


def _elements(out: Changes, kind: int, found: npt.NDArray[np.generic], indices: npt.NDArray[np.intp]) -> None:
    """The elements of an array of numbers, all at once."""
    there = indices < len(found)
    picked = found[indices[there]]
    out.kind[there] = kind
    out.status[~there] = q.BAD_INDEX_RANGE_NO_DATA
    if kind < FLOAT or kind == DATETIME:
        out.integer[there] = picked.view(np.int64) if kind == UINT64 else picked
    if kind != DATETIME:
        out.value[there] = picked


def _store(out: Changes, k: int, value: Value) -> None:
    content = value.content
    if value.wrong:
        out.status[k] = value.wrong
    elif content is None:
        pass  # null is no data
    elif isinstance(content, str):
        out.kind[k], out.texts[k] = value.kind, content
    elif isinstance(content, (bool, int, float)):
        out.kind[k] = value.kind
        if not isinstance(content, float):
            out.integer[k] = int(content) if content <= _INT64_MAX else int(content) - 2**64
        if value.kind != DATETIME:
            out.value[k] = content
    elif isinstance(content, np.ndarray):
        out.kind[k] = value.kind
        out.variants[k] = bytes((value.kind,)) + len(content).to_bytes(4, "little") + content.tobytes()
    elif value.kind & ARRAY and value.kind & ~ARRAY in TEXT_KINDS:
        out.kind[k], out.texts[k] = value.kind, as_json(value)
    else:
        out.kind[k] = UNSUPPORTED  # a structure, or a list of them


def _concatenate(pieces: Sequence[Changes]) -> Changes:
    texts: dict[int, str] = {}
    variants: dict[int, bytes] = {}
    prepared: dict[int, object] = {}
    start = 0
    for piece in pieces:
        texts |= {start + k: text for k, text in piece.texts.items()}
        variants |= {start + k: variant for k, variant in piece.variants.items()}
        prepared |= {start + k: made for k, made in piece.prepared.items()}
        start += len(piece)
    return Changes(
        handle=np.concatenate([piece.handle for piece in pieces]),
        kind=np.concatenate([piece.kind for piece in pieces]),
        value=np.concatenate([piece.value for piece in pieces]),
        integer=np.concatenate([piece.integer for piece in pieces]),
        status=np.concatenate([piece.status for piece in pieces]),
        source=np.concatenate([piece.source for piece in pieces]),
        server=np.concatenate([piece.server for piece in pieces]),
        texts=texts,
        variants=variants,
        prepared=prepared,
    )
