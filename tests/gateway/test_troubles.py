"""The gateway's own troubles: each raised once, cleared once, whatever wavers in between."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pyarrow as pa
import pytest
import structlog

from edge_models.alarms import AlarmLayer
from gateway import troubles
from gateway.pipeline import Crashes
from gateway.spool import Loss
from gateway.troubles import Troubles
from schemas.certificates import CertificateFact
from schemas.errors import Busy


class Pipeline:
    """What Troubles looks at, to be set at will."""

    asset = "acme/osaka/gw-1"
    spool_budget = 1_000_000_000

    def __init__(self, clock):
        self.clock, self.log = clock, structlog.get_logger()
        self.alarms = AlarmLayer([])
        self.collectors = [self.room("press", clock)]
        self.deliveries = [self.room("lake", clock)]
        self.runner = SimpleNamespace(behind_rows=0, suspended={})
        self.crashes: dict[str, Crashes] = {}
        self.losses: list[Loss] = []
        self.used = 0
        self.acknowledged: list[Loss] = []
        self.disk_takes = True
        self.spool = SimpleNamespace(
            directory=None, bytes_used=lambda: self.used, failure="", take_losses=self.take, flush=self.flush,
            ledger=SimpleNamespace(told=self.acknowledged.extend),
        )  # fmt: skip
        self.rows: list[tuple[str, dict]] = []

    @staticmethod
    def room(name, clock):
        return SimpleNamespace(
            name=name, state="starting", since_us=clock.now_us(), error="", overdue_s=lambda: 0.0, paused=False, certificates=()
        )

    def take(self):
        taken, self.losses = self.losses, []
        return taken

    async def flush(self, kind):
        if not self.disk_takes:
            raise Busy(1.0)

    async def put(self, kind, batch: pa.RecordBatch):
        self.rows += [(kind, row) for row in batch.to_pylist()]
        return 0

    async def event(self, event, severity, message, *, source="gateway"):
        self.rows.append(("event", {"event": event, "severity": severity, "message": message, "source": source}))

    def told(self, alarm):
        return [row["transition"] for kind, row in self.rows if kind == "alert" and row["alarm"] == alarm]

    def alerts(self):
        return [row for kind, row in self.rows if kind == "alert"]


@pytest.fixture
def free(monkeypatch):
    """Free bytes of the disk."""
    disk = SimpleNamespace(bytes=10_000_000_000)
    monkeypatch.setattr(troubles, "_free_bytes", lambda _: disk.bytes)
    return disk


@pytest.fixture
def pipeline(manual_clock, free):
    return Pipeline(manual_clock)


@pytest.fixture
def watch(pipeline):
    return Troubles(pipeline, patience_s=3)


async def test_all_is_well_and_nothing_is_said(pipeline, watch):
    for state in ("starting", "up"):
        pipeline.collectors[0].state = pipeline.deliveries[0].state = state
        await watch.look()
        await watch.look()
    assert pipeline.rows == []


@pytest.mark.parametrize(
    ("rooms", "alarm", "severity"),
    [("collectors", "device_unreachable.press", "critical"), ("deliveries", "sink_unreachable.lake", "warning")],
)
@pytest.mark.parametrize("state", ["down", "misconfigured"])
async def test_what_is_away_is_told_once_after_the_patience_and_cleared_once(
    pipeline, watch, manual_clock, rooms, alarm, severity, state
):
    room = getattr(pipeline, rooms)[0]
    room.state, room.since_us, room.error = state, manual_clock.now_us(), "connection refused"
    await watch.look()
    room.since_us -= 2_000_000
    await watch.look()
    assert pipeline.told(alarm) == []
    room.since_us -= 2_000_000
    for _ in range(3):
        await watch.look()
    assert pipeline.told(alarm) == ["raised"]
    (row,) = pipeline.alerts()
    assert "connection refused" in row["problem"]
    assert room.name in row["action"]
    assert (row["severity"], row["model"], row["asset"]) == (severity, "gateway", "acme/osaka/gw-1")
    room.state = "up"
    for _ in range(3):
        await watch.look()
    assert pipeline.told(alarm) == ["raised", "cleared"]
    assert len({row["id"] for row in pipeline.alerts()}) == 1


@pytest.mark.parametrize("owner", ["own", "server"])
async def test_a_certificate_is_told_30_days_before_its_end_and_again_7_days_before(pipeline, watch, manual_clock, owner):
    alarm, day = f"certificate_expiring.press.{owner}", 86_400_000_000
    press = pipeline.collectors[0]
    press.state = "up"

    async def ends_in(days):
        expires = manual_clock.now_us() + round(days * day)
        press.certificates = [CertificateFact(owner, "CN=press 7", "c0ffee" * 10 + "abcd", expires, "Renew it")]
        await watch.look()
        await watch.look()

    await ends_in(30.1)
    assert pipeline.alerts() == []
    await ends_in(29.9)
    await ends_in(7.1)
    assert pipeline.told(alarm) == ["raised"]
    (row,) = pipeline.alerts()
    assert (row["severity"], row["action"]) == ("warning", "Renew it")
    assert "expires in 29 days (CN=press 7, c0ffeec0ffee)" in row["problem"]
    await ends_in(6.9)
    await ends_in(-1)
    assert pipeline.told(alarm) == ["raised", "changed"]
    assert pipeline.alerts()[-1]["severity"] == "critical"
    press.state, press.certificates = "down", []  # as after a restart, before the device is reached
    await watch.look()
    assert pipeline.told(alarm) == ["raised", "changed"]
    press.state = "up"
    await ends_in(1800)
    assert pipeline.told(alarm) == ["raised", "changed", "cleared"]


async def test_a_certificate_that_is_not_used_any_more_is_no_trouble(pipeline, watch, manual_clock):
    press = pipeline.collectors[0]
    press.state = "up"
    press.certificates = [CertificateFact("own", "CN=gw", "ab" * 32, manual_clock.now_us(), "")]
    await watch.look()
    press.certificates = []  # its security was taken out of the file
    await watch.look()
    assert pipeline.told("certificate_expiring.press.own") == ["raised", "cleared"]


@pytest.mark.parametrize("rooms", ["collectors", "deliveries"])
async def test_a_short_absence_is_nobodys_trouble(pipeline, watch, manual_clock, rooms):
    room = getattr(pipeline, rooms)[0]
    room.state, room.since_us = "down", manual_clock.now_us()
    await watch.look()
    room.since_us -= 1_000_000
    await watch.look()
    room.state = "up"
    await watch.look()
    assert pipeline.rows == []


@pytest.mark.parametrize(
    ("rooms", "alarm"), [("collectors", "device_unreachable.press"), ("deliveries", "sink_unreachable.lake")]
)
async def test_an_alarm_of_the_run_before_is_not_cleared_while_nobody_knows_yet(pipeline, watch, manual_clock, rooms, alarm):
    room = getattr(pipeline, rooms)[0]
    room.state, room.since_us = "down", manual_clock.now_us() - 60_000_000
    await watch.look()
    again = Pipeline(manual_clock)  # a restart: the alarm layer is restored, the rooms start
    again.alarms = pipeline.alarms
    second = Troubles(again, patience_s=3)
    await second.look()
    room = getattr(again, rooms)[0]
    room.state, room.since_us = "down", manual_clock.now_us()
    await second.look()
    room.since_us -= 10_000_000
    await second.look()
    assert again.rows == []
    room.state = "up"
    await second.look()
    assert again.told(alarm) == ["cleared"]


async def test_alarms_about_what_was_removed_from_the_configuration_clear(pipeline, watch, manual_clock):
    pipeline.collectors[0].state = pipeline.deliveries[0].state = "down"
    manual_clock.step(10)
    pipeline.crashes["models"] = Crashes(3, asyncio.get_running_loop().time(), "ZeroDivisionError()")
    await watch.look()
    again = Pipeline(manual_clock)
    again.alarms, again.collectors, again.deliveries = pipeline.alarms, [], []
    for _ in range(2):
        await Troubles(again).look()
    assert sorted((row["alarm"], row["transition"]) for row in again.alerts()) == [
        ("device_unreachable.press", "cleared"), ("sink_unreachable.lake", "cleared"), ("task_crashing.models", "cleared"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("alarm", "levels"),
    [
        ("spool_filling", [700_000_001, 810_000_000, 790_000_000, 810_000_000, 690_000_000]),
        ("disk_filling", [250_000_000, 190_000_000, 210_000_000, 190_000_000, 310_000_000]),
        ("models_behind", [900_000, 1_100_000, 900_000, 1_100_000, 90_000]),
    ],
)
async def test_a_level_that_wavers_around_its_limit_is_one_alarm(pipeline, watch, free, alarm, levels):
    told = []
    for level in levels:
        if alarm == "spool_filling":
            pipeline.used = level
        elif alarm == "disk_filling":
            free.bytes = level
        else:
            pipeline.runner.behind_rows = level
        await watch.look()
        told.append(pipeline.told(alarm))
    assert told == [[], ["raised"], ["raised"], ["raised"], ["raised", "cleared"]]


async def test_a_disk_that_fails_is_told_with_its_reason(pipeline, watch):
    pipeline.spool.failure = "No space left on device"
    await watch.look()
    await watch.look()
    (row,) = pipeline.alerts()
    assert row["alarm"] == "spool_failing"
    assert "No space left" in row["problem"]
    pipeline.spool.failure = ""
    await watch.look()
    assert pipeline.told("spool_failing") == ["raised", "cleared"]


async def test_a_part_that_crashes_again_and_again_is_one_alarm_until_it_is_calm(pipeline, watch, monkeypatch):
    for count in (1, 2, 3):
        pipeline.crashes["sink lake"] = Crashes(count, asyncio.get_running_loop().time(), "ZeroDivisionError()")
        await watch.look()
    (row,) = pipeline.alerts()
    assert (row["alarm"], row["transition"], row["subject"]) == ("task_crashing.sink_lake", "raised", "sink lake")
    assert "ZeroDivisionError" in row["problem"]
    monkeypatch.setattr(troubles, "_CALM_S", 0.0)
    await watch.look()
    assert pipeline.told("task_crashing.sink_lake") == ["raised", "cleared"]


@pytest.mark.parametrize("step_s", [-3600, 3600])
async def test_a_clock_that_is_set_is_one_event_and_one_alarm(pipeline, watch, manual_clock, monkeypatch, step_s):
    pipeline.collectors[0].state = pipeline.deliveries[0].state = "up"
    await watch.look()
    manual_clock.step(step_s)
    for _ in range(3):
        await watch.look()
    assert [kind for kind, _ in pipeline.rows] == ["event", "alert"]
    assert pipeline.rows[0][1]["event"] == "clock_stepped"
    assert f"{step_s:+.1f} s" in pipeline.rows[1][1]["problem"]
    watch._stepped_until_s = 0.0  # as a minute later
    await watch.look()
    assert pipeline.told("clock_unsynchronised") == ["raised", "cleared"]


async def test_a_clock_that_was_never_set_is_an_alarm_until_it_is(pipeline, watch, manual_clock):
    manual_clock.us = 0
    pipeline.collectors[0].state = pipeline.deliveries[0].state = "up"
    await watch.look()
    assert pipeline.alerts()[0]["problem"] == "the clock of the gateway has never been set"
    manual_clock.us = 1_767_225_600_000_000
    await watch.look()
    watch._stepped_until_s = 0.0
    await watch.look()
    assert pipeline.told("clock_unsynchronised") == ["raised", "cleared"]


async def test_lost_rows_are_one_gap_row_per_sink_that_was_still_to_have_them(pipeline, watch):
    pipeline.losses = [Loss("telemetry", 10, 29, "dropped", {"lake": 20, "broker": 5}, 1_000, 2_000)]
    await watch.look()
    await watch.look()
    gaps = [row for kind, row in pipeline.rows if kind == "gap"]
    assert [(gap["sink"], gap["rows"], gap["cause"], gap["source"]) for gap in gaps] == [
        ("lake", 20, "dropped", "spool"), ("broker", 5, "dropped", "spool"),
    ]  # fmt: skip
    assert (gaps[0]["time"].microsecond, gaps[0]["end"].microsecond) == (1_000, 2_000)
    (event,) = [row for kind, row in pipeline.rows if kind == "event"]
    assert (event["event"], event["severity"]) == ("rows_lost", "critical")
    assert "telemetry rows 10 to 29" in event["message"]
    assert [loss.first for loss in pipeline.acknowledged] == [10]


async def test_a_gap_row_says_that_rows_of_another_kind_than_readings_were_lost(pipeline, watch):
    pipeline.losses = [Loss("alert", 3, 4, "dropped", {"lake": 2}, 1_000, 2_000)]
    await watch.look()
    assert [row["source"] for kind, row in pipeline.rows if kind == "gap"] == ["spool.alert"]


async def test_rows_kept_as_windows_are_a_warning_and_a_gap_row_that_is_not_durable_is_owed(pipeline, watch):
    pipeline.losses = [Loss("telemetry", 10, 29, "downsampled", {"lake": 18}, 1_000, 2_000)]
    pipeline.disk_takes = False
    await watch.look()
    assert [(row["cause"], row["rows"]) for kind, row in pipeline.rows if kind == "gap"] == [("downsampled", 18)]
    (event,) = [row for kind, row in pipeline.rows if kind == "event"]
    assert (event["event"], event["severity"]) == ("rows_downsampled", "warning")
    assert pipeline.acknowledged == []


async def test_damage_that_no_sink_was_waiting_for_is_a_gap_of_the_gateway_itself(pipeline, watch):
    pipeline.losses = [Loss("alert", 3, 3, "quarantined", {}, 1_000, 2_000)]
    await watch.look()
    (gap,) = [row for kind, row in pipeline.rows if kind == "gap"]
    assert (gap["sink"], gap["rows"], gap["cause"]) == (None, 1, "quarantined")


async def test_a_sink_that_is_connected_and_takes_nothing_is_told_once_and_cleared_once(pipeline, watch):
    sink = pipeline.deliveries[0]
    sink.state = "up"
    for overdue_s in (0.0, 119.0, 121.0, 300.0, 0.0, 0.0):
        sink.overdue_s = lambda seconds=overdue_s: seconds
        await watch.look()
    assert pipeline.told("sink_stuck.lake") == ["raised", "cleared"]


async def test_a_sink_that_somebody_paused_is_no_trouble(pipeline, watch, manual_clock):
    sink = pipeline.deliveries[0]
    sink.state = "down"
    manual_clock.step(10_000_000)
    await watch.look()
    sink.paused = True
    await watch.look()
    assert pipeline.told("sink_unreachable.lake") == ["raised", "cleared"]
