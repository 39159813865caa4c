"""--start, --end, --last and --zone: one interval, or an error with the way out."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
import pytest

from gateway.cli.lake._times import interval, moment, zone_of

BERLIN, TOKYO = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-03-01", TOKYO, datetime(2026, 2, 28, 15, tzinfo=UTC)),
        ("2026-03-01 08:00", TOKYO, datetime(2026, 2, 28, 23, tzinfo=UTC)),
        ("2026-03-01T08:00:00+09:00", None, datetime(2026, 2, 28, 23, tzinfo=UTC)),
        ("2026-03-01T08:00:00Z", TOKYO, datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("20260301T080000Z", None, datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("2026-03-29 01:59:59", BERLIN, datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)),
        ("2026-03-29 03:00", BERLIN, datetime(2026, 3, 29, 1, tzinfo=UTC)),
        ("2026-10-25 03:00", BERLIN, datetime(2026, 10, 25, 2, tzinfo=UTC)),
    ],
)
def test_one_moment(text: str, zone: ZoneInfo | None, expected: datetime) -> None:
    assert moment(text, zone, "--start") == expected


@pytest.mark.parametrize(
    ("text", "zone", "said"),
    [
        (
            "2026-03-29 02:30", BERLIN,
            "does not exist in Europe/Berlin: clocks are set forward over it; write 2026-03-29T01:30:00+01:00 or 2026-03-29T03:30:00+02:00",
        ),
        (
            "2026-10-25 02:30", BERLIN,
            "comes twice in Europe/Berlin: clocks are set back; write 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00",
        ),
        ("2026-03-29 02:30", None, "has no time zone; write 2026-03-29T02:30:00+09:00 or 2026-03-29T02:30:00Z, or give --zone"),
        ("yesterday", BERLIN, "is no ISO 8601 time; write it like"),
        ("2026-02-30", BERLIN, "is no ISO 8601 time"),
        ("0001-01-01T00:00+09:00", None, "edge of the calendar"),
        ("", BERLIN, "is no ISO 8601 time"),
    ],
)  # fmt: skip
def test_what_is_not_one_moment_is_refused(text: str, zone: ZoneInfo | None, said: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        moment(text, zone, "--start")
    assert said in caught.value.message
    for written in [word.rstrip(",") for word in said.split() if word.startswith("2026-") and word[-3] == ":"]:
        moment(written, zone, "--start")  # the way out is one


def test_last_counts_back() -> None:
    assert interval(None, None, 8 * 3600, None, now=NOW).start == datetime(2026, 3, 1, 4, tzinfo=UTC)
    assert interval(None, "2026-03-01", 3600, TOKYO, now=NOW).start == datetime(2026, 2, 28, 14, tzinfo=UTC)
    assert interval(None, None, None, None) == interval(None, None, None, None)


def test_intervals_that_are_none() -> None:
    with pytest.raises(click.UsageError, match="does not go with --start"):
        interval("2026-03-01T00:00Z", None, 60, None, now=NOW)
    with pytest.raises(click.UsageError, match="is not before --end"):
        interval("2026-03-01T00:00Z", "2026-03-01T00:00Z", None, None)
    with pytest.raises(click.BadParameter, match="before the calendar"):
        interval(None, None, 1e12, None, now=NOW)


@pytest.mark.parametrize(
    ("name", "said"), [("Asia/Tokio", "did you mean 'Asia/Tokyo'"), ("../etc/passwd", "is no time zone"), ("", "is no time zone")]
)
def test_a_zone_that_is_none(name: str, said: str) -> None:
    context = click.Context(click.Command("x"))
    with pytest.raises(click.BadParameter, match=said):
        zone_of(context, click.Option(["--zone"]), name)
