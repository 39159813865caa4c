"""Who a device is: Read Device Identification, function code 43 / 14 (MODBUS Application Protocol Specification V1.1b3, 6.21)."""

from __future__ import annotations

from typing import Final

from .exchange import Connection, Identification, WrongAnswer

OBJECTS: Final = {
    0: "vendor", 1: "product code", 2: "revision", 3: "vendor URL", 4: "product name", 5: "model", 6: "application",
}  # fmt: skip
_MOST: Final = 16  # answers; no device needs so many


async def read_objects(connection: Connection, unit: int, level: int) -> dict[int, str]:
    """Objects of a level, by number. Raises as `Connection.read` does; Refused(1) is a device that does not know the function.

    A device that lets its objects follow one another without an end is cut off.
    """
    found: dict[int, str] = {}
    first = 0
    for _ in range(_MOST):
        objects, more = _parse(await connection.identify(Identification(unit, level, first)))
        found.update(objects)
        if more is None or more <= first or len(found) >= 256:
            break
        first = more
    return found


def _parse(pdu: bytes) -> tuple[dict[int, str], int | None]:
    """Objects by number, and the number of the next one where more follow. Raises WrongAnswer."""
    if len(pdu) < 7 or pdu[1] != 14:
        raise WrongAnswer(f"not a device identification: {pdu.hex(' ')[:60]}")
    found: dict[int, str] = {}
    at = 7
    for _ in range(pdu[6]):
        number, size = pdu[at], pdu[at + 1]
        text = pdu[at + 2 : at + 2 + size].decode("utf-8", "replace")
        found[number] = "".join(letter if letter.isprintable() else " " for letter in text).strip()
        at += 2 + size
    return found, pdu[5] if pdu[4] else None


def in_words(objects: dict[int, str]) -> str:
    """`vendor Acme, model X-100`; numbers where an object has no name."""
    return ", ".join(f"{OBJECTS.get(number, f'object {number}')} {text!r}" for number, text in sorted(objects.items()) if text)
