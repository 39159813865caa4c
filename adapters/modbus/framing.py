"""How a request and its answer look on a serial line: RTU (binary, CRC) and ASCII (hexadecimal between `:` and a line end, LRC). Pure.

MODBUS over Serial Line Specification and Implementation Guide V1.02, 2.5.1 and 2.5.2. pymodbus computes the checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from pymodbus.framer.ascii import FramerAscii
from pymodbus.framer.rtu import FramerRTU

from .exchange import Ask

_OVER_S: Final = 0.05  # a frame that has not gone on for so long is over, also behind a USB adapter or a converter
_ASCII_OVER_S: Final = 1.0  # between the characters of an ASCII frame (2.5.2.1)


class Framing(Protocol):
    """One of the two. `received` is what has come since the request, oldest byte first."""

    longest: int
    """Bytes of a frame on the line."""

    def frame(self, unit: int, pdu: bytes) -> bytes:
        """A PDU as it goes over the line."""
        ...

    def answer(self, received: bytes, ask: Ask) -> bytes:
        """The PDU of the frame in `received` that answers, with data or with an exception; empty when there is none (yet)."""
        ...

    def begins(self, received: bytes, ask: Ask) -> bool:
        """This is, or is the beginning of, a frame of the unit and function that were asked."""
        ...

    def whole(self, received: bytes) -> tuple[int, int]:
        """Bytes of the sound frame that `received` begins with, and the data bytes that it says it has; (0, 0) when there is none."""
        ...

    def pause_s(self, received: bytes) -> float:
        """After how much silence a frame that was begun is over."""
        ...

    def request(self, received: bytes) -> tuple[int, bytes]:
        """For a device: bytes to take off `received`, and unit and PDU of the request among them; (0, b"") while it is not whole."""
        ...


class Rtu:
    """Binary frames, told apart by silence."""

    longest = 256  # 2.5.1.1

    def frame(self, unit: int, pdu: bytes) -> bytes:
        """Unit, PDU, CRC."""
        return _with_crc(bytes((unit,)) + pdu)

    def answer(self, received: bytes, ask: Ask) -> bytes:
        """The frame may stand behind noise."""
        for at in _places(received, bytes((ask.unit, ask.function))):
            size = ask.size(received[at + 1 :])
            if size and _is_sound(received[at : at + size + 3], size + 3):
                return received[at + 1 : at + 1 + size]
        for at in _places(received, bytes((ask.unit, ask.function | 0x80))):
            if _is_sound(received[at : at + 5], 5):
                return received[at + 1 : at + 3]
        return b""

    def begins(self, received: bytes, ask: Ask) -> bool:
        """Unit and function code come first."""
        return received[0] == ask.unit and received[1] & 0x7F == ask.function

    def whole(self, received: bytes) -> tuple[int, int]:
        """An exception, or an answer to a read request."""
        data = 0 if received[1] & 0x80 else received[2] if len(received) > 2 else -1
        size = 5 + data
        return (size, data) if data >= 0 and _is_sound(received[:size], size) else (0, 0)

    def pause_s(self, received: bytes) -> float:
        """The standard's 1.5 characters are less than any operating system keeps."""
        return _OVER_S

    def request(self, received: bytes) -> tuple[int, bytes]:
        """Reads (1 to 4) and identification (43) have a length of their own; what else comes is thrown away with the rest."""
        size = {43: 7}.get(received[1], 8) if len(received) > 1 else 8
        if len(received) < size:
            return 0, b""
        return (size, received[: size - 2]) if _is_sound(received[:size], size) else (len(received), b"")


class Ascii:
    """Hexadecimal digits in a line of text."""

    longest = 513  # 2.5.2.1

    def frame(self, unit: int, pdu: bytes) -> bytes:
        """A colon, unit, PDU and LRC as digits, carriage return and line feed."""
        body = bytes((unit,)) + pdu
        return b":" + (body + bytes((_lrc(body),))).hex().upper().encode() + b"\r\n"

    def answer(self, received: bytes, ask: Ask) -> bytes:
        """The frame may stand behind noise and other frames."""
        for start, end in _lines(received):
            body = _body(received[start:end])
            if body and body[0] == ask.unit:
                pdu = body[1:]
                if pdu[0] == ask.function and ask.size(pdu) == len(pdu):
                    return pdu
                if pdu[0] == ask.function | 0x80 and len(pdu) == 2:
                    return pdu
        return b""

    def begins(self, received: bytes, ask: Ask) -> bool:
        """Unit and function code are the first four digits."""
        try:
            unit, function = bytes.fromhex(received[1:5].decode("ascii"))
        except ValueError:
            return False
        return received[:1] == b":" and unit == ask.unit and function & 0x7F == ask.function

    def whole(self, received: bytes) -> tuple[int, int]:
        """An exception, or an answer to a read request."""
        for start, end in _lines(received):
            body = _body(received[start:end]) if start == 0 else b""
            if body:
                return end + 1, 0 if body[1] & 0x80 or len(body) < 3 else body[2]
        return 0, 0

    def pause_s(self, received: bytes) -> float:
        """A line end ends it at once."""
        return _OVER_S if received.endswith(b"\n") else _ASCII_OVER_S

    def request(self, received: bytes) -> tuple[int, bytes]:
        """One line at a time."""
        end = received.find(b"\n")
        start = received.rfind(b":", 0, end)
        return (0, b"") if end < 0 else (end + 1, _body(received[start:end]) if start >= 0 else b"")


def framing_of(is_ascii: bool) -> Framing:
    """The one that a transport names."""
    return Ascii() if is_ascii else Rtu()


def _places(received: bytes, head: bytes) -> Iterator[int]:
    at = received.find(head)
    while at >= 0:
        yield at
        at = received.find(head, at + 1)


def _lines(received: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of what stands between a colon and the line feed that `end` points to."""
    at = 0
    while (end := received.find(b"\n", at)) >= 0:
        start = received.rfind(b":", at, end)
        if start >= 0:
            yield start, end
        at = end + 1


def _body(line: bytes) -> bytes:
    """Unit and PDU of a line, without its LRC; empty when it is not sound."""
    try:
        raw = bytes.fromhex(line[1:].decode("ascii"))
    except ValueError:
        return b""
    body = raw[:-1]
    return body if len(body) >= 2 and _lrc(body) == raw[-1] else b""


def _with_crc(body: bytes) -> bytes:
    checksum: int = FramerRTU.compute_CRC(body)  # with its bytes swapped, as they follow on the line
    return body + checksum.to_bytes(2, "big")


def _is_sound(frame: bytes, size: int) -> bool:
    return len(frame) == size and _with_crc(frame[:-2]) == frame


def _lrc(body: bytes) -> int:
    checksum: int = FramerAscii.compute_LRC(body)
    return checksum
