"""Numpy decoding of publish and read responses (OPC 10000-6, 5.2; OPC 10000-4, 5.14.5 and 5.11.2). Pure: bytes in, arrays out.

Data values of one shape (same optional fields, same built-in scalar type) lie on the wire as a packed array, so each run of
them is one view with a cached dtype. Text is read one by one. Anything else (arrays, structures) is walked over and kept as
its bytes for `values.py`, so that an odd item never takes its neighbours along, whatever their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from . import wire
from .wire import Budget, MalformedMessage

PUBLISH_RESPONSE: Final = 829
READ_RESPONSE: Final = 634
REPUBLISH_RESPONSE: Final = 835
HISTORY_RESPONSE: Final = 667
_DATA_CHANGE: Final = 811
_HISTORY_DATA: Final = 658
_EVENTS: Final = 916
_STATUS_CHANGE: Final = 820

BOOLEAN: Final = 1
INT64: Final = 8
UINT64: Final = 9
FLOAT: Final = 10
DATETIME: Final = 13
NOTHING: Final = 0
STRUCTURE: Final = 22
ARRAY: Final = 0x80
"""`Changes.kind` of an array is that of its elements with this bit."""
TOO_LARGE: Final = 254
"""`Changes.kind` of a text or an array above the limits below."""
UNSUPPORTED: Final = 255
"""`Changes.kind` of a value that has no place in a reading (the part of a structure that is not there)."""

TEXT_KINDS: Final = (12, 14, 15, 16, 17, 18, 19, 20, 21)
"""String, Guid, ByteString, XmlElement, NodeId, ExpandedNodeId, StatusCode, QualifiedName, LocalizedText."""

MAX_ITEMS: Final = 100_000
"""Data values of one message; ten times what is asked for."""
MAX_BLOCKS: Final = 1_000
"""Notifications of one message, and nodes of one history answer."""
MAX_NUMBERS: Final = 8 * 2**20
"""Bytes of one array of numbers: a million of 64 bits."""
MAX_VALUE: Final = 2**20
"""Bytes of any other value; twice as many characters when they are shown in hexadecimal."""

_SCALARS: Final = {
    1: "u1", 2: "i1", 3: "u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 8: "<i8", 9: "<u8", 10: "<f4", 11: "<f8", 13: "<i8",
}  # fmt: skip
_STAMPS: Final = ((2, "status", "<u4"), (4, "source", "<i8"), (16, "", "<u2"), (8, "server", "<i8"), (32, "", "<u2"))
_CODES: Final = {"<u4": "I", "<i8": "q", "<u2": "2x"}
_FIRST_WINDOW: Final = 64
_SHORT: Final = 16  # a run of fewer data values costs more as a view than one by one
_SHORT_RUNS: Final = 32  # so many of them in a notification, and the rest of it is walked


@dataclass(slots=True)
class Changes:
    """Data values of one message, in its order, n items.

    handle uint32[n] (client handle; of a read: the position in the request) · kind uint8[n] (built-in type of a scalar;
    with ARRAY of an array; NOTHING, TOO_LARGE, UNSUPPORTED) · value float64[n] (numbers and booleans) · integer int64[n] (integers; a UInt64 wraps; DateTime as
    100 ns since 1601) · status uint32[n] · source, server int64[n] (100 ns since 1601, 0: not sent) · texts by index · variants by index: the
    bytes of a value that is neither number nor text · prepared by index: what `Rows.prepare` has made of such bytes.
    """

    handle: npt.NDArray[np.uint32]
    kind: npt.NDArray[np.uint8]
    value: npt.NDArray[np.float64]
    integer: npt.NDArray[np.int64]
    status: npt.NDArray[np.uint32]
    source: npt.NDArray[np.int64]
    server: npt.NDArray[np.int64]
    texts: dict[int, str] = field(default_factory=dict)
    variants: dict[int, bytes] = field(default_factory=dict)
    prepared: dict[int, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.handle)

    def only(self, kept: npt.NDArray[np.intp]) -> Changes:
        """The items at these indices, in this order."""
        to = {old: new for new, old in enumerate(kept.tolist())} if self.texts or self.variants else {}
        return Changes(
            handle=self.handle[kept],
            kind=self.kind[kept],
            value=self.value[kept],
            integer=self.integer[kept],
            status=self.status[kept],
            source=self.source[kept],
            server=self.server[kept],
            texts={to[k]: text for k, text in self.texts.items() if k in to},
            variants={to[k]: variant for k, variant in self.variants.items() if k in to},
            prepared={to[k]: made for k, made in self.prepared.items() if k in to},
        )


@dataclass(slots=True)
class Publish:
    """A publish response. `changes` is None for a keep-alive; `closed` is the status with which the server ended the subscription.

    `events` are the bodies of event notifications, not decoded.
    """

    result: int
    subscription: int
    sequence: int
    keep_alive: bool
    changes: Changes | None = None
    closed: int | None = None
    events: tuple[bytes, ...] = ()


@dataclass(slots=True)
class History:
    """The answer for one node of a history read; `more` continues it (empty: it is complete)."""

    status: int
    more: bytes
    changes: Changes


def decode_publish(data: bytes) -> Publish:
    """The publish response in `data`, any number of data change notifications in it as one `Changes`.

    Raises MalformedMessage; nothing is allocated before the counts are known to fit into the message.
    """
    kind, result, at = wire.response_body(data)
    if kind != PUBLISH_RESPONSE:
        raise MalformedMessage(f"expected a publish response, got type {kind}")
    if result & 0x8000_0000:
        return Publish(result, 0, 0, keep_alive=False)
    subscription = wire.u32(data, at)
    at = wire.need(data, at + 8, 4 * wire.count(data, at + 4, 4))  # available sequence numbers
    return _message(data, at + 1, result, subscription)  # behind MoreNotifications


def decode_republish(data: bytes, subscription: int) -> Publish:
    """The notification message of `subscription` that the server sends again. Raises MalformedMessage."""
    kind, result, at = wire.response_body(data)
    if kind != REPUBLISH_RESPONSE:
        raise MalformedMessage(f"expected a republish response, got type {kind}")
    return Publish(result, 0, 0, keep_alive=False) if result & 0x8000_0000 else _message(data, at, result, subscription)


def _message(data: bytes, at: int, result: int, subscription: int) -> Publish:
    """The notification message at `at` (OPC 10000-4, 7.26)."""
    sequence = wire.u32(data, at)
    at += 12  # behind PublishTime
    blocks = wire.at_most(wire.count(data, at, 3), MAX_BLOCKS, "notifications")
    at += 4
    found = Publish(result, subscription, sequence, keep_alive=blocks == 0)
    bodies: list[tuple[int, int, int]] = []  # (first item, items, end)
    for _ in range(blocks):
        kind, body, at = wire.extension_object(data, at)
        if kind == _DATA_CHANGE and body < at:
            bodies.append((body + 4, wire.count(data, body, 5), at))
        elif kind == _STATUS_CHANGE and body < at:
            found.closed = wire.u32(data, body)
        elif kind == _EVENTS and body < at:
            found.events = (*found.events, data[body:at])
    total = sum(items for _, items, _ in bodies)
    if total:
        found.changes = _allocate(total)
        budget = Budget()
        k = 0
        for first, items, end in bodies:
            _items(data, first, end, found.changes, k, items, budget, handles=True)
            k += items
    return found


def decode_read(data: bytes) -> tuple[int, Changes]:
    """(service result, the data values in order) of the read response in `data`. Raises MalformedMessage."""
    kind, result, at = wire.response_body(data)
    if kind != READ_RESPONSE:
        raise MalformedMessage(f"expected a read response, got type {kind}")
    items = 0 if result & 0x8000_0000 else wire.count(data, at, 1)
    found = _allocate(items)
    found.handle[:] = np.arange(items, dtype=np.uint32)
    if items:
        _items(data, at + 4, len(data), found, 0, items, Budget(), handles=False)
    return result, found


def decode_history(data: bytes) -> tuple[int, list[History]]:
    """(service result, the answer for each node in order) of the history read response in `data`. Raises MalformedMessage."""
    kind, result, at = wire.response_body(data)
    if kind != HISTORY_RESPONSE:
        raise MalformedMessage(f"expected a history read response, got type {kind}")
    found: list[History] = []
    budget = Budget()
    nodes = 0 if result & 0x8000_0000 else wire.at_most(wire.count(data, at, 11), MAX_BLOCKS, "nodes")
    at += 4
    total = 0
    for _ in range(nodes):
        status = wire.u32(data, at)
        end = wire.bytes_end(data, at + 4)
        more = data[at + 8 : end]
        kind, body, at = wire.extension_object(data, end)
        items = wire.count(data, body, 1) if kind == _HISTORY_DATA and body < at else 0
        total = wire.at_most(total + items, MAX_ITEMS, "values")
        changes = _allocate(items)
        if items:
            _items(data, body + 4, at, changes, 0, items, budget, handles=False)
        found.append(History(status, more, changes))
    return result, found


def _allocate(n: int) -> Changes:
    wire.at_most(n, MAX_ITEMS, "values")
    return Changes(
        handle=np.zeros(n, np.uint32),
        kind=np.zeros(n, np.uint8),
        value=np.zeros(n, np.float64),
        integer=np.zeros(n, np.int64),
        status=np.zeros(n, np.uint32),
        source=np.zeros(n, np.int64),
        server=np.zeros(n, np.int64),
    )


@lru_cache(maxsize=4096)
def _layout(mask: int, kind: int, handles: bool) -> np.dtype[np.void] | None:
    """How one data value of this shape lies on the wire; None when it has no fixed size."""
    if mask & 1 and kind not in _SCALARS:
        return None
    fields: list[tuple[str, str]] = [("handle", "<u4")] if handles else []
    fields += [("shape", "<u2"), ("value", _SCALARS[kind])] if mask & 1 else [("shape", "u1")]
    fields += [(name or f"skip{bit}", form) for bit, name, form in _STAMPS if mask & bit]
    return np.dtype(fields)


def _items(data: bytes, at: int, end: int, out: Changes, k: int, items: int, budget: Budget, *, handles: bool) -> int:
    """Decode `items` data values from `at` into out[k:]; returns the position behind. Runs are found by doubling windows."""
    skip = 4 if handles else 0
    stop = k + items
    window = _FIRST_WINDOW
    short = 0
    while k < stop:
        if short >= _SHORT_RUNS:
            return _mixed(data, at, end, out, k, stop, budget, handles=handles)
        mask = wire.u8(data, at + skip)
        kind = wire.u8(data, at + skip + 1) if mask & 1 else 0
        layout = _layout(mask, kind, handles)
        if layout is None:
            at = _odd_item(data, at, out, k, budget, handles=handles)
            if at > end:
                raise MalformedMessage("an item runs over the end of its notification")
            k += 1
            continue
        fits = min(stop - k, (end - at) // layout.itemsize)
        if fits <= 0:
            raise MalformedMessage("an item runs over the end of its notification")
        look = min(fits, window)
        run = np.frombuffer(data, layout, look, at)
        differs = run["shape"] != (mask | kind << 8)
        n = int(differs.argmax())
        if n == 0 and not differs[0]:
            n = look
            window *= 2
        else:
            window = _FIRST_WINDOW
            run = run[:n]
        short += n < _SHORT
        _store(run, mask, kind, out, slice(k, k + n), handles=handles)
        k += n
        at += n * layout.itemsize
    return at


def _mixed(data: bytes, at: int, end: int, out: Changes, k: int, stop: int, budget: Budget, *, handles: bool) -> int:
    """As `_items` for shapes that change from value to value: a step each to find where it begins, then a gather for each shape."""
    skip = 4 if handles else 0
    found: dict[int, tuple[int, list[int], list[int]]] = {}  # by shape: bytes, indices, positions
    for index in range(k, stop):
        mask = wire.u8(data, at + skip)
        shape = mask | wire.u8(data, at + skip + 1) << 8 if mask & 1 else mask
        alike = found.get(shape)
        if alike is None:
            layout = _layout(mask, shape >> 8, handles)
            alike = found[shape] = (layout.itemsize if layout is not None else 0, [], [])
        size, indices, starts = alike
        if size:
            indices.append(index)
            starts.append(at)
            at += size
        else:
            at = _odd_item(data, at, out, index, budget, handles=handles)
        if at > end:
            raise MalformedMessage("an item runs over the end of its notification")
    octets = np.frombuffer(data, np.uint8)
    for shape, (size, indices, starts) in found.items():
        layout = _layout(shape & 0xFF, shape >> 8, handles)
        if size and layout is not None:
            run = octets[np.array(starts)[:, None] + np.arange(size)].view(layout)[:, 0]
            _store(run, shape & 0xFF, shape >> 8, out, np.array(indices), handles=handles)
    return at


def _store(
    run: npt.NDArray[np.void], mask: int, kind: int, out: Changes, to: slice | npt.NDArray[np.intp], *, handles: bool
) -> None:
    if handles:
        out.handle[to] = run["handle"]
    if mask & 1:
        out.kind[to] = kind
        value = run["value"]
        if kind == BOOLEAN:
            value = value != 0
        if kind < FLOAT or kind == DATETIME:
            out.integer[to] = value.view(np.int64) if kind == UINT64 else value
        if kind != DATETIME:
            out.value[to] = value
    if mask & 2:
        out.status[to] = run["status"]
    if mask & 4:
        out.source[to] = run["source"]
    if mask & 8:
        out.server[to] = run["server"]


def _odd_item(data: bytes, at: int, out: Changes, k: int, budget: Budget, *, handles: bool) -> int:
    """One data value that has no fixed size; returns the position behind it."""
    if handles:
        out.handle[k] = wire.u32(data, at)
        at += 4
    mask = data[at]
    encoding = wire.u8(data, at + 1)
    budget.take(1)
    start, end = at + 1, wire.variant_end(data, at + 1, budget=budget)
    out.kind[k] = kind = _kind(encoding, end - start)
    if kind in TEXT_KINDS:
        out.texts[k] = wire.scalar_text(data, start + 1, kind)[0]
    elif kind not in (NOTHING, TOO_LARGE):
        out.variants[k] = data[start:end]
    form, names = _stamps(mask & 0x3E)
    at = wire.need(data, end, form.size)
    for name, stamp in zip(names, form.unpack_from(data, end), strict=True):
        getattr(out, name)[k] = stamp
    return at


@lru_cache(maxsize=32)
def _stamps(mask: int) -> tuple[Struct, tuple[str, ...]]:
    """How status and times lie behind a value, and their names in `Changes`."""
    there = [(name, _CODES[form]) for bit, name, form in _STAMPS if mask & bit]
    return Struct("<" + "".join(code for _, code in there)), tuple(name for name, _ in there if name)


def _kind(encoding: int, size: int) -> int:
    """`Changes.kind` of a Variant with this first byte that takes `size` bytes."""
    kind = encoding & 0x3F
    array = bool(encoding & ARRAY)
    if kind == NOTHING:
        return NOTHING
    if size > (MAX_NUMBERS + 64 if array and kind in _SCALARS else MAX_VALUE):
        return TOO_LARGE
    return kind | ARRAY if array else kind
