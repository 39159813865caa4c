"""The book about quiet tags, without a server and with times of its own."""

from __future__ import annotations

import numpy as np
import pytest
from asyncua import ua

from adapters.opcua.decode import ARRAY, Changes
from adapters.opcua.liveness import NOBODY, Liveness, Pace, Step, contract_of
from adapters.opcua.plan import compile_plan
from schemas import quality as q
from tests.adapters.opcua.rig import bind, configure

DOUBLE = 11


def values(*pairs: tuple[int, float], status: int = q.GOOD, source: int = 1) -> Changes:
    """Doubles by client handle."""
    n = len(pairs)
    return Changes(
        handle=np.array([handle for handle, _ in pairs], np.uint32),
        kind=np.full(n, DOUBLE, np.uint8),
        value=np.array([value for _, value in pairs], np.float64),
        integer=np.zeros(n, np.int64),
        status=np.full(n, status, np.uint32),
        source=np.full(n, source, np.int64),
        server=np.zeros(n, np.int64),
    )


def book(n: int = 1, verify: str = "60s", **tag: object) -> Liveness:
    """`n` tags with a scan of 1 s, whose items have been made and have delivered their first value, 0.0, at 0 s."""
    tags = {f"t{i}": {"address": f"ns=2;s=T{i}", "scan": "1s", **tag} for i in range(n)}
    config = configure(tags, verify_quiet=verify)
    bound = bind(config)
    within = {i: int(s) for i, one in enumerate(bound) if (s := getattr(one.config, "expect_update_within", None))}
    contract = contract_of(compile_plan(bound, config), [one.tag.period_us for one in bound], within, int(config.verify_quiet))
    made = Liveness(contract, Pace())
    made.begin(0.0)
    made.expect(range(n), 0.0)
    made.note(values(*((i, 0.0) for i in range(n))), 0.0)
    return made


def look(made: Liveness, now: float, read: Changes, due: bool = True) -> tuple[list[int], list[int], dict[Step, list[int]]]:
    """(lost, silent, steps) of a look at what is due, which shows `read`."""
    assert made.due(now, 1000).tolist() == (sorted(read.handle.tolist()) if due else [])
    verdict = made.judge(read, now)
    return verdict.lost.tolist(), verdict.silent.tolist(), {step: at.tolist() for step, at in verdict.steps.items()}


def test_a_quiet_tag_is_due_each_minute_and_well_when_nothing_has_changed() -> None:
    made = book()
    assert made.due(59.9, 10).tolist() == []
    for now in (60.0, 120.0, 180.0):
        assert look(made, now, values((0, 0.0), source=int(now))) == ([], [], {})
        assert made.due(now + 59.9, 10).tolist() == []


def test_a_tag_that_reports_is_never_due() -> None:
    made = book()
    for now in range(0, 600, 30):
        made.note(values((0, float(now))), float(now))
        assert made.due(now + 29.0, 10).tolist() == []


def test_a_slow_scan_is_looked_at_after_three_of_its_own() -> None:
    made = book()
    made.sampled([0], [100.0])  # the server samples it every 100 s at best
    assert made.due(299.0, 10).tolist() == []
    assert made.due(300.0, 10).tolist() == [0]


def test_ten_thousand_quiet_tags_are_spread_over_their_time() -> None:
    made = book(10_000)
    looks = []
    for second in range(60, 301):
        due = made.due(float(second), min(made.quota(), 1000))
        looks.append(len(due))
        if len(due):
            made.judge(values(*((int(i), 0.0) for i in due)), float(second))
    assert max(looks) <= 334
    assert 40_000 <= sum(looks) <= 50_000  # each once a minute, and never more
    assert sum(looks[:30]) >= 10_000 - 334  # although all were due at once


@pytest.mark.parametrize("verify", ["0s"])
def test_zero_leaves_quiet_tags_alone(verify: str) -> None:
    made = book(verify=verify)
    made.expect([0], 10.0)
    assert made.due(1e9, 10).tolist() == []


def test_what_the_subscription_brings_late_is_not_lost() -> None:
    made = book()
    assert look(made, 60.0, values((0, 5.0))) == ([], [], {})
    made.note(values((0, 5.0)), 61.0)
    assert made.due(65.0, 10).tolist() == []
    assert look(made, 121.0, values((0, 5.0))) == ([], [], {})


def test_a_lost_update_is_sure_after_two_looks_and_goes_on_step_by_step() -> None:
    made = book()
    now, taken = 60.0, []
    for value in (1.0, 2.0, 3.0, 4.0):
        assert look(made, now, values((0, value))) == ([], [], {})
        assert made.due(now + 3.9, 10).tolist() == []
        lost, _, steps = look(made, now + 4.0, values((0, value)))
        assert lost == [0]
        taken += [step for step, at in steps.items() if at == [0]]
        made.begin(now + 4.0, keep=True)
        made.expect([0], now + 4.0)
        made.note(values((0, value)), now + 5.0)  # each time the new item brings its first value and then nothing
        now += 400.0
    assert taken == [Step.RESUBSCRIBED, Step.NEW_SESSION, Step.NEW_CLIENT, Step.POLLED]
    lost, _, steps = look(made, now, values((0, 9.0)))  # read instead: at once
    assert (lost, steps) == ([0], {})
    made.note(values((0, 10.0)), now + 1.0)
    back, silent = made.back()
    assert (back.tolist(), silent.tolist()) == ([0], [])
    assert made.due(now + 60.0, 10).tolist() == []


def test_new_sessions_are_few_and_one_counts_for_all() -> None:
    made = book(2)

    def lose(now: float, handle: int, value: float) -> dict[Step, list[int]]:
        made.judge(values((handle, value)), now)
        return {step: at.tolist() for step, at in made.judge(values((handle, value)), now + 4.0).steps.items()}

    assert lose(60.0, 0, 1.0) == {Step.RESUBSCRIBED: [0]}
    assert lose(70.0, 1, 1.0) == {Step.RESUBSCRIBED: [1]}
    assert lose(1000.0, 0, 2.0) == {Step.NEW_SESSION: [0]}
    assert lose(1010.0, 1, 2.0) == {}  # it has had that new session too
    assert lose(1020.0, 1, 3.0) == {}  # a new connection must wait
    assert lose(1400.0, 1, 4.0) == {Step.NEW_CLIENT: [1]}


def test_a_first_value_that_never_comes_is_missed_after_10_s() -> None:
    made = book()
    made.begin(100.0)
    made.expect([0], 100.0)
    assert made.due(109.9, 10).tolist() == []
    assert look(made, 110.0, values((0, 0.0))) == ([], [], {})
    assert look(made, 114.0, values((0, 0.0))) == ([0], [], {Step.RESUBSCRIBED: [0]})


@pytest.mark.parametrize(
    ("options", "read", "lost"),
    [
        ({}, values((0, 0.5)), True),
        ({}, values((0, 0.0), source=99), False),
        ({}, values((0, 0.0), status=q.OVERFLOW), False),
        ({}, values((0, -0.0)), False),
        ({}, values((0, 0.0), status=q.UNCERTAIN_LAST_USABLE_VALUE), True),
        ({}, values((0, 0.0), status=int(ua.StatusCodes.BadUserAccessDenied)), False),
        ({}, values((0, 0.0), status=q.BAD_NODE_ID_UNKNOWN), True),
        ({"server_deadband": 1}, values((0, 0.9)), False),
        ({"server_deadband": 1}, values((0, 1.1)), True),
        ({"server_deadband": 1}, values((0, 0.5), status=q.UNCERTAIN_LAST_USABLE_VALUE), True),
        ({"server_deadband": "5 %"}, values((0, 100.0)), False),
        ({"server_deadband": "5 %"}, values((0, 0.0), status=q.BAD_SENSOR_FAILURE), True),
        ({"trigger": "timestamp"}, values((0, 0.0), source=99), True),
        ({"trigger": "status"}, values((0, 7.0)), False),
        ({"trigger": "status"}, values((0, 0.0), status=q.BAD_SENSOR_FAILURE), True),
    ],
)
def test_what_counts_as_a_change_that_should_have_come(options: dict[str, object], read: Changes, lost: bool) -> None:
    made = book(**options)
    made.judge(read, 60.0)
    assert made.judge(read, 70.0).lost.tolist() == ([0] if lost else [])


def test_texts_and_arrays_are_told_apart() -> None:
    made = book(2)
    old, same, new = values((0, 0.0), (1, 0.0)), values((0, 0.0), (1, 0.0)), values((0, 0.0), (1, 0.0))
    for changes, text, variant in ((old, "run", b"\x8b1"), (same, "run", b"\x8b1"), (new, "stop", b"\x8b2")):
        changes.kind[:] = (12, DOUBLE | ARRAY)
        changes.texts[0], changes.variants[1] = text, variant
    made.note(old, 10.0)
    made.judge(same, 80.0)
    assert made.judge(same, 90.0).lost.tolist() == []
    made.judge(new, 150.0)
    assert made.judge(new, 160.0).lost.tolist() == [0, 1]


def test_a_tag_that_must_change_is_silent_once_and_its_old_value_is_no_update() -> None:
    made = book(expect_update_within="30s")
    assert made.due(29.9, 10).tolist() == []
    assert look(made, 30.0, values((0, 0.0))) == ([], [0], {})
    assert look(made, 60.0, values((0, 0.0))) == ([], [], {Step.RESUBSCRIBED: [0]})
    made.expect([0], 60.0)
    first = values((0, 0.0))
    made.note(first, 61.0)
    assert first.handle.tolist() == [NOBODY]
    assert look(made, 91.0, values((0, 0.0)))[1:] == ([], {Step.NEW_SESSION: [0]})
    made.begin(91.0, keep=True)
    made.expect([0], 91.0)
    changed = values((0, 1.0))
    made.note(changed, 92.0)
    assert changed.handle.tolist() == [0]
    assert [at.tolist() for at in made.back()] == [[0], [0]]
    assert look(made, 122.0, values((0, 1.0))) == ([], [0], {})  # anew, from the beginning


def test_after_an_outage_the_contract_begins_anew() -> None:
    made = book(expect_update_within="30s")
    assert look(made, 30.0, values((0, 0.0)))[1] == [0]
    made.begin(1000.0)
    made.expect([0], 1000.0)
    first = values((0, 0.0))
    made.note(first, 1001.0)
    assert first.handle.tolist() == [0]
    assert made.due(1029.0, 10).tolist() == []
    assert look(made, 1031.0, values((0, 0.0)))[1] == [0]


def test_refused_tags_are_not_looked_at() -> None:
    made = book(2, expect_update_within="30s")
    made.refused([0])
    assert made.due(100.0, 10).tolist() == [1]


def test_parts_of_one_variable_share_the_shortest_time() -> None:
    tags = {
        "a": {"address": "ns=2;s=Axes", "index": 0, "expect_update_within": "60s"},
        "b": {"address": "ns=2;s=Axes", "index": 1, "expect_update_within": "20s"},
        "c": {"address": "ns=2;s=Other"},
    }
    config = configure(tags)
    bound = bind(config)
    contract = contract_of(compile_plan(bound, config), [50_000] * 3, {0: 60_000_000, 1: 20_000_000}, 60_000_000)
    assert contract.within_s.tolist() == [20.0, np.inf, np.inf]


def test_what_was_read_is_no_row_again_when_the_new_item_begins_with_it() -> None:
    made = book()
    made.expect([0], 0)
    made.note(values((0, 1.0), source=10), 1)
    read = values((0, 2.0), source=20)
    look(made, 62, read)
    assert look(made, 67, read)[0] == [0]
    for delivered, kept in ((values((0, 2.0), source=20), False), (values((0, 2.0), source=30), True)):
        made.expect([0], 70)
        made.note(delivered, 71)
        assert (delivered.handle.tolist() == [0]) is kept  # control: the same value with a newer time is an update
