"""Every decoder keeps its promises for whatever comes, and the harness sees it when one does not."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.harness import Target, Violation, chunks, judge, pieces
from tests.fuzz.wires import WireLoop, replying

SLOW = {
    "modbus-tcp": 100,
    "modbus-udp": 100,
    "modbus-ascii": 150,
    "modbus-identification": 150,
    "modbus-rtu": 150,
    "modbus-values": 200,
    "opcua-session": 80,
    "s7-stream": 200,
    "s7-values": 150,
    "s7plus-values": 100,
    "configuration": 25,
    "tag-lists": 60,
}
"""Examples of targets that take more than a fraction of a millisecond; the others have 250. `make fuzz` searches longer."""
LIES = [struct.pack(form, n) for n in (0, 1, 4, 0x7FFF_FFFF, 0xFFFF_FFFC, 0xFFFF_FFFF, 0x8000_0000) for form in ("<I", ">I")]
LIES += [struct.pack(form, n) for n in (0, 0x7FFF, 0xFFFF, 0x8000) for form in ("<H", ">H")]


def mutations(seeds: Sequence[bytes], longest: int) -> st.SearchStrategy[bytes]:
    """Well-formed inputs with bytes changed, taken out, put in, doubled, or replaced by a count that lies; and any bytes at all."""
    edit = st.tuples(
        st.sampled_from(["set", "cut", "put", "lie", "double"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6),
        st.sampled_from(LIES),
    )

    def apply(seed: bytes, edits: list[tuple[str, float, bytes, bytes]]) -> bytes:
        out = bytearray(seed)
        for what, where, some, lie in edits:
            at = int(where * (len(out) + 1))
            match what:
                case "set":
                    out[at : at + len(some)] = some
                case "cut":
                    del out[at : at + len(some)]
                case "put":
                    out[at:at] = some
                case "lie":
                    out[at : at + len(lie)] = lie
                case _:
                    out[at:at] = out[at : at + 64]
        return bytes(out[:longest])

    mutated = st.builds(apply, st.sampled_from(seeds), st.lists(edit, max_size=6))
    return st.one_of(mutated, mutated, mutated, st.binary(max_size=min(longest, 200)))


@pytest.mark.parametrize("name", TARGETS)
def test_well_formed_inputs_and_what_resembles_them(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        judge(target, seed)

    @settings(max_examples=SLOW.get(name, 250), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations(seeds, target.longest))
    def search(data: bytes) -> None:
        judge(target, data)

    search()


# Controls: decoders that break one promise each


def _unbounded(data: bytes) -> None:
    [0] * min(int.from_bytes(data[:4]), 1 << 24)


def _endless(data: bytes) -> None:
    while data:
        pass


def _slow(data: bytes) -> None:
    until = time.thread_time() + 0.15 * bool(data)
    while time.thread_time() < until:
        pass


def _untyped(data: bytes) -> int:
    return data[0]


def _swallows_everything(data: bytes) -> None:
    while data:
        with contextlib.suppress(Exception):
            sum(range(100))


@pytest.mark.parametrize(
    ("run", "data", "said"),
    [
        (_unbounded, b"\x7f\xff\xff\xff", "took 134"),
        (_endless, b"x", "still at work"),
        (_slow, b"x", "of CPU time, every time"),
        (_untyped, b"", "IndexError is not among its errors"),
        (_swallows_everything, b"x", "still at work"),
    ],
)
def test_a_decoder_that_breaks_a_promise_is_seen(run: object, data: bytes, said: str) -> None:
    target = Target("control", run, lambda: [b""], errors=(ValueError,), longest_s=0.1)  # type: ignore[arg-type]
    with pytest.raises(Violation, match=said) as caught:
        judge(target, data)
    assert data.hex() in str(caught.value)


def test_a_search_finds_a_count_that_is_believed() -> None:
    """The same decoder behind a well-formed seed: the lies of the search are what breaks it."""

    def believes(data: bytes) -> None:
        count = int.from_bytes(data[:4], "little") if len(data) >= 4 else 0
        [0] * min(count, 1 << 24)

    target = Target("control", believes, lambda: [struct.pack("<I", 3) + b"abc"])

    @settings(
        max_examples=400,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(target.seeds(), 100))
    def search(data: bytes) -> None:
        judge(target, data)

    with pytest.raises(Violation, match="took 134"):
        search()


def test_what_a_callback_raises_and_what_is_left_behind_is_seen() -> None:
    class Broken(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise KeyError(data)

    async def ask(loop: WireLoop) -> None:
        wire, _ = await loop.create_connection(Broken)
        wire.write(b"?")
        await asyncio.sleep(1)
        wire.close()

    async def leave(loop: WireLoop) -> None:
        loop.create_task(asyncio.sleep(1e9))

    loop = WireLoop()
    with pytest.raises(KeyError):
        loop.run(replying([[b"!"]]), ask(loop))
    with pytest.raises(Violation, match="left behind"):
        loop.run(lambda wire, data: None, leave(loop))
    loop.close()


def test_a_stream_arrives_in_the_chunks_that_the_input_says() -> None:
    payload, sizes = pieces(b"\2\1\3abcdefgh")
    assert (payload, sizes) == (b"abcdefgh", [1, 3])
    assert list(chunks(payload, sizes)) == [b"a", b"bcd", b"e", b"fgh"]
    assert list(chunks(b"abc", [])) == [b"abc"]
