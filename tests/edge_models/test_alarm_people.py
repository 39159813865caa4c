"""What people do to alarms: acknowledge with a verdict, shelve, take out of service; and what of it survives a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from edge_models import alarm_shelf
from edge_models.alarms import AlarmLayer
from edge_models.state import array_text, pack, text_array, unpack
from schemas.kinds import EVENT
from schemas.span import Command
from tests.conformance.model import T0
from tests.edge_models.test_alarms import S, layer, rows_of, run, scores, told

PRESS = "acme/osaka/press"


def do(made: AlarmLayer, name: str, at: float = 1, **said: Any) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """What is told and what happened."""
    alerts, events = made.command(Command(name, "mqtt sink alerts", said), T0 + round(at * S))
    if events is not None:
        assert events.schema.equals(EVENT, check_metadata=True)
    rows = [] if events is None else events.to_pylist()
    return told(alerts), [row | {"attributes": json.loads(row["attributes"])} for row in rows]


def open_id(made: AlarmLayer, at: int = 0) -> str:
    return made.active(suppressed=True)[at].id


# Acknowledging


def test_an_acknowledgement_is_an_event_with_its_verdict() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    one = open_id(made)
    alerts, (event,) = do(made, "acknowledge", id=one, by="Sato", verdict="real", reason="hot to the touch")
    assert alerts == [("t0.wear", "acknowledged", "acknowledged")]
    assert {name: event[name] for name in ("event", "source", "tag", "asset", "severity")} == {
        "event": "alarm_acknowledged", "source": "mqtt sink alerts", "tag": 0, "asset": PRESS, "severity": "info"
    }  # fmt: skip
    assert event["message"] == "Main bearing: t0.wear is acknowledged by Sato as a real alarm"
    assert event["attributes"] == {
        "id": one, "alarm": "t0.wear", "model": "wear", "verdict": "real", "by": "Sato", "reason": "hot to the touch", "since_us": T0,
        "onset_row": 0,
    }  # fmt: skip
    assert do(made, "acknowledge", id=one) == ([], [])
    alerts, (event,) = do(made, "acknowledge", id=one, verdict=False)  # a screen may send a boolean; the last verdict counts
    assert (alerts, event["attributes"]["verdict"]) == ([], "false")


def test_a_verdict_may_come_when_it_is_over_also_after_a_restart() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    one = open_id(made)
    do(made, "acknowledge", id=one)
    run(made, (0, 1, 0.1))
    assert made.active() == []
    fresh = layer()
    fresh.restore(made.snapshot())
    alerts, (event,) = do(fresh, "acknowledge", id=one, verdict="false")
    assert (alerts, event["attributes"]["verdict"]) == ([], "false")
    with pytest.raises(KeyError, match="no open alarm"):
        do(fresh, "acknowledge", id=one)


def test_the_occurrences_that_are_over_are_bounded() -> None:
    made, ids = layer(severity="critical"), []
    for t in range(0, 500, 2):
        run(made, (0, t, 0.95), first_seq=t)
        ids.append(open_id(made))
        do(made, "acknowledge", id=ids[-1])
        run(made, (0, t + 1, 0.1), first_seq=t + 1)
    with pytest.raises(KeyError):
        do(made, "acknowledge", id=ids[0], verdict="real")
    assert do(made, "acknowledge", id=ids[-200], verdict="real")[1]


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("acknowledge", {"verdict": "maybe"}, "real or false"),
        ("acknowledge", {"verdict": 1}, "real or false"),
        ("shelve", {"for": "0s"}, "30d at most"),
        ("shelve", {"for": "31d"}, "30d at most"),
        ("shelve", {"for": "8"}, "unit"),
        ("shelve", {"id": ""}, "needs `id`, `tag` or `asset`"),
        ("reboot", {}, "no command"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(name: str, said: dict[str, Any], message: str) -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    before = made.snapshot()
    with pytest.raises(ValueError, match=message):
        do(made, name, **{"id": open_id(made), **said})
    assert made.snapshot() == before


# Putting aside


def test_shelving_says_who_until_when_and_why() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    alerts, (event,) = do(made, "shelve", id=open_id(made), by="Sato", reason="bearing is ordered", **{"for": "2h"})
    assert alerts == [("t0.wear", "shelved", "shelved")]
    assert event["event"] == "alarm_shelved"
    assert event["message"] == f"wear of {PRESS}/t0 is shelved until 2026-01-01 02:00 UTC by Sato: bearing is ordered"
    assert event["attributes"]["until_us"] == T0 + 7201 * S
    ((key, hold),) = made.aside()
    assert (key, hold.by, hold.reason, hold.until_us) == (
        ("wear", "wear", f"{PRESS}/t0"),
        "Sato",
        "bearing is ordered",
        T0 + 7201 * S,
    )


def test_what_comes_and_goes_while_it_is_shelved_is_told_to_nobody() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    do(made, "shelve", id=open_id(made))
    assert run(made, (0, 2, 0.1)) == [("t0.wear", "cleared", "normal")]  # people knew of this one
    assert run(made, *[(0, t, 0.95 if t % 2 else 0.1) for t in range(3, 9)]) == [("t0.wear", "suppressed", "shelved")] * 3
    assert told(made.update(scores((1, 9, 0.1)), T0 + 9 * HOUR * S)) == []
    assert made.aside() == []


HOUR = 3600


def test_a_whole_asset_and_a_whole_tag_may_be_put_aside() -> None:
    made = layer()
    run(made, (0, 0, 0.95), (2, 0, 0.95))
    alerts, (event,) = do(made, "out_of_service", asset=PRESS, by="Ito", reason="overhaul")
    assert alerts == [("t0.wear", "out_of_service", "out_of_service")]
    assert event["message"] == f"every alarm of {PRESS} is out of service by Ito: overhaul"
    assert run(made, (1, 2, 0.95), (2, 2, 0.1)) == [
        ("t1.wear", "suppressed", "out_of_service"),
        ("t2.wear", "cleared", "returned"),
    ]
    assert told(made.update(scores((0, 3, 0.95)), T0 + 300 * 86_400 * S)) == []  # until somebody says so
    assert do(made, "unshelve", asset=PRESS) == ([], [])  # that is another thing
    alerts, (event,) = do(made, "in_service", asset=PRESS)
    assert sorted(alerts) == [("t0.wear", "in_service", "unacknowledged"), ("t1.wear", "in_service", "unacknowledged")]
    assert event["event"] == "alarm_in_service"
    do(made, "shelve", tag=f"{PRESS}/t1")
    assert {entry.alarm: entry.state for entry in made.active()}["t1.wear"] == "shelved"
    assert {entry.alarm: entry.state for entry in made.active()}["t0.wear"] == "unacknowledged"


def test_one_alarm_may_be_named_by_its_asset_and_its_name() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    assert do(made, "shelve", asset=PRESS, alarm="t0.wear")[0] == [("t0.wear", "shelved", "shelved")]
    run(made, (0, 1, 0.1))
    assert do(made, "unshelve", asset=PRESS, alarm="t0.wear")[1]
    with pytest.raises(KeyError, match="shelve the tag or the asset instead"):
        do(made, "shelve", asset=PRESS, alarm="t1.wear")


def test_the_gateways_own_troubles_may_be_put_aside() -> None:
    made = AlarmLayer([])

    def trouble(active: bool, at: int) -> list[tuple[str, str, str]]:
        return told(
            made.condition(
                "d", subject="press-07", asset="acme/osaka/gw", active=active, now=T0 + at * S, severity="critical", problem="p", action="a"
            )
        )  # fmt: skip

    trouble(True, 0)
    assert do(made, "shelve", id=open_id(made), **{"for": "10s"})[0] == [("d", "shelved", "shelved")]
    assert trouble(True, 5) == []
    assert trouble(True, 11) == [("d", "unshelved", "unacknowledged")]


def test_shelved_twice_the_last_word_counts() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    one = open_id(made)
    do(made, "shelve", id=one, **{"for": "10s"})
    assert do(made, "shelve", 5, id=one, **{"for": "60s"})[0] == []
    assert told(made.update(scores((1, 12, 0.1)), T0 + 12 * S)) == []
    assert told(made.update(scores((1, 66, 0.1)), T0 + 66 * S)) == [("t0.wear", "unshelved", "unacknowledged")]


# Restarts in every state


def unacknowledged(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95))


def acknowledged(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95))
    do(made, "acknowledge", id=open_id(made))


def returned(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95), (0, 1, 0.1))


def shelved(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95))
    do(made, "shelve", id=open_id(made), **{"for": "60s"})


def out_of_service(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95))
    do(made, "out_of_service", tag=f"{PRESS}/t0")


def suppressed(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95), (0, 1, 0.1), (0, 1.5, 0.95))


def normal(made: AlarmLayer) -> None:
    run(made, (0, 0, 0.95), (0, 1, 0.1))
    do(made, "acknowledge", id=open_id(made))


STATES = (unacknowledged, acknowledged, returned, shelved, out_of_service, suppressed, normal)
CONTINUED = [(0, t, s) for t, s in ((2, 0.95), (3, 0.97), (30, 0.1), (31, 0.95), (70, 0.96), (90, 0.1))]


def continued(made: AlarmLayer) -> list[tuple[str, str, str]]:
    """The next minute and a half, in steps."""
    found: list[tuple[str, str, str]] = []
    for number, row in enumerate(CONTINUED):
        found += told(made.update(scores(row, first_seq=10 + number), T0 + round(row[1] * S)))
    return found + do(made, "in_service", 95, tag=f"{PRESS}/t0")[0]


@pytest.mark.parametrize("reach", STATES)
def test_a_restart_in_every_state_changes_nothing(reach: Callable[[AlarmLayer], None]) -> None:
    made = layer(peak_first="20s")
    reach(made)
    states = [entry.state for entry in made.active(suppressed=True)]
    assert states == ([] if reach is normal else [reach.__name__])
    fresh = layer(peak_first="20s")
    fresh.restore(made.snapshot())
    assert fresh.snapshot() == made.snapshot()
    assert fresh.active(suppressed=True) == made.active(suppressed=True) or reach is not normal
    assert continued(fresh) == continued(made)


@pytest.mark.parametrize("reach", STATES)
def test_without_a_state_the_durable_rows_say_how_it_stands(reach: Callable[[AlarmLayer], None]) -> None:
    """A state that is lost as a whole: what is open and what was put aside is known from the rows of alerts and events."""
    made = layer(peak_first="20s")
    alerts: list[pa.RecordBatch] = []
    events: list[pa.RecordBatch] = []
    update, command = made.update, made.command

    def keep_update(*given: Any, **options: Any) -> pa.RecordBatch | None:
        alerts.extend(rows_of(found := update(*given, **options)))
        return found

    def keep_command(*given: Any) -> Any:
        found = command(*given)
        alerts.extend(rows_of(found.alerts))
        events.extend(rows_of(found.events))
        return found

    made.update, made.command = keep_update, keep_command  # type: ignore[method-assign]
    reach(made)
    cold = layer(peak_first="20s")
    assert cold.replay(alerts, events=events, now=T0 + 2 * S) is None
    assert [(entry.id, entry.state) for entry in cold.active(suppressed=True)] == [
        (entry.id, entry.state) for entry in made.active(suppressed=True)
    ]
    assert cold.aside() == made.aside()


def test_what_was_put_aside_after_the_last_snapshot_survives_a_crash() -> None:
    made = layer()
    run(made, (0, 0, 0.95))
    state = made.snapshot()
    shelved_ = made.command(Command("shelve", "mqtt", {"id": open_id(made), "for": "60s", "by": "Sato"}), T0 + S)
    service = made.command(Command("out_of_service", "mqtt", {"asset": "acme/osaka/drill"}), T0 + S)
    back = made.command(Command("in_service", "mqtt", {"asset": "acme/osaka/drill"}), T0 + 2 * S)
    again = layer()
    again.restore(state)
    again.replay(rows_of(shelved_.alerts), events=rows_of(shelved_.events, service.events, back.events), now=T0 + 5 * S)
    assert again.aside() == made.aside()
    assert [entry.state for entry in again.active()] == ["shelved"]
    assert told(again.update(scores((1, 62, 0.1)), T0 + 62 * S)) == [("t0.wear", "unshelved", "unacknowledged")]
    # The alert row did not become durable: it is told once more, not never.
    late = layer()
    late.restore(state)
    assert told(late.replay([], events=rows_of(shelved_.events), now=T0 + 5 * S)) == [("t0.wear", "shelved", "shelved")]
    # It was over before the restart: nothing is put aside.
    old = layer()
    old.restore(state)
    old.replay([], events=rows_of(shelved_.events), now=T0 + 500 * S)
    assert [entry.state for entry in old.active()] == ["unacknowledged"]


@pytest.mark.parametrize("attributes", [None, "", "{", "[]", "7", '{"subject": 1}', '{"subject": "x", "since_us": "y"}'])
def test_events_of_another_hand_are_passed_over(attributes: str | None) -> None:
    made = layer()
    event = pa.RecordBatch.from_pylist([{"event": "alarm_shelved", "attributes": attributes}], EVENT)
    assert made.replay([], events=[event], now=T0) is None
    assert made.aside() == []


def test_a_state_of_the_version_before_is_taken_over() -> None:
    """As genba 0.1.0 wrote it: the book alone, delays of five numbers, shelves that know only until when."""
    made = layer()
    run(made, (0, 0, 0.95), (1, 0, 0.95))
    entries = json.loads(array_text(unpack(made.snapshot(), "alarms", 2, "")["book"]))["book"]["open"]
    for *_, fields in entries:
        del fields["told"], fields["held"]
    old = {
        "open": entries, "shelf": [["wear", "wear", f"{PRESS}/t1", T0 + 60 * S]], "budget": [["wear", PRESS, 1.0, T0]],
        "waiting": [["wear", "wear", tag, PRESS, 2, 0, tag, T0] for tag in (0, 1)],
    }  # fmt: skip
    entries[1][3]["state"] = "shelved"
    state = pack("alarms", 1, "", {"book": text_array(json.dumps(old))})
    fresh = layer()
    fresh.restore(state)
    assert {entry.alarm: entry.state for entry in fresh.active()} == {"t0.wear": "unacknowledged", "t1.wear": "shelved"}
    assert run(fresh, (0, 1, 0.95)) == []
    assert run(fresh, (0, 2, 0.1)) == [("t0.wear", "cleared", "returned")]
    assert told(fresh.update(scores((1, 61, 0.95)), T0 + 61 * S)) == [("t1.wear", "unshelved", "unacknowledged")]


def test_too_much_put_aside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_shelf, "MOST", 20)
    made = layer()
    for number in range(20):
        do(made, "shelve", asset=f"acme/osaka/a{number}")
    with pytest.raises(ValueError, match="take some back first"):
        do(made, "shelve", asset="acme/osaka/one-more")
    assert do(made, "shelve", asset="acme/osaka/a7")[1]  # what is there may be renewed
    run(made, (0, 0, 0.95))
    assert [entry.state for entry in made.active()] == ["unacknowledged"]
