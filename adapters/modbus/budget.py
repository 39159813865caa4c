"""What the polls of a connection cost: each request on the wire, and whether a serial line has the time for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from adapters.base import BoundTag, TagConfig
from schemas.plugin import Finding, PlannedRequest
from schemas.values import Duration

from .address import TABLES
from .config import ModbusConfig
from .plan import Block, Point, blocks_of, cuts_of, point_of, points_of, scan_classes
from .timing import Timing, line_of

_DEFAULT_SCAN = Duration("1s")


def requests_of(config: ModbusConfig, tags: Sequence[BoundTag[TagConfig]]) -> list[PlannedRequest]:
    """Every request of one poll of each scan class, fastest class first. Raises ConfigError as `points_of` does."""
    gap, line, cuts = _max_gap(config), _known_line(config), cuts_of(config)
    planned = []
    for scan in scan_classes(tags, points_of(config, tags)):
        for block in blocks_of(scan.points, cuts=cuts, max_gap=gap):
            span = block.span
            fields: dict[str, int | str] = {
                "function": span.function,
                "unit": span.unit,
                "table": TABLES[span.function],
                "start": span.start,
                "count": span.length,
            }
            time_s = line.exchange_s(span) if line is not None else None
            planned.append(PlannedRequest(scan.period_us, fields, len(block.members), _wasted(block, scan.points), time_s))
    return planned


def check_line(config: ModbusConfig) -> Iterator[Finding]:
    """An error for each scan class that a serial line of this speed cannot keep, alone or beside the faster ones."""
    line = _known_line(config)
    if line is None:
        return
    cuts = cuts_of(config)
    points: dict[Duration, list[Point]] = defaultdict(list)
    for key in config.devices or ("",):
        device = config.options_of(key)
        for tag in device.tags.values():
            points[tag.scan or device.scan or _DEFAULT_SCAN].append(point_of(tag, device))
    taken = 0.0  # share of the line that the faster classes need
    for scan in sorted(points):
        blocks = blocks_of(points[scan], cuts=cuts, max_gap=line.max_gap)
        poll_s = sum(line.exchange_s(block.span) for block in blocks)
        before, taken = taken, taken + poll_s / scan.s
        if taken > 1:
            beside = f", and faster ones need {before:.0%} of the line" if 0 < before <= 1 else ""
            yield Finding(
                "error",
                ("endpoint",),
                f"the scan class {scan} cannot be kept: one poll takes {poll_s:.2g} s on the line{beside}",
                "scan less often, read fewer tags, raise `baud`, or write the true `turnaround` of the devices; "
                "`genba plan --explain` shows each request",
            )


def _known_line(config: ModbusConfig) -> Timing | None:
    """The line, where its speed is known: behind a converter only where it is written down."""
    return None if config.transport in ("rtu+tcp", "ascii+tcp") and config.serial is None else line_of(config)


def _max_gap(config: ModbusConfig) -> int | None:
    line = line_of(config)
    return None if line is None else line.max_gap


def _wasted(block: Block, points: Sequence[Point]) -> int:
    """Registers or bits of a block that belong to none of its tags."""
    used, end = 0, block.span.start
    for member in block.members:
        span = points[member].span
        used += max(0, span.end - max(end, span.start))
        end = max(end, span.end)
    return block.span.length - used
