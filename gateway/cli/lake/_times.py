"""When: --start, --end, --last and --zone, which name one interval or are refused with the way out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from gateway.cli._options import in_seconds


@dataclass(frozen=True, slots=True)
class Interval:
    """start <= time < end, None for no limit, and the zone in which times are shown (None: UTC)."""

    start: datetime | None
    end: datetime | None
    zone: ZoneInfo | None


def zone_of(ctx: click.Context, param: click.Parameter, name: str | None) -> ZoneInfo | None:
    """The zone of that name, for the callback of an option. Raises BadParameter with the nearest one."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; a path out of the data base; a directory of it
        from zoneinfo import available_timezones

        from gateway.suggest import did_you_mean

        hint = did_you_mean(name, available_timezones())
        raise click.BadParameter(
            f"{name!r} is no time zone" + (f", {hint}" if hint else "; write one like Asia/Tokyo"), ctx, param
        ) from None


def moment(text: str, zone: ZoneInfo | None, option: str) -> datetime:
    """An ISO 8601 time as one moment: with its offset, or on the clocks of `zone`. Raises BadParameter for what is not one moment."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise _wrong(option, f"{text!r} is no ISO 8601 time; write it like 2026-03-01T08:00:00+09:00") from None
    if not 2 <= found.year <= 9998:
        raise _wrong(option, f"{text!r} lies at the edge of the calendar, where clocks cannot be compared")
    if found.tzinfo is not None:
        return found.astimezone(UTC)
    if zone is None:
        raise _wrong(
            option, f"{text!r} has no time zone; write {found.isoformat()}+09:00 or {found.isoformat()}Z, or give --zone"
        )
    first, second = found.replace(tzinfo=zone), found.replace(tzinfo=zone, fold=1)
    if first.utcoffset() == second.utcoffset():
        return first.astimezone(UTC)
    real = [one.astimezone(UTC).astimezone(zone).isoformat() for one in (second, first)]
    if datetime.fromisoformat(real[1]).replace(tzinfo=None) != found:
        raise _wrong(
            option, f"{text!r} does not exist in {zone.key}: clocks are set forward over it; write {real[0]} or {real[1]}"
        )
    raise _wrong(
        option, f"{text!r} comes twice in {zone.key}: clocks are set back; write {first.isoformat()} or {second.isoformat()}"
    )


def interval(
    start: str | None, end: str | None, last_s: float | None, zone: ZoneInfo | None, *, now: datetime | None = None
) -> Interval:
    """What --start, --end and --last name together. Raises click.UsageError for an interval that is none."""
    since = None if start is None else moment(start, zone, "--start")
    until = None if end is None else moment(end, zone, "--end")
    if last_s is not None:
        if since is not None:
            raise click.UsageError("--last counts back from --end, or from now; it does not go with --start")
        until = until or now or datetime.now(UTC)
        try:
            since = until - timedelta(seconds=last_s)
        except OverflowError:
            raise _wrong("--last", "reaches back before the calendar") from None
    if since is not None and until is not None and since >= until:
        raise click.UsageError(f"--start {since.isoformat()} is not before --end {until.isoformat()}")
    return Interval(since, until, zone)


def _wrong(option: str, message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=option)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the function takes one `interval: Interval` for them."""

    @click.option("--start", metavar="TIME", help="From this time on, ISO 8601 with an offset, or on the clocks of --zone.")
    @click.option("--end", metavar="TIME", help="Up to this time, which is not included.")
    @click.option("--last", "last_s", metavar="SPAN", callback=in_seconds, help="The last `8h`, until now or --end.")
    @click.option(
        "--zone", callback=zone_of, metavar="ZONE", help="Time zone of --start, --end and of what is shown: Asia/Tokyo."
    )
    @functools.wraps(function)
    def wrapped(*args: Any, start: str | None, end: str | None, last_s: float | None, zone: ZoneInfo | None, **more: Any) -> Any:
        return function(*args, interval=interval(start, end, last_s, zone), **more)

    return wrapped
