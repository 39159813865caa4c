"""What `genba plan` shows of an S7 connection: every request of one poll at the PDU that the CPU's family usually grants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from adapters.base import BoundTag, TagConfig
from schemas.plugin import PlannedRequest

from .address import AREA_CODES, ELEMENTS
from .config import CPUS, S7Config
from .connection import ASKED_PDU
from .plan import Layout, places_of
from .wire import Span

_NAMES: Final = {code: name for name, code in AREA_CODES.items()}
_SHOWN: Final = 3  # items of one request that are spelled out


def requests_of(config: S7Config, tags: Sequence[BoundTag[TagConfig]]) -> list[PlannedRequest]:
    """Opens nothing. `wasted` is in bytes; a PLC that grants another PDU is asked in other requests."""
    pdu = CPUS[config.cpu][2] if config.cpu else ASKED_PDU
    by_period: dict[int, list[BoundTag[TagConfig]]] = defaultdict(list)
    for bound in tags:
        by_period[bound.tag.period_us].append(bound)
    planned = []
    for period_us in sorted(by_period):
        places = places_of(by_period[period_us])
        layout = Layout(places, pdu, zone=UTC)
        for numbers in layout.requests:
            items = [layout.items[number] for number in sorted(numbers)]
            members = [layout.positions_of(number) for number in sorted(numbers)]
            spans = [[places[position].span for position in those] for those in members]
            wasted = sum(_wasted(item, those) for item, those in zip(items, spans, strict=True))
            fields: dict[str, int | str] = {"read": _spelled(items), "bytes": sum(item.size for item in items), "pdu": pdu}
            planned.append(PlannedRequest(period_us, fields, sum(map(len, members)), wasted))
    return planned


def _wasted(item: Span, spans: Sequence[Span]) -> int:
    """Bytes of an item that belong to no tag."""
    used = bytearray(item.size)
    for span in spans:
        first, end = max(span.start - item.start, 0), min(span.start + span.size - item.start, item.size)
        used[first:end] = b"\1" * (end - first)
    return used.count(0)


def _spelled(items: Sequence[Span]) -> str:
    shown = [_item(item) for item in items[:_SHOWN]]
    return ", ".join(shown) if len(items) <= _SHOWN else f"{', '.join(shown)} and {len(items) - _SHOWN} more"


def _item(item: Span) -> str:
    name = _NAMES[item.area]
    if name in ELEMENTS:
        return f"{name}{item.start // 2}" if item.size == 2 else f"{name}{item.start // 2}..{(item.start + item.size) // 2 - 1}"
    at = f"DB{item.db}.DBB" if name == "DB" else f"{name}B"
    return f"{at}{item.start}" if item.size == 1 else f"{at}{item.start}..{item.start + item.size - 1}"
