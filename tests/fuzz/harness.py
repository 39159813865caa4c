"""What every decoder keeps, whatever bytes come: errors of its documented kinds only, memory in proportion to the input, no hang.

A `Target` is one decoder behind a function of bytes. `judge` runs it on one input and raises `Violation` with what was broken and
the bytes that did it, ready to be pasted into a regression test. Both the hypothesis tests and the coverage-guided runs use it.
"""

from __future__ import annotations

import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

LONGEST_S: Final = 0.1
"""CPU time of one input, in a decoder that runs on the event loop."""
_CUT_OFF: Final = 20  # times that, after which a run is ended
_TRIES: Final = 4  # of an input that took too much: a collection of garbage or a cold cache does not strike each time
_FIXED_BYTES: Final = 1 << 20


class Violation(AssertionError):
    """A decoder broke one of its promises."""


class _Hang(BaseException):
    """Not an Exception: a decoder that catches everything must not catch this."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `errors` are the kinds it documents; `bytes_per_byte` bounds the memory that an input byte may cost.

    `fixed_bytes` may be taken whatever comes (a table, a state). `seeds` are well-formed inputs, from which the search starts.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    errors: tuple[type[Exception], ...] = ()
    bytes_per_byte: int = 512
    fixed_bytes: int = _FIXED_BYTES
    longest_s: float = LONGEST_S
    longest: int = 4096
    """Bytes of an input; what a decoder does with long ones is a test of its own."""


def judge(target: Target, data: bytes) -> None:
    """Run `target` on `data`. Raises Violation."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    allowed = target.fixed_bytes + target.bytes_per_byte * len(data)
    try:
        took_s, took_bytes = _once(target, data)
        for _ in range(_TRIES - 1):
            if took_s <= target.longest_s and took_bytes <= allowed:
                break
            again_s, again_bytes = _once(target, data)
            took_s, took_bytes = min(took_s, again_s), min(took_bytes, again_bytes)
    finally:
        if not tracing:
            tracemalloc.stop()
    if took_s > target.longest_s:
        raise Violation(f"{target.name}: took {took_s:.3f} s of CPU time, every time: {_shown(data)}")
    if took_bytes > allowed:
        raise Violation(f"{target.name}: took {took_bytes} bytes for {len(data)} ({allowed} are allowed): {_shown(data)}")


def _once(target: Target, data: bytes) -> tuple[float, int]:
    """CPU seconds of one run, and the most bytes that it took on top of what was there before."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        with _alarm(_CUT_OFF * target.longest_s):
            began = time.thread_time()
            with suppress(target.errors):
                target.run(data)
            took_s = time.thread_time() - began
    except _Hang:
        raise Violation(
            f"{target.name}: still at work after {_CUT_OFF * target.longest_s:g} s of CPU time: {_shown(data)}"
        ) from None
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"{target.name}: {type(error).__name__} is not among its errors ({error}): {_shown(data)}") from error
    _, peak = tracemalloc.get_traced_memory()
    return took_s, peak - before


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Raises _Hang in the main thread after so much CPU time of this process."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _shown(data: bytes) -> str:
    return f"bytes.fromhex({data[:4096].hex()!r})"


def pieces(data: bytes) -> tuple[bytes, list[int]]:
    """The input of a stream decoder: payload, and the lengths of the chunks in which it arrives (repeated, none: all at once).

    The first byte says how many of the next bytes are lengths, so that a search finds chunkings as it finds contents.
    """
    if not data:
        return b"", []
    count = data[0] & 7
    return data[1 + count :], [max(1, n) for n in data[1 : 1 + count]]


def chunks(payload: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """`payload` in chunks of these sizes, over and over."""
    if not sizes:
        if payload:
            yield payload
        return
    at = number = 0
    while at < len(payload):
        size = sizes[number % len(sizes)]
        yield payload[at : at + size]
        at += size
        number += 1


def whole(payload: bytes) -> bytes:
    """The input of a stream decoder that arrives at once."""
    return b"\0" + payload


def dripping(payload: bytes) -> bytes:
    """The input of a stream decoder that arrives byte by byte."""
    return b"\1\1" + payload
