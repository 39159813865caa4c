"""What a lying server can do to asyncua's decoder: nothing that takes long, nothing that takes memory."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer, NotEnoughData
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, variant_from_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.opcua import connection, guard
from adapters.opcua.connection import _browses
from adapters.opcua.guard import BoundedBuffer, bounded
from adapters.opcua.wire import MalformedMessage

ALLOWED = (MalformedMessage, NotEnoughData, ua.UaError, ValueError, LookupError, struct.error, RecursionError)


def read_response(*values: ua.Variant) -> bytes:
    response = ua.ReadResponse(Results=[ua.DataValue(value) for value in values])
    return bytes(struct_to_binary(response))


def browse_response(references: int) -> bytes:
    reference = ua.ReferenceDescription(BrowseName=ua.QualifiedName("Temp", 2), DisplayName=ua.LocalizedText("Temp"))
    return bytes(struct_to_binary(ua.BrowseResponse(Results=[ua.BrowseResult(References=[reference] * references)])))


def test_honest_answers_pass_unchanged() -> None:
    values = [ua.Variant(1.5), ua.Variant(["a", "b"]), ua.Variant([[1, 2], [3, 4]], ua.VariantType.Int32), ua.Variant()]
    found = struct_from_binary(ua.ReadResponse, bounded(Buffer(read_response(*values))))
    assert [result.Value.Value for result in found.Results] == [1.5, ["a", "b"], [[1, 2], [3, 4]], None]
    browsed = struct_from_binary(ua.BrowseResponse, bounded(Buffer(browse_response(5000)), browsing=True))
    assert len(browsed.Results[0].References) == 5000
    byte = ua.DataValue(ua.Variant(128, ua.VariantType.Byte), StatusCode=ua.StatusCode(0x40900000))
    found = struct_from_binary(ua.ReadResponse, bounded(Buffer(bytes(struct_to_binary(ua.ReadResponse(Results=[byte]))))))
    assert found.Results[0].Value.Value == 128


def test_an_array_of_nothing_would_be_counted_through_without_the_guard() -> None:
    nothings = b"\x80" + struct.pack("<i", 3_000_000)
    began = time.process_time()
    assert len(variant_from_binary(Buffer(nothings)).Value) == 3_000_000  # a control: five bytes, and it may say 2**31
    assert time.process_time() - began > 0.02
    with pytest.raises(MalformedMessage, match="nothings"):
        variant_from_binary(BoundedBuffer(nothings))
    response = read_response(ua.Variant(1.0))
    lying = response.replace(b"\x03\x0b" + struct.pack("<d", 1.0), b"\x03" + nothings)
    assert lying != response
    with pytest.raises(MalformedMessage):
        bounded(Buffer(lying))


def test_steps_and_size_of_an_answer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    items = ua.CreateMonitoredItemsResponse(Results=[ua.MonitoredItemCreateResult()] * 500)
    monkeypatch.setattr(guard, "MAX_READS", 1000)
    monkeypatch.setattr(guard, "MAX_BROWSE_READS", 5000)
    browsed = browse_response(600)
    for kind, answer, browsing in ((ua.BrowseResponse, browsed, True), (type(items), bytes(struct_to_binary(items)), False)):
        with pytest.raises(MalformedMessage, match="steps"):
            struct_from_binary(kind, bounded(Buffer(answer), browsing=browsing))
    monkeypatch.setattr(guard, "MAX_ANSWER", 1000)
    bounded(Buffer(browsed), browsing=True)
    with pytest.raises(MalformedMessage, match="bytes"):
        bounded(Buffer(browsed))  # what an answer says of itself opens no wider bound


@pytest.mark.parametrize(
    ("request_", "wide"),
    [
        (ua.BrowseRequest(), True),
        (ua.BrowseNextRequest(), True),
        (ua.BrowseRequest(Parameters=ua.BrowseParameters(RequestedMaxReferencesPerNode=1)), False),
        (ua.ReadRequest(), False),
    ],
)
def test_only_who_browses_may_be_told_much(request_: ua.UaBase, wide: bool) -> None:
    assert _browses(request_) is wide


def test_no_answer_that_the_library_decodes_holds_the_event_loop() -> None:
    """At the bound: results of monitored items, which are the most costly per byte of what a session asks for."""
    items = ua.CreateMonitoredItemsResponse(Results=[ua.MonitoredItemCreateResult()] * 60_000)
    answer = bytes(struct_to_binary(items))
    took = []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(MalformedMessage, match="steps"):
            struct_from_binary(type(items), bounded(Buffer(answer)))
        took.append(time.thread_time() - began)
    assert min(took) < 0.3
    struct_from_binary(type(items), Buffer(answer))  # without the bound it is decoded to the end


def test_history_is_walked_over() -> None:
    data = ua.HistoryData(DataValues=[ua.DataValue(ua.Variant(1.0)), ua.DataValue(ua.Variant(2.0))])
    response = bytes(struct_to_binary(ua.HistoryReadResponse(Results=[ua.HistoryReadResult(HistoryData=data)])))
    found = struct_from_binary(ua.HistoryReadResponse, bounded(Buffer(response)))
    assert [value.Value.Value for value in found.Results[0].HistoryData.DataValues] == [1.0, 2.0]
    lying = response.replace(b"\x03\x0b" + struct.pack("<d", 1.0), b"\x03\x80" + struct.pack("<i", 2**31 - 1) + b"\0\0\0\0")
    with pytest.raises(MalformedMessage):
        bounded(Buffer(lying))


SAMPLES: list[tuple[Any, bytes]] = [
    (ua.ReadResponse, read_response(ua.Variant(1.5), ua.Variant(["a"]), ua.Variant(ua.Range(0.0, 1.0)))),
    (ua.BrowseResponse, browse_response(2)),
    (ua.CreateMonitoredItemsResponse, bytes(struct_to_binary(ua.CreateMonitoredItemsResponse(Results=[ua.MonitoredItemCreateResult()])))),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_answers_end_quickly_with_an_error_that_is_taken_for_a_lost_connection(
    sample: tuple[Any, bytes], damage: list[tuple[int, int]]
) -> None:
    kind, good = sample
    data = bytearray(good)
    for at, byte in damage:
        data[at % len(data)] = byte
    began = time.process_time()
    with suppress(*ALLOWED):
        struct_from_binary(kind, bounded(Buffer(bytes(data))))
    assert time.process_time() - began < 0.5


class Wire:
    """A transport that is written to and closed."""

    closed = False

    def write(self, data: bytes) -> None:
        """Nothing goes out."""

    def close(self) -> None:
        self.closed = True

    abort = close


@pytest.mark.parametrize(
    ("size", "most"), [(60_000, connection.MAX_MESSAGE // 60_000 + 1), (10, connection.MAX_MESSAGE // 8192 + 1)]
)
async def test_a_message_of_too_many_bytes_or_chunks_closes_the_connection(size: int, most: int) -> None:
    wire = Wire()
    protocol = connection._Transport(1.0)._make_protocol()
    protocol.connection_made(wire)
    protocol._connection._open = True  # as after the secure channel was opened without security
    sent = 0
    while not wire.closed and sent < 5000:
        sent += 1
        body = struct.pack("<III", 0, sent, 1) + bytes(size)  # token, sequence number, request
        protocol.data_received(b"MSGC" + struct.pack("<II", 12 + len(body), 0) + body)
    assert sent == most


async def test_the_server_is_told_what_is_taken() -> None:
    client = connection._Client("opc.tcp://127.0.0.1:4840", 1.0)
    assert (client.max_messagesize, client.max_chunkcount) == (connection.MAX_MESSAGE, connection.MAX_MESSAGE // 8192)
