"""Large messages: what decoding them costs, that it does not hold the event loop, and that answers stay in order."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from adapters.opcua.conditions import decode_events
from adapters.opcua.decode import MAX_ITEMS, decode_history, decode_publish
from adapters.opcua.large import LARGE, decoded
from adapters.opcua.rows import Rows
from adapters.opcua.wire import MalformedMessage
from schemas import quality as q
from tests.adapters.opcua.rig import bind, configure
from tests.adapters.opcua.test_decode import V, encode_item, items, publish

NOW = 1_767_225_600_000_000
STAMP = 134_170_600_000_000_000


def notification(*encoded: bytes, tags: int = 100) -> bytes:
    body = b"".join(struct.pack("<I", k % tags) + item for k, item in enumerate(encoded))
    return publish(struct.pack("<i", len(encoded)) + body + struct.pack("<i", 0))


def rows() -> Rows:
    return Rows(bind(configure({f"t{k}": f"ns=2;i={k}" for k in range(100)})))


def quickest(run: Callable[[], object]) -> float:
    """CPU seconds of the best of three: other work on this machine is not what is measured."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        run()
        took.append(time.thread_time() - began)
    return min(took)


NUMBER = encode_item(ua.Variant(1.5, V.Double), 0, STAMP, STAMP)
SWITCH = encode_item(ua.Variant(True, V.Boolean), 0, STAMP, STAMP)
MIXTURES = {
    "numbers and switches": (NUMBER, SWITCH),
    "numbers and switches of one byte": (encode_item(ua.Variant(1, V.Byte)), encode_item(ua.Variant(1, V.Int16))),
    "nothing and a status": (b"\x00", b"\x02\x00\x00\x00\x00"),
    "nothing at all": (b"\x00", b"\x00"),
}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_types_that_alternate_cost_no_step_of_numpy_each(mixture: tuple[bytes, bytes]) -> None:
    message = notification(*(mixture * (MAX_ITEMS // 2)))
    assert quickest(lambda: decode_publish(message)) < 0.25, "0.5 s as views of one value each"


def test_a_mixture_of_everything_is_read_as_each_alone() -> None:
    kinds = [NUMBER, SWITCH, encode_item(ua.Variant("a", V.String), None, STAMP), b"\x00", encode_item(ua.Variant([1, 2], V.Int32)),
             encode_item(ua.Variant(-7, V.Int64), q.OVERFLOW), b"\x02\x00\x00\x34\x80", encode_item(ua.Variant(5, V.UInt16), 0, 1, 2, 3)]  # fmt: skip
    encoded = [kinds[k * k % len(kinds)] if k % 3 else kinds[k % len(kinds)] for k in range(600)]
    found = decode_publish(notification(*encoded, tags=600)).changes
    assert found is not None
    assert found.handle.tolist() == list(range(600))
    for k, one in enumerate(encoded):
        alone = decode_publish(publish(items(one))).changes
        assert alone is not None
        for name in ("kind", "value", "integer", "status", "source", "server"):
            assert getattr(found, name)[k] == getattr(alone, name)[0], (k, name)
        assert (found.texts.get(k), found.variants.get(k)) == (alone.texts.get(0), alone.variants.get(0))


def test_a_mixture_that_is_cut_short_is_malformed() -> None:
    whole = notification(*((NUMBER, SWITCH) * 40))
    assert decode_publish(whole).changes is not None
    for cut in range(20, 700, 7):
        with pytest.raises(MalformedMessage):
            decode_publish(whole[:-cut])


def test_many_of_something_small_are_refused_before_they_cost_time() -> None:
    """Control: a few of each pass. Each of these took between 0.4 and 2 s in 4 MiB."""

    def with_blocks(n: int, block: bytes) -> bytes:
        empty = publish()
        return empty[:-12] + struct.pack("<i", n) + block * n + empty[-8:]

    def with_texts(n: int) -> bytes:
        plain = bytes(struct_to_binary(ua.PublishResponse()))
        at = 4 + 8 + 4 + 4 + 1  # type, timestamp, request handle, result, no diagnostics
        return plain[:at] + struct.pack("<i", n) + b"\xff\xff\xff\xff" * n + plain[at + 4 :]

    def with_nodes(n: int, values: int = 0) -> bytes:
        empty = bytes(struct_to_binary(ua.HistoryReadResponse()))
        data = struct.pack("<HBi", 658, 1, 4 + values) + struct.pack("<i", values) + bytes(values)
        return empty[:-8] + struct.pack("<i", n) + (struct.pack("<Ii", 0, -1) + b"\x01\x00" + data) * n + struct.pack("<i", 0)

    def with_fields(events: int, fields: int) -> bytes:
        return struct.pack("<i", events) + (struct.pack("<Ii", 1, fields) + bytes(fields)) * events

    events = b"\x01\x00" + struct.pack("<HBi", 916, 1, 4) + struct.pack("<i", 0)
    for decode, few, many in (
        (decode_publish, with_blocks(3, events), with_blocks(20_000, events)),
        (decode_publish, with_blocks(3, b"\0\0\0"), with_blocks(1_000_000, b"\0\0\0")),
        (decode_publish, with_texts(3), with_texts(1_000_000)),
        (decode_history, with_nodes(3), with_nodes(200_000)),
        (decode_history, with_nodes(3, 1000), with_nodes(20, MAX_ITEMS)),
        (decode_events, with_fields(3, 13), with_fields(1, 4_000_000)),
        (decode_events, with_fields(3, 13), with_fields(100_000, 13)),
    ):
        decode(few)

        def refused(decode: Callable[[bytes], object] = decode, many: bytes = many) -> None:
            with pytest.raises(MalformedMessage):
                decode(many)

        assert quickest(refused) < 0.1


LISTS = {
    "texts": [encode_item(ua.Variant("abcdefgh", V.String), 0, STAMP, STAMP)] * 60_000,
    "lists of texts": [encode_item(ua.Variant([""] * 10_000, V.String))] * 20,
    "lists of 64-bit integers": [encode_item(ua.Variant([10**15] * 10_000, V.Int64))] * 50,
}


@pytest.mark.parametrize("encoded", LISTS.values(), ids=LISTS)
async def test_others_go_on_while_a_large_message_is_decoded(encoded: list[bytes]) -> None:
    message, made = notification(*encoded), rows()
    assert len(message) > LARGE

    def decode(answer: bytes) -> object:
        found = decode_publish(answer).changes
        assert found is not None
        made.prepare(found)
        return found

    whole = quickest(lambda: decode(message))
    assert whole > 0.05, "not a large message"
    began = time.thread_time()
    found = await decoded(decode, message)
    assert time.thread_time() - began < 0.05, "decoded on the event loop"
    assert quickest(lambda: made.batch(found, NOW)) < 0.1  # type: ignore[arg-type]


async def test_small_messages_take_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("in a thread")

    monkeypatch.setattr(asyncio, "to_thread", never)
    assert await decoded(len, bytes(LARGE)) == LARGE
    with pytest.raises(AssertionError, match="in a thread"):
        await decoded(len, bytes(LARGE + 1))


def test_prepared_or_not_a_message_makes_the_same_rows() -> None:
    config = configure(
        {"list": {"address": "ns=2;s=A", "type": "array of string"}, "one": {"address": "ns=2;s=B", "index": 1},
         "two": {"address": "ns=2;s=B", "index": 0}, "plain": "ns=2;s=C"}
    )  # fmt: skip
    kinds = [ua.Variant(["x", "y"], V.String), ua.Variant(["p", "q"], V.String), ua.Variant(1.5), ua.Variant(2.5)]
    body = b"".join(struct.pack("<I", k) + encode_item(kind, 0, STAMP) for k, kind in zip((0, 1, 3, 99), kinds, strict=True))
    message = publish(struct.pack("<i", 4) + body + struct.pack("<i", 0))
    batches = []
    for ahead in (False, True):
        made, found = Rows(bind(config)), decode_publish(message).changes
        assert found is not None
        if ahead:
            made.prepare(found)
            assert len(found.prepared) == 2
        batches.append(made.batch(found, NOW))
    assert batches[0] is not None
    assert batches[0].equals(batches[1])
    assert batches[0].column("text").to_pylist() == ['["x","y"]', None, "q", "p"]


def test_gaps_of_many_overflows_are_told_at_once_and_each_since_the_value_before() -> None:
    encoded = encode_item(ua.Variant(1.0), q.OVERFLOW, STAMP)
    found = decode_publish(notification(*([encoded] * 50_000))).changes
    assert found is not None
    made = rows()
    assert quickest(lambda: made.overflows(found, NOW, "robot")) < 0.15
    few = decode_publish(
        notification(
            encode_item(ua.Variant(1.0), 0, STAMP),
            encode_item(ua.Variant(2.0), q.OVERFLOW, STAMP + 50),
            encode_item(ua.Variant(3.0), q.OVERFLOW, STAMP + 100),
            encode_item(ua.Variant(4.0), q.OVERFLOW, STAMP + 100),
            tags=2,
        )
    ).changes
    assert few is not None
    made.last_us[1] = 2**60  # a clock that went back
    gaps = made.overflows(few, NOW, "robot")
    assert gaps is not None
    lengths = np.subtract(gaps.column("end").cast("int64"), gaps.column("time").cast("int64")).tolist()
    assert (gaps.column("tag").to_pylist(), lengths) == ([100, 101, 101], [10, 0, 5])
