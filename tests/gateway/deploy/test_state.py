"""What is reported stays within the room, says first what is wrong, and repeats the wishes in force."""

from __future__ import annotations

import pytest

from gateway.deploy.state import fitted, size

WISHES = {"log_level": "debug", "adapters": {"a-3": {"scan": "5s"}}, "sinks": {"s-1": {"paused": True}}}


def state(adapters=4, sinks=3, down=1):
    return {
        "version": "1.0", "log_level": "debug", "counts": {"tags": 10_000, "adapters": {"up": adapters - down, "down": down}},
        "adapters": {f"a-{n}": {"state": "down" if n < down else "up", "scan_classes": ["1s", "10s"]} for n in range(adapters)},
        "sinks": {f"s-{n}": {"state": "up", "paused": n == 1} for n in range(sinks)},
        "models": {f"m-{n}": "stuck 1" for n in range(adapters)}, "spool": {"oldest_row_s": 3, "bytes": 4}, "errors": [],
    }  # fmt: skip


def test_a_small_gateway_reports_everything_and_the_wishes_at_their_places():
    made = fitted(state(), WISHES, 7000)
    assert made["adapters"]["a-3"] == {"state": "up", "scan_classes": ["1s", "10s"], "scan": "5s"}
    assert made["sinks"]["s-1"] == {"state": "up", "paused": True}
    assert "left_out" not in made
    assert len(made["adapters"]) == 4


@pytest.mark.parametrize(("adapters", "down"), [(500, 1), (500, 30), (5000, 5000)])
def test_a_large_one_leaves_out_what_is_well(adapters, down):
    made = fitted(state(adapters, down=down), WISHES, 4000)
    assert size(made) <= 4000
    assert made["adapters"]["a-0"]["state"] == "down"
    assert made["adapters"]["a-3"]["scan"] == "5s"
    assert made["sinks"]["s-1"]["paused"] is True
    assert made["counts"]["adapters"]["down"] == down
    assert "adapters" in made["left_out"]


def test_where_nothing_fits_the_wishes_are_still_confirmed():
    made = fitted(state(500, down=500), WISHES, 200)
    assert size(made) <= 250
    assert made["log_level"] == "debug"
    assert made["sinks"] == {"s-1": {"paused": True}}


def test_nothing_empty_is_reported():
    """The service keeps no empty mapping: it would differ for ever."""
    made = fitted({**state(), "models": {}, "adapters": {}}, {}, 7000)
    assert "models" not in made
    assert "adapters" not in made
