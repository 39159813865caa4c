"""From tags to subscriptions. Pure: no library, no I/O.

One subscription per sampling class (scan). A tag's client handle is its position in the adapter's tag list, so that a
notification leads to its tag by plain indexing, whatever subscription it came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from adapters.base import BoundTag, TagConfig

from .address import Address, parse
from .config import OpcuaTag

MAX_ITEMS_PER_CALL: Final = 1000
"""Items of one CreateMonitoredItems, Read or TranslateBrowsePaths call; a server's lower operation limit wins."""
MAX_NOTIFICATIONS_PER_PUBLISH: Final = 10_000
_SLOWEST_PUBLISH_US: Final = 1_000_000
_KEEP_ALIVE_US: Final = 1_000_000
_LIFETIME_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class SamplingClass:
    """The tags of one scan: positions in the tag list (= client handles), and what the subscription asks of the server."""

    period_us: int
    positions: tuple[int, ...]

    @property
    def sampling_ms(self) -> float:
        """Sampling interval of its monitored items."""
        return self.period_us / 1000

    @property
    def publishing_ms(self) -> float:
        """Publishing interval: the scan, at most 1 s, so that slow tags are late by 1 s at most and a dead server shows soon."""
        return min(self.period_us, _SLOWEST_PUBLISH_US) / 1000

    @property
    def keep_alive_count(self) -> int:
        """Publishing intervals without a change after which the server sends a keep-alive: about once a second."""
        return max(1, round(_KEEP_ALIVE_US / 1000 / self.publishing_ms))

    @property
    def lifetime_count(self) -> int:
        """Publishing intervals without a publish request after which the server drops the subscription: about a minute."""
        return max(3 * self.keep_alive_count, math.ceil(_LIFETIME_US / 1000 / self.publishing_ms))


@dataclass(frozen=True, slots=True)
class Plan:
    """The tags of one connection in a fixed order: position i is `addresses[i]`, and client handle i on the wire."""

    paths: tuple[str, ...]
    addresses: tuple[Address, ...]
    classes: tuple[SamplingClass, ...]


def compile_plan(tags: Sequence[BoundTag[TagConfig]]) -> Plan:
    """One sampling class per scan of `tags`, fastest first; within a class in the order of `tags`."""
    by_period: dict[int, list[int]] = {}
    for position, bound in enumerate(tags):
        by_period.setdefault(bound.tag.period_us, []).append(position)
    return Plan(
        tuple(bound.tag.path for bound in tags),
        tuple(parse(cast(OpcuaTag, bound.config).address) for bound in tags),
        tuple(SamplingClass(period, tuple(by_period[period])) for period in sorted(by_period)),
    )


def chunks(positions: Sequence[int], limit: int) -> Iterator[Sequence[int]]:
    """`positions` in order, cut into calls of at most `limit` items (0: the server names none) and never above the own bound."""
    size = min(limit, MAX_ITEMS_PER_CALL) if limit > 0 else MAX_ITEMS_PER_CALL
    for start in range(0, len(positions), size):
        yield positions[start : start + size]
