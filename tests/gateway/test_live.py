"""What the terminal shows."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from gateway.latest import Latest
from gateway.live import dashboard, number, sink_table, tag_table
from gateway.spool import Account
from schemas.kinds import make_batch
from schemas.quality import BAD_NO_COMMUNICATION
from tests.gateway.samples import make_tag, rows


def shown(renderable, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def line_of(text, name):
    return re.split(r"\s{2,}", next(line for line in text.splitlines() if name in line).strip())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (96.2, "Cel", "96.2 °C"),
        (3.0, "1", "3"),
        (1e12, "1", "1e+12"),
        (float("inf"), "1", "inf"),
        (-0.00012345, "1", "-0.0001234"),
    ],
)
def test_numbers_as_people_write_them(value, unit, text):
    assert number(value, unit) == text


def test_a_tag_shows_value_quality_age_and_lag():
    latest = Latest(2)
    latest.update(rows([0], [96.25], time_us=10_000_000))
    text = shown(tag_table([make_tag(0, unit="Cel"), make_tag(1)], latest, 12_500_000))
    assert line_of(text, "t0") == ["press/t0", "96.25 °C", "Good", "2.5 s", "0 ms"]
    assert line_of(text, "t1")[1] == "-"


def test_a_bad_value_is_not_shown_as_if_it_were_good():
    latest = Latest(1)
    latest.update(rows([0], [96.25], quality=BAD_NO_COMMUNICATION))
    assert line_of(shown(tag_table([make_tag(0)], latest, 0)), "t0")[1:3] == ["-", "BadNoCommunication"]


@pytest.mark.parametrize("text", ["[/]", "[bold]run[/bold]", "[red]", "[link=x"])
def test_what_a_device_sends_is_text_and_no_markup(text):
    latest = Latest(1)
    latest.update(make_batch("telemetry", 1, time=5, quality=0, tag=np.array([0], np.int32), value=1.0, text=[text]))
    out = shown(tag_table([make_tag(0, name="motor[0]")], latest, 10))
    assert f"{text} (1)" in out
    assert "motor[0]" in out


def test_more_tags_than_fit_are_counted():
    tags = [make_tag(number) for number in range(50)]
    out = shown(tag_table(tags, Latest(50), 0, limit=40))
    assert "and 10 more tags" in out
    assert "t39" in out
    assert "t40" not in out


def pipeline(account, state="up"):
    delivery = SimpleNamespace(name="lake", kinds=("telemetry", "event"), state=state, paused=False, circuit="closed")
    empty = Account(0, 0, 0, 0, 0, 0)
    return SimpleNamespace(
        deliveries=[delivery], spool=SimpleNamespace(account=lambda kind, _: account if kind == "telemetry" else empty, bytes_used=lambda: 2_500_000),
        clock=SimpleNamespace(now_us=lambda: 0), runner=SimpleNamespace(behind_rows=12), tags=[make_tag(0)], latest=Latest(1),
        oldest_age_s=lambda delivery: 41.0,
    )  # fmt: skip


def test_a_sink_shows_what_it_has_waits_for_and_lost_and_kinds_without_rows_are_left_out():
    text = shown(sink_table(pipeline(Account(1234567, 3, 1234000, 500, 60, 4), "down")))
    assert line_of(text, "lake") == ["lake", "telemetry", "1,234,000", "500", "3", "64", "down"]
    assert "event" not in text


def test_a_paused_sink_says_so():
    shows = pipeline(Account(5, 0, 0, 5, 0, 0))
    shows.deliveries[0].paused = True
    assert line_of(shown(sink_table(shows)), "lake")[-1] == "paused"


def test_the_dashboard_shows_the_newest_alerts_whatever_is_in_their_text():
    lines = [f"12:00:0{n} WARNING  raised   t{n} [/weird]" for n in range(10)]
    text = shown(dashboard(pipeline(Account(1, 0, 1, 0, 0, 0)), lines, title="genba"))
    assert "12:00:09" in text
    assert "12:00:01" not in text
    assert "[/weird]" in text
    assert "2.5 MB in the spool" in text
    assert "models 12 rows behind" in text
    assert "oldest undelivered row 41 s" in text
