"""Addresses by name: the symbol as TIA Portal spells it, or the access string that a browse shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from adapters.s7 import address as absolute

_ACCESS: Final = re.compile(r"[0-9A-F]{8}(?:\.[0-9A-F]{1,8})+", re.IGNORECASE)
_PART: Final = re.compile(r'"(?P<quoted>[^"]+)"|(?P<index>\[-?\d+(?:,-?\d+)*\])|(?P<plain>[^".\[\]]+)')
_EXAMPLES: Final = '"Data".motor.speed, Data.motor.speed or 8A0E0001.F'


@dataclass(frozen=True, slots=True)
class Address:
    """Either `name`, the symbol without quotes (`Data.motor.speed`, `Data.zone[3]`), or `access`: area and path of ids."""

    name: str = ""
    access: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The canonical spelling."""
        return self.name or ".".join(f"{part:X}" for part in self.access)


@lru_cache(maxsize=16384)
def parse(text: str) -> Address:
    """A spelling to an address. Raises ValueError that says how to write it."""
    plain = text.strip()
    if _ACCESS.fullmatch(plain):
        return Address(access=tuple(int(part, 16) for part in plain.split(".")))
    try:
        found = absolute.parse(plain)
    except ValueError:
        pass
    else:
        raise ValueError(
            f"{text}: absolute addresses such as {found} are read with `kind: s7`; write the symbol like {_EXAMPLES}"
        )
    parts: list[str] = []
    at = 0
    while at < len(plain):
        piece = _PART.match(plain, at)
        if piece is None:
            raise ValueError(f"{text}: not a symbol; write it like {_EXAMPLES}")
        at = piece.end()
        if index := piece["index"]:
            if not parts:
                raise ValueError(f"{text}: an index follows a name; write it like Data.zone[3]")
            parts[-1] += index
        else:
            name = (piece["quoted"] or piece["plain"]).strip()
            if not name:
                raise ValueError(f"{text}: a name is empty; write it like {_EXAMPLES}")
            if name.startswith("."):  # without its quotes it would be an empty name and another one
                raise ValueError(f"{text}: a name begins with a dot; write it like {_EXAMPLES}")
            parts.append(name)
        if at < len(plain) and plain[at] == ".":
            at += 1
            if at == len(plain):
                raise ValueError(f"{text}: the symbol ends with a dot; write it like {_EXAMPLES}")
        elif at < len(plain) and plain[at] != "[":
            raise ValueError(f"{text}: a dot is missing; write it like {_EXAMPLES}")
    if len(parts) < 2:
        raise ValueError(f"{text}: a symbol begins with its data block; write it like {_EXAMPLES}")
    return Address(name=".".join(parts))
