"""Event notifications as bytes, severities, filters and the memory of what was seen: no server."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import hypothesis
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from hypothesis import strategies as st

from adapters.opcua import conditions
from adapters.opcua.conditions import Seen, decode_events, event_filter, severity
from adapters.opcua.wire import MalformedMessage


def test_severities() -> None:
    assert [severity(level) for level in (0, 1, 333, 334, 666, 667, 1000)] == ["info"] * 3 + ["warning"] * 2 + ["critical"] * 2


def test_types_are_joined_by_or() -> None:
    nodes = [ua.NodeId(2915), ua.NodeId(2130), ua.NodeId(2041)]
    (only,) = event_filter(nodes[:1]).WhereClause.Elements
    assert only.FilterOperator is ua.FilterOperator.OfType
    elements = event_filter(nodes).WhereClause.Elements
    assert [element.FilterOperator.name for element in elements] == ["Or", "Or", "OfType", "OfType", "OfType"]
    assert [[operand.Index for operand in element.FilterOperands] for element in elements[:2]] == [[2, 1], [3, 4]]
    assert event_filter([]).WhereClause.Elements == []


def test_memory_of_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_SEEN", 3)
    seen = Seen()
    assert [seen.new((k,)) for k in (1, 2, 3, 1, 4, 2)] == [True, True, True, False, True, True]
    assert len(seen.known) == 3


def notification(*fields: ua.Variant) -> bytes:
    event = ua.EventFieldList(ClientHandle=1, EventFields=list(fields))
    return bytes(struct_to_binary(ua.EventNotificationList(Events=[event])))


def test_fields_of_another_kind_than_expected_are_left_out() -> None:
    odd = [ua.Variant([1, 2], ua.VariantType.Int32), ua.Variant("x", ua.VariantType.String), ua.Variant(None)] * 6
    (event,) = decode_events(notification(*odd))
    assert (event.id, event.type, event.source, event.time_us, event.severity, event.active) == (b"", None, None, 0, 1, None)
    (short,) = decode_events(notification(ua.Variant(b"id", ua.VariantType.ByteString)))
    assert (short.id, short.message) == (b"id", "")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=200, deadline=None)
def test_a_damaged_notification_is_malformed_or_read_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(
        notification(
            ua.Variant(b"12345678", ua.VariantType.ByteString),
            ua.Variant(ua.NodeId(2915), ua.VariantType.NodeId),
            ua.Variant(ua.NodeId("Press", 2), ua.VariantType.NodeId),
            ua.Variant("Press", ua.VariantType.String),
            ua.Variant(datetime(2026, 1, 2, tzinfo=UTC), ua.VariantType.DateTime),
            ua.Variant(ua.LocalizedText("läuft", "de"), ua.VariantType.LocalizedText),
            ua.Variant(500, ua.VariantType.UInt16),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with suppress(MalformedMessage):
        decode_events(bytes(whole[:cut]))
