"""From tags to subscriptions. Pure: no library, no I/O.

One subscription per sampling class (scan). A tag's client handle is its position in the adapter's tag list, so that a
notification leads to its tag by plain indexing, whatever subscription it came from. Tags that are parts of one variable
(elements of its array, fields of its structure) share one monitored item: its handle is the position of the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from adapters.base import BoundTag, DeviceConfig, TagConfig, devices_of

from .address import Address, parse
from .config import OpcuaConfig, OpcuaDevice, OpcuaTag
from .sampling import Sampling, SamplingOptions, resolve_sampling
from .selection import Step

MAX_ITEMS_PER_CALL: Final = 1000
"""Items of one CreateMonitoredItems, Read or TranslateBrowsePaths call; a server's lower operation limit wins."""
MAX_NOTIFICATIONS_PER_PUBLISH: Final = 10_000
_SLOWEST_PUBLISH_US: Final = 1_000_000
_KEEP_ALIVE_US: Final = 1_000_000
_LIFETIME_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class SamplingClass:
    """The variables of one scan: positions in the tag list (= client handles), and what the subscription asks of the server."""

    period_us: int
    positions: tuple[int, ...]
    notifications_per_publish: int = MAX_NOTIFICATIONS_PER_PUBLISH

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
    """The tags of one connection in a fixed order: position i is `addresses[i]`, and client handle i on the wire.

    `classes` are subscribed, `polls` read every scan; both hold each variable once. `parts` leads from the position of a variable
    to those of all tags that are parts of it; a tag that is a whole variable is not in it.
    """

    paths: tuple[str, ...]
    addresses: tuple[Address, ...]
    classes: tuple[SamplingClass, ...]
    polls: tuple[SamplingClass, ...] = ()
    parts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sampling: tuple[Sampling, ...] = ()
    selections: tuple[tuple[Step, ...], ...] = ()

    def tags_of(self, positions: Iterable[int]) -> Iterator[tuple[int, int]]:
        """(position of a variable, position of a tag) of all tags of these variables."""
        for position in positions:
            for part in self.parts.get(position, (position,)):
                yield position, part


def compile_plan(tags: Sequence[BoundTag[TagConfig]], config: OpcuaConfig | None = None) -> Plan:
    """One sampling class per scan of `tags`, fastest first; within a class in the order of `tags`.

    `config` has what devices and connection say for their tags; without it only the tags' own options count.
    """
    devices = devices_of("", config) if config is not None else {}
    addresses = tuple(parse(cast(OpcuaTag, bound.config).address) for bound in tags)
    selections = tuple(cast(OpcuaTag, bound.config).selection() for bound in tags)
    sampling = tuple(_sampling(bound, devices, config) for bound in tags)
    subscribed: dict[int, list[int]] = {}
    polled: dict[int, list[int]] = {}
    wholes: dict[tuple[object, ...], int] = {}
    parts: dict[int, list[int]] = {}
    for position, bound in enumerate(tags):
        period = bound.tag.period_us
        if selections[position]:
            whole = wholes.setdefault((addresses[position], period, sampling[position]), position)
            parts.setdefault(whole, []).append(position)
            if whole != position:
                continue
        classes = polled if sampling[position].read == "poll" else subscribed
        classes.setdefault(period, []).append(position)
    return Plan(
        tuple(bound.tag.path for bound in tags),
        addresses,
        _classes(subscribed),
        _classes(polled),
        {whole: tuple(members) for whole, members in parts.items()},
        sampling,
        selections,
    )


def _sampling(bound: BoundTag[TagConfig], devices: Mapping[str, DeviceConfig[TagConfig]], config: OpcuaConfig | None) -> Sampling:
    around: list[SamplingOptions] = [cast(OpcuaTag, bound.config)]
    device = devices.get(bound.device)
    if isinstance(device, OpcuaDevice):
        around.append(device)
    if config is not None:
        around.append(config)
    return resolve_sampling(*around)


def _classes(by_period: Mapping[int, Sequence[int]]) -> tuple[SamplingClass, ...]:
    return tuple(SamplingClass(period, tuple(by_period[period])) for period in sorted(by_period))


def chunks(positions: Sequence[int], limit: int) -> Iterator[Sequence[int]]:
    """`positions` in order, cut into calls of at most `limit` items (0: the server names none) and never above the own bound."""
    size = min(limit, MAX_ITEMS_PER_CALL) if limit > 0 else MAX_ITEMS_PER_CALL
    for start in range(0, len(positions), size):
        yield positions[start : start + size]
