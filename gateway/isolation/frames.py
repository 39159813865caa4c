"""What goes over the pipes between the gateway and an isolated adapter: frames with a length and a checksum.

A frame is a header (magic, kind, kind of data, columns, length, CRC-32 of the payload; little endian, 20 bytes) and its payload.
Anything else on the pipe is `Garbled`: the process that wrote it has lost its mind and is ended, not understood.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<4sBBxxIII")
_MAGIC: Final = b"gnb1"
BEAT_S: Final = 0.5
"""Seconds between two signs of life."""
MAX_PAYLOAD: Final = 64 * 2**20
"""Bytes of what a child says; a batch is a few megabytes."""
MAX_SETUP: Final = 512 * 2**20
"""Bytes of what it is told; a configuration of 100,000 tags is some tens of megabytes."""


class Garbled(Exception):
    """What came is no frame."""


class Say(IntEnum):
    """What a frame says. The first group goes to the child, the second to the gateway."""

    SETUP = 1  # JSON: configuration, tags, context; answered
    CONNECT = 2  # answered
    READ = 3  # payload: how many batches the child may send; what ends the stream is said by ENDED
    CREDIT = 4  # one batch more
    STOP = 5  # end what is under way; answered
    CLOSE = 6  # let go of everything and exit
    INFER = 7  # rows for a model, as `requests` packs them; followed by ANSWERS

    ANSWER = 16  # JSON: how SETUP, CONNECT or STOP went
    BATCH = 17  # an Arrow record batch
    ENDED = 18  # JSON: why there are no more batches
    LOG = 19  # JSON: one log record
    CERTIFICATES = 21  # JSON: the certificates that the connection rests on, whenever they have changed
    ANSWERS = 22  # what the model says of them
    BEAT = 20  # a sign of life, with the bytes of memory that are in use


class Frame(NamedTuple):
    """One frame. `data` and `columns` say which kind of data a batch is and which of its columns are there; else 0."""

    say: int
    payload: bytes
    data: int = 0
    columns: int = 0


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    head = _HEADER.pack(_MAGIC, frame.say, frame.data, frame.columns, len(frame.payload), zlib.crc32(frame.payload))
    return head + frame.payload


class Frames:
    """Cuts a stream of bytes into frames. Holds no more than one frame that is not complete."""

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._received = bytearray()
        self._max_payload = max_payload

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises Garbled."""
        received = self._received
        received += data
        at = 0
        try:
            while len(received) - at >= _HEADER.size:
                magic, say, kind, columns, length, checksum = _HEADER.unpack_from(received, at)
                if magic != _MAGIC or length > self._max_payload:
                    raise Garbled(f"not a frame: {bytes(received[at : at + 20]).hex(' ')}")
                end = at + _HEADER.size + length
                if len(received) < end:
                    return
                payload = bytes(memoryview(received)[at + _HEADER.size : end])
                if zlib.crc32(payload) != checksum:
                    raise Garbled("a frame whose checksum is wrong")
                at = end
                yield Frame(say, payload, kind, columns)
        finally:
            del received[:at]
