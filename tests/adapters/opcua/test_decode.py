"""The decoder against bytes of asyncua's encoder: every scalar type, every mask, odd items among them, and garbage."""

from __future__ import annotations

import math
import struct
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary, variant_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.opcua import wire
from adapters.opcua.decode import ARRAY, NOTHING, TOO_LARGE, Changes, decode_publish, decode_read
from adapters.opcua.rows import EPOCH_DIFFERENCE
from adapters.opcua.wire import MalformedMessage

V = ua.VariantType
WHEN = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
FILETIME = 134_170_600_000_000_000

INTEGERS = {
    V.SByte: (-(2**7), 2**7 - 1),
    V.Byte: (0, 2**8 - 1),
    V.Int16: (-(2**15), 2**15 - 1),
    V.UInt16: (0, 2**16 - 1),
    V.Int32: (-(2**31), 2**31 - 1),
    V.UInt32: (0, 2**32 - 1),
    V.Int64: (-(2**63), 2**63 - 1),
    V.UInt64: (0, 2**64 - 1),
}
TEXTS = {V.String: "Grüße 現場", V.LocalizedText: ua.LocalizedText("läuft", "de"), V.QualifiedName: ua.QualifiedName("Temp", 2)}
TEXTS |= {V.Guid: uuid.UUID(int=0x0123456789ABCDEF0123456789ABCDEF), V.XmlElement: ua.XmlElement("<a/>")}
TEXTS |= {V.ByteString: b"\x00\xff", V.NodeId: ua.NodeId("Line.Temp", 2), V.StatusCode: ua.StatusCode(0x80340000)}
SHOWN = {
    V.String: "Grüße 現場",
    V.LocalizedText: "läuft",
    V.QualifiedName: "Temp",
    V.Guid: "01234567-89ab-cdef-0123-456789abcdef",
    V.XmlElement: "<a/>",
    V.ByteString: "00ff",
    V.NodeId: "ns=2;s=Line.Temp",
    V.StatusCode: "BadNodeIdUnknown",
}
STRANGE: list[ua.Variant] = [
    ua.Variant([1.0, 2.0, 3.0], V.Double),
    ua.Variant([], V.Double),
    ua.Variant(["a", None, "c"], V.String),
    ua.Variant([[1, 2], [3, 4]], V.Int32),
    ua.Variant(ua.Range(0.0, 100.0), V.ExtensionObject),
    ua.Variant([ua.Range(0.0, 1.0), ua.Range(2.0, 3.0)], V.ExtensionObject),
    ua.Variant(ua.DataValue(ua.Variant(1.5, V.Double), SourceTimestamp=WHEN), V.DataValue),
    ua.Variant([ua.Variant(1, V.Int32), ua.Variant("x", V.String)], V.Variant),
    ua.Variant(ua.DiagnosticInfo(SymbolicId=1, AdditionalInfo="why"), V.DiagnosticInfo),
]


def encode_item(
    value: ua.Variant | None, status: int | None = None, source: int | None = None, server: int | None = None, pico: int = 0
) -> bytes:
    """A DataValue in the order of the standard; asyncua's encoder puts both times before both picoseconds."""
    mask = (value is not None) | (status is not None) << 1 | (source is not None) << 2 | (server is not None) << 3 | pico << 4
    out = bytes([mask])
    out += variant_to_binary(value) if value is not None else b""
    out += struct.pack("<I", status) if status is not None else b""
    out += struct.pack("<q", source) if source is not None else b""
    out += b"\x11\x22" if pico & 1 else b""
    out += struct.pack("<q", server) if server is not None else b""
    return out + (b"\x33\x44" if pico & 2 else b"")


def publish(*blocks: bytes, count: int | None = None, sequence: int = 7) -> bytes:
    """A publish response whose data change notifications have these bodies (item count and items)."""
    response = ua.PublishResponse()
    response.ResponseHeader.StringTable = ["one", "two"]
    response.ResponseHeader.ServiceDiagnostics = ua.DiagnosticInfo(AdditionalInfo="fine")
    response.Parameters.SubscriptionId = 42
    response.Parameters.AvailableSequenceNumbers = [5, 6, 7]
    response.Parameters.NotificationMessage = ua.NotificationMessage(SequenceNumber=sequence, PublishTime=WHEN)
    whole = struct_to_binary(response)
    tail = 12  # no notifications, no results, no diagnostics: three empty arrays
    out = whole[:-tail] + struct.pack("<i", len(blocks) if count is None else count)
    for body in blocks:
        out += b"\x01\x00" + struct.pack("<HBi", 811, 1, len(body)) + body
    return out + whole[-8:]


def items(*encoded: bytes) -> bytes:
    body = b"".join(struct.pack("<I", handle) + item for handle, item in enumerate(encoded))
    return struct.pack("<i", len(encoded)) + body + struct.pack("<i", 0)


def changes_of(*encoded: bytes) -> Changes:
    found = decode_publish(publish(items(*encoded))).changes
    assert found is not None
    assert found.handle.tolist() == list(range(len(encoded)))
    return found


def filetime(when: datetime) -> int:
    return EPOCH_DIFFERENCE + (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10


scalars = st.one_of(
    st.builds(lambda v: ua.Variant(v, V.Boolean), st.booleans()),
    *(st.builds(lambda v, k=kind: ua.Variant(v, k), st.integers(*span)) for kind, span in INTEGERS.items()),
    st.builds(lambda v: ua.Variant(v, V.Float), st.floats(width=32)),
    st.builds(lambda v: ua.Variant(v, V.Double), st.floats()),
    st.builds(lambda us: ua.Variant(WHEN + timedelta(microseconds=us), V.DateTime), st.integers(-(2**53), 2**52)),
)
odd = st.one_of(st.sampled_from([ua.Variant(v, k) for k, v in TEXTS.items()]), st.sampled_from(STRANGE), st.just(ua.Variant()))
stamps = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
data_values = st.tuples(
    st.one_of(st.none(), scalars, scalars, odd),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    stamps,
    stamps,
    st.integers(0, 3),
)


def check(found: Changes, k: int, given_item: tuple[Any, ...]) -> None:
    value, status, source, server, _ = given_item
    assert int(found.status[k]) == (status or 0)
    assert int(found.source[k]) == (source or 0)
    assert int(found.server[k]) == (server or 0)
    kind = int(found.kind[k])
    if value is None or value.VariantType is V.Null:
        assert kind == NOTHING
    elif value.VariantType in TEXTS and not value.is_array:
        assert kind == value.VariantType.value
        assert found.texts[k] == SHOWN[value.VariantType]
    elif value.is_array or value.VariantType.value > 13:
        assert kind == value.VariantType.value | (ARRAY if value.is_array else 0)
        assert found.variants[k] == variant_to_binary(value)
    else:
        assert kind == value.VariantType.value
        if value.VariantType is V.DateTime:
            assert int(found.integer[k]) == filetime(value.Value)
        elif value.VariantType in (V.Float, V.Double):
            wanted = float(np.float32(value.Value)) if value.VariantType is V.Float else value.Value
            assert found.value[k] == wanted or (math.isnan(wanted) and math.isnan(found.value[k]))
        else:
            assert int(found.integer.view(np.uint64)[k] if value.VariantType is V.UInt64 else found.integer[k]) == value.Value
            assert found.value[k] == float(value.Value)


@settings(max_examples=150, deadline=None)
@given(st.lists(data_values, min_size=1, max_size=60))
def test_any_mixture_of_types_and_masks(given_items: list[tuple[Any, ...]]) -> None:
    found = changes_of(*(encode_item(*item) for item in given_items))
    for k, item in enumerate(given_items):
        check(found, k, item)


@settings(max_examples=50, deadline=None)
@given(st.lists(data_values, max_size=40))
def test_reads_decode_the_same_way(given_items: list[tuple[Any, ...]]) -> None:
    head = struct_to_binary(ua.ReadResponse())[:-8]
    body = b"".join(encode_item(*item) for item in given_items)
    result, found = decode_read(head + struct.pack("<i", len(given_items)) + body + struct.pack("<i", 0))
    assert (result, found.handle.tolist()) == (0, list(range(len(given_items))))
    for k, item in enumerate(given_items):
        check(found, k, item)


@pytest.mark.parametrize("kind", [*INTEGERS, V.Boolean, V.Float, V.Double, V.DateTime, *TEXTS])
@pytest.mark.parametrize("mask", range(8))
def test_whole_messages_of_asyncua(kind: ua.VariantType, mask: int) -> None:
    value = {V.Boolean: True, V.Float: 1.5, V.Double: 1.5, V.DateTime: WHEN, **TEXTS}.get(kind, 100)
    item = ua.DataValue(
        ua.Variant(value, kind),
        StatusCode=ua.StatusCode(0x40900000) if mask & 1 else None,
        SourceTimestamp=WHEN if mask & 2 else None,
        ServerTimestamp=WHEN if mask & 4 else None,
    )
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 9
    notification = ua.DataChangeNotification(
        MonitoredItems=[ua.MonitoredItemNotification(ClientHandle=handle, Value=item) for handle in (3, 1, 2)]
    )
    response.Parameters.NotificationMessage = ua.NotificationMessage(
        SequenceNumber=11, NotificationData=[notification, notification]
    )
    found = decode_publish(struct_to_binary(response))
    assert (found.subscription, found.sequence, found.keep_alive, found.closed) == (9, 11, False, None)
    assert found.changes is not None
    assert found.changes.handle.tolist() == [3, 1, 2, 3, 1, 2]
    assert set(found.changes.kind.tolist()) == {kind.value}
    assert set(found.changes.status.tolist()) == {0x40900000 if mask & 1 else 0}
    assert set(found.changes.source.tolist()) == {filetime(WHEN) if mask & 2 else 0}
    assert set(found.changes.server.tolist()) == {filetime(WHEN) if mask & 4 else 0}
    if kind in TEXTS:
        assert len(found.changes.texts) == 6
    elif kind is V.DateTime:
        assert set(found.changes.integer.tolist()) == {filetime(WHEN)}
    else:
        assert set(found.changes.value.tolist()) == {float(value)}


def test_ten_thousand_equal_items_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    plain = np.frombuffer

    def counting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return plain(*args)

    monkeypatch.setattr("adapters.opcua.decode.np.frombuffer", counting)
    found = changes_of(*(encode_item(ua.Variant(float(i), V.Double), source=FILETIME) for i in range(10_000)))
    assert found.value.tolist() == [float(i) for i in range(10_000)]
    assert calls < 12


def test_keep_alive() -> None:
    found = decode_publish(publish(sequence=3))
    assert (found.keep_alive, found.changes, found.sequence, found.subscription) == (True, None, 3, 42)


def test_the_end_of_a_subscription_is_seen_beside_data() -> None:
    response = ua.PublishResponse()
    change = ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))
    response.Parameters.NotificationMessage = ua.NotificationMessage(NotificationData=[change])
    found = decode_publish(struct_to_binary(response))
    assert (found.keep_alive, found.closed, found.changes) == (False, ua.StatusCodes.BadTimeout, None)


def test_events_are_walked_over() -> None:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 4
    response.Parameters.NotificationMessage = ua.NotificationMessage(
        NotificationData=[
            ua.EventNotificationList(Events=[ua.EventFieldList(ClientHandle=1, EventFields=[ua.Variant("x")])]),
            ua.DataChangeNotification(
                MonitoredItems=[ua.MonitoredItemNotification(ClientHandle=5, Value=ua.DataValue(ua.Variant(2.0)))]
            ),
        ]
    )
    found = decode_publish(struct_to_binary(response))
    assert found.changes is not None
    assert (found.changes.handle.tolist(), found.changes.value.tolist()) == ([5], [2.0])


def test_a_bad_service_result_is_handed_on() -> None:
    response = ua.PublishResponse()
    response.ResponseHeader.ServiceResult = ua.StatusCode(ua.StatusCodes.BadTooManyPublishRequests)
    assert decode_publish(struct_to_binary(response)).result == ua.StatusCodes.BadTooManyPublishRequests


def test_another_message_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="publish"):
        decode_publish(struct_to_binary(ua.ReadResponse()))
    with pytest.raises(MalformedMessage, match="read"):
        decode_read(struct_to_binary(ua.PublishResponse()))


GOOD = publish(items(*(encode_item(v, 0, FILETIME, FILETIME, 3) for v in (*STRANGE, ua.Variant(1.0), ua.Variant("text")))))


def test_every_truncation_is_told() -> None:
    assert decode_publish(GOOD).changes is not None
    for size in range(len(GOOD) - 8):  # results and diagnostics behind are not read
        with pytest.raises(MalformedMessage):
            decode_publish(GOOD[:size])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_raise_only_the_typed_error(damage: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, byte in damage:
        data[at] = byte
    with suppress(MalformedMessage):
        decode_publish(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_raises_only_the_typed_error(garbage: bytes, behind_header: bool) -> None:
    data = publish(struct.pack("<i", 1000) + garbage) if behind_header else garbage
    for decode in (decode_publish, decode_read):
        with pytest.raises(MalformedMessage):
            decode(data)


@pytest.mark.parametrize("n", [2**31 - 1, 10**6, -2])
def test_a_lying_count_allocates_nothing(n: int) -> None:
    for data in (publish(count=n), publish(struct.pack("<i", n)), publish(items(b"\x01\x8b" + struct.pack("<i", n)))):
        with pytest.raises(MalformedMessage):
            decode_publish(data)


def test_an_array_of_nothing_is_not_counted_through() -> None:
    with pytest.raises(MalformedMessage):
        decode_publish(publish(items(b"\x01\x80" + struct.pack("<i", 2**31 - 1))))


@pytest.mark.parametrize(
    ("node", "shown"),
    [
        (ua.NodeId(7), "i=7"),
        (ua.NodeId(70_000, 3), "ns=3;i=70000"),
        (ua.NodeId(uuid.UUID(int=7), 300), "ns=300;g=00000000-0000-0000-0000-000000000007"),
        (ua.NodeId(b"abc", 3), "ns=3;b=YWJj"),
        (ua.ExpandedNodeId(7, 0, NamespaceUri="http://acme.example", ServerIndex=3), "i=7"),
    ],
)
def test_node_ids_are_shown_as_people_write_them(node: ua.NodeId, shown: str) -> None:
    kind = V.ExpandedNodeId if isinstance(node, ua.ExpandedNodeId) else V.NodeId
    assert changes_of(encode_item(ua.Variant(node, kind))).texts == {0: shown}


def test_large_values_are_marked_and_take_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.opcua.decode.MAX_NUMBERS", 800)
    monkeypatch.setattr("adapters.opcua.decode.MAX_VALUE", 100)
    large = [
        ua.Variant("x" * 200, V.String),
        ua.Variant(b"x" * 200, V.ByteString),
        ua.Variant(["x"] * 30, V.String),
        ua.Variant([1.0] * 200, V.Double),
    ]
    found = changes_of(*(encode_item(value) for value in (*large, ua.Variant(4.0, V.Double), ua.Variant([1.0] * 100, V.Double))))
    assert found.kind.tolist() == [TOO_LARGE] * 4 + [V.Double.value, V.Double.value | ARRAY]
    assert (found.texts, list(found.variants), found.value[4]) == ({}, [5], 4.0)


def test_what_a_message_may_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text costs a step of Python: a message of 16 MiB could hold millions of them."""
    nothings = ua.Variant([ua.Variant()] * 1000, V.Variant)
    data = publish(items(*[encode_item(nothings)] * 300))
    with pytest.raises(MalformedMessage, match="in one message"):
        decode_publish(data)
    assert decode_publish(publish(items(*[encode_item(nothings)] * 200))).changes is not None
    monkeypatch.setattr("adapters.opcua.decode.MAX_ITEMS", 10)
    with pytest.raises(MalformedMessage, match="11 values"):
        decode_publish(publish(items(*[encode_item(ua.Variant(1.0))] * 11)))


def test_nesting_is_bounded() -> None:
    deep = b"\x01" + b"\x18" * 100_000 + b"\x00"
    with pytest.raises(MalformedMessage, match="nested"):
        decode_publish(publish(items(deep)))
    with pytest.raises(MalformedMessage, match="nested"):
        wire.diagnostics_end(b"\x40" * 100_000, 0)
