"""Symbolic S7 as targets: addresses, and what is made of the bytes that a PLC sends for its variables.

The stream and its decoder are the package's, in a thread of its own; what it raises on nonsense is tested in tests/adapters/s7plus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, islice
from zoneinfo import ZoneInfo

from adapters.s7plus.address import parse
from adapters.s7plus.config import S7PlusConfig
from adapters.s7plus.plan import Plan
from schemas import quality as q
from tests.conformance.adapter import bind
from tests.fuzz.harness import Target, Violation

TYPES = (
    "bool", "byte", "word", "dword", "lword", "sint", "usint", "int", "uint", "dint", "udint", "lint", "ulint", "real", "lreal", "time",
    "tod", "ltime", "ltod", "s5time", "date", "dt", "ldt", "char", "wchar", "string[9]", "string", "wstring[7]",
)  # fmt: skip
NAMES = [f"Data.v{number}" for number in range(len(TYPES))]
ACCESS = (0x8A0E_0001, 0xF, 2)


class _Symbol:
    def __init__(self, kind: str) -> None:
        self.access, self.type = ACCESS, kind


@cache
def _plans() -> Sequence[Plan]:
    tags = {f"t{number}": {"address": name, "type": kind} for number, (name, kind) in enumerate(zip(NAMES, TYPES, strict=True))}
    tags["direct"] = {"address": "8A0E0001.F.2", "type": "real"}
    config = S7PlusConfig.model_validate({"kind": "s7plus", "endpoint": "tls://h", "tags": tags})
    return [Plan(bind("plc", config), ZoneInfo(name)) for name in ("Asia/Tokyo", "America/Los_Angeles")]


def _answers(plan: Plan, data: bytes) -> Iterator[bytes | None]:
    """For each variable one byte that says what comes: 255 nothing, above 127 as many bytes as its type has, else so many."""
    source = cycle(data or b"\0")
    sizes = [kind.size for kind in plan._kinds]
    for position in plan._positions:
        said = next(source)
        yield None if said == 255 else bytes(islice(source, sizes[position] if said > 127 else said))


def values(data: bytes) -> None:
    """A program whose types are the expected ones, or (first byte odd) each that of its neighbour, then one poll."""
    for plan in _plans():
        types = TYPES if not data[:1] or not data[0] & 1 else (*TYPES[1:], "")
        plan.resolve({name: _Symbol(kind) for name, kind in zip(NAMES, types, strict=True)})
        answers = list(_answers(plan, data[1:]))
        found = plan.decode(answers)
        if len(found.quality) != len(plan.tags) or any(found.quality[position] < q.BAD for position in plan.wrong):
            raise Violation("a variable that was not read has a value")
        if any(found.quality[position] for position in found.texts):
            raise Violation("a text that is bad")
        for text in found.texts.values():
            text.encode()  # what cannot be encoded cannot be stored


def addresses(data: bytes) -> None:
    """Whatever is an address is a name of at least two parts, or a path of ids."""
    text = data.decode("utf-8", "replace")
    address = parse(text)
    if bool(address.name) == bool(address.access) or '"' in address.name:
        raise Violation(f"{text!r} is {address!r}")
    if address.access and (len(address.access) < 2 or max(address.access) >= 1 << 32):
        raise Violation(f"{text!r} is {address!r}")
    if address.name and ("." not in address.name or not all(part.strip() for part in str(address).partition("."))):
        raise Violation(f"{text!r} is {address!r}")


def _value_seeds() -> list[bytes]:
    return [
        b"\0\xfe" + bytes(64),
        b"\1\xfe" + bytes(range(256)),
        b"\0\xff\xfe" + bytes(range(1, 99)),
        b"\0\x80\x09\x05Osaka",
        b"\0\3abc",
        b"\0\xf0" + b"\x26\x03\x04\x05\x06\x07\x89\x14" * 3,
        b"\0\xfe\x7f" + b"\xff" * 40,
    ]


def _address_seeds() -> list[bytes]:
    texts = [
        '"Data".motor.speed',
        "Data.zone[3]",
        "Data.matrix[1,2].x",
        "8A0E0001.F.2",
        '"My.Block"."a b"[-1].c',
        "IArea.start",
        "DB1.DBD4",
    ]
    return [text.encode() for text in texts]


TARGETS = [
    Target("s7plus-values", values, _value_seeds),
    Target("s7plus-addresses", addresses, _address_seeds, errors=(ValueError,), longest=200),
]
