"""What a lying message costs: nothing behind the guard, and memory without end without it. The bytes were found by fuzzing."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, variant_from_binary

from adapters.opcua.channel import MAX_FIELDS, GuardedBuffer
from adapters.opcua.connection import failures, open_connection
from adapters.opcua.wire import MalformedMessage
from schemas.errors import NotConnected
from tests.fuzz.opcua_targets import CONFIG, conversation
from tests.fuzz.wires import WireLoop, replying

MANY = 200_000
STRINGS, NULLS, MATRIX, BYTES = 0x80 | 12, 0x80, 0xC0 | 6, 0x80 | 3


def backwards(count: int) -> bytes:
    """An array of strings; the first has -4 bytes, so that its length is read again as that of the second, and so on."""
    return struct.pack("<Bii", STRINGS, count, -4)


def nulls(count: int) -> bytes:
    """An array of nulls, which have no bytes."""
    return struct.pack("<Bi", NULLS, count)


def made_up(count: int) -> bytes:
    """A matrix of one element and dimensions for many."""
    return struct.pack("<Biiiii", MATRIX, 1, 7, 2, count // 2, 2)


@pytest.mark.parametrize("lie", [backwards, nulls, made_up])
def test_a_count_that_lies_is_an_error_before_it_costs_anything(lie: Callable[[int], bytes]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            variant_from_binary(GuardedBuffer(lie(2**31 - 2)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lie", [backwards, nulls])
def test_the_library_alone_believes_it(lie: Callable[[int], bytes]) -> None:
    """The control: where asyncua bounds these itself the guard can go."""
    assert len(variant_from_binary(Buffer(lie(MANY))).Value) == MANY


def test_a_message_of_many_fields_is_cut_off() -> None:
    many = struct.pack("<Bi", 0x80 | 24, 3 * MAX_FIELDS) + bytes(3 * MAX_FIELDS)  # variants that are null, one byte each
    with pytest.raises(MalformedMessage, match="more than"):
        variant_from_binary(GuardedBuffer(many))


@pytest.mark.parametrize(
    "value",
    [
        ua.Variant([], ua.VariantType.String), ua.Variant([None, "", "x"], ua.VariantType.String), ua.Variant(b"", ua.VariantType.ByteString),
        ua.Variant([[1, 2, 3], [4, 5, 6]], ua.VariantType.Int32), ua.Variant([[[1.5]]], ua.VariantType.Double), ua.Variant(),
        ua.Variant([ua.Variant()] * 100, ua.VariantType.Variant), ua.Variant([ua.Range(0.0, 1.0)] * 3, ua.VariantType.ExtensionObject),
        ua.Variant(list(range(256)), ua.VariantType.Byte),
    ],
)  # fmt: skip
def test_what_does_not_lie_is_read_as_before(value: ua.Variant) -> None:
    encoded = struct_to_binary(ua.DataValue(value))
    guarded, plain = (struct_from_binary(ua.DataValue, buffer(encoded)).Value for buffer in (GuardedBuffer, Buffer))
    assert guarded == plain


def test_a_thousand_references_are_far_from_the_bound() -> None:
    description = ua.ReferenceDescription(
        ReferenceTypeId=ua.NodeId(35), IsForward=True, NodeId=ua.ExpandedNodeId("Line.Temp", 2), BrowseName=ua.QualifiedName("Temp", 2),
        DisplayName=ua.LocalizedText("Temp", "en"), NodeClass=ua.NodeClass.Variable, TypeDefinition=ua.ExpandedNodeId(63),
    )  # fmt: skip
    response = ua.BrowseResponse(Results=[ua.BrowseResult(References=[description] * 1000)])
    buffer = GuardedBuffer(struct_to_binary(response))
    before = buffer._left[0]
    assert len(struct_from_binary(ua.BrowseResponse, buffer).Results[0].References) == 1000
    assert before - buffer._left[0] < MAX_FIELDS / 4


def test_a_message_nested_without_end_is_not_connected() -> None:
    """Inner diagnostics, a byte each."""
    response = struct_to_binary(ua.ActivateSessionResponse())
    deep = response[:20] + b"\x40" * 20_000 + response[20:]

    async def decode() -> None:
        async with failures("opc.tcp://10.0.0.9"):
            struct_from_binary(ua.ActivateSessionResponse, GuardedBuffer(deep))

    loop = WireLoop()
    with pytest.raises(NotConnected):
        loop.run(lambda wire, data: None, decode())
    loop.close()


def test_a_channel_whose_opening_cannot_be_read_is_not_connected() -> None:
    """asyncua asserts that it could be read; the task crashed, and was reported as a bug of the gateway."""
    acknowledge, opened, *_ = conversation()
    at = opened.index(struct.pack("<ii", 1, 3) + b"one")  # the string table of its header
    broken = opened[:at] + struct.pack("<i", 2**31 - 1) + opened[at + 4 :]
    loop = WireLoop()
    with pytest.raises(NotConnected):
        loop.run(replying([[acknowledge], [broken]]), open_connection(CONFIG, "fuzz", Path(), Path()))
    loop.close()
