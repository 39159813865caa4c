"""Signals: right for every kind of tag, reproducible whatever else is read, faults at their time, replays by row or by time."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.simulation import Fault, Replay, Scenario, SignalConfig, Signals
from schemas.errors import ConfigError
from schemas.tags import Limits, Tag
from schemas.values import Duration


class Loop:
    """The event loop's clock, set by hand; it does not begin at 0."""

    def __init__(self) -> None:
        self.now = 1234.5

    def time(self) -> float:
        return self.now


def tag(name: str = "temp", **more: Any) -> Tag:
    return Tag(
        **{
            "path": f"acme/osaka/press-1/{name}",
            "asset": "acme/osaka/press-1",
            "name": name,
            "adapter": "press",
            "device": "press-1",
            "address": "x",
            **more,
        }
    )


def signals(
    described: Mapping[str, dict[str, Any]] | None = None, *, seed: int = 1, replays: tuple[Replay, ...] = ()
) -> tuple[Signals, Loop]:
    loop = Loop()
    scenario = Scenario.model_validate({"seed": seed, "signals": described or {}})
    return Signals(scenario, loop.time, replays), loop


def recorded(directory: Path, values: list[object], **more: Any) -> Replay:
    file = directory / "recording.csv"
    file.write_text("time,value\n" + "".join(f"{10 * n},{value}\n" for n, value in enumerate(values)))
    return Replay(**{"tag": "press-1/temp", "file": file, **more})


# What tags show while nothing is wrong


def test_mean_amplitude_period_and_noise() -> None:
    plant, loop = signals(
        {"press-1/temp": {"mean": 50, "amplitude": 10, "period": "40s"}, "press-1/rough": {"mean": 5, "noise": 2}}
    )
    shown = []
    for _ in range(5):
        shown.append(plant.value(tag()))
        loop.now += 10
    assert shown == pytest.approx([50, 60, 50, 40, 50])
    noise = [float(plant.value(tag("rough"))) for _ in range(2000)]
    assert statistics.mean(noise) == pytest.approx(5, abs=0.2)
    assert statistics.stdev(noise) == pytest.approx(2, abs=0.15)


def test_constants_and_counters() -> None:
    described = {
        "**/c": {"constant": 3.5},
        "**/on": {"constant": True},
        "**/n": {"counter": 0.5},
        "**/name": {"constant": "weld-217"},
    }
    plant, loop = signals(described)
    loop.now += 7
    assert plant.value(tag("c")) == 3.5
    assert plant.value(tag("on"), boolean=True) == 1.0
    assert plant.value(tag("n", value_type="integer")) == 3
    assert plant.value(tag("name", value_type="text")) == "weld-217"


def test_a_tag_that_nobody_described_is_plausible() -> None:
    plant, loop = signals()
    assert float(plant.value(tag(limits=Limits(high=90)))) == pytest.approx(54, abs=3)
    assert float(plant.value(tag("cold", limits=Limits(low=-30, high=-10)))) == pytest.approx(-20, abs=3)
    assert float(plant.value(tag("frozen", limits=Limits(high=-10)))) < -10
    assert float(plant.value(tag("warm", limits=Limits(low_low=10)))) > 10
    assert plant.value(tag("recipe", value_type="text")) == "recipe-0"
    assert isinstance(plant.value(tag("energy", value_type="integer")), int)
    switched = set()
    for _ in range(60):
        switched.add(plant.value(tag("pump"), boolean=True))
        loop.now += 1
    assert switched == {0.0, 1.0}


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 100), st.sets(st.integers(-5, 5), min_size=1), st.integers(0, 1000))
def test_booleans_integers_and_enums_never_show_what_they_cannot_be(
    mean: float, amplitude: float, noise: float, states: set[int], t: int
) -> None:
    plant, loop = signals({"**": {"mean": mean, "amplitude": amplitude, "noise": noise}})
    loop.now += t
    assert plant.value(tag("bool"), boolean=True) in (0.0, 1.0)
    whole = plant.value(tag("count", value_type="integer"))
    assert whole == int(whole)
    assert plant.value(tag("mode", enum=dict.fromkeys(states, "s"))) in states


def test_an_enum_takes_the_name_of_a_state_and_a_number_beside_its_states_when_it_is_written() -> None:
    modes = {10: "idle", 20: "run"}
    plant, _ = signals(
        {"**/a": {"constant": "run"}, "**/b": {"constant": 99}, "**/d": {"constant": "jog"}, "**/e": {"constant": "warm"}}
    )
    assert plant.value(tag("a", enum=modes)) == 20
    assert plant.value(tag("b", enum=modes)) == 99  # the unknown state that a test wants
    assert plant.value(tag("c", enum=modes)) == 10
    assert plant.value(tag("c2", enum={0: "idle", 1: "run"})) == 1
    with pytest.raises(ConfigError, match=r"'jog' is no value.*idle, run"):
        plant.value(tag("d", enum=modes))
    with pytest.raises(ConfigError, match="shows numbers"):
        plant.value(tag("e"))


def test_the_tag_s_own_path_goes_before_patterns() -> None:
    plant, _ = signals({"**/*": {"constant": 1}, "press-1/temp": {"constant": 2}, "**/near": {"constant": 3}})
    assert [plant.value(tag(name)) for name in ("temp", "near", "far")] == [2, 1, 1]


@pytest.mark.parametrize(
    "wrong", [{"period": "0s"}, {"noise": -1}, {"mean": 1, "amplitud": 2}, {"fault": {"kind": "rust", "at": "1s"}}]
)
def test_signals_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SignalConfig.model_validate(wrong)


# Reproducible


def test_what_a_tag_shows_does_not_depend_on_which_others_are_read() -> None:
    described = {"**": {"mean": 10, "noise": 1}}
    alone, _ = signals(described)
    crowd, _ = signals(described)
    expected = [alone.value(tag("a")) for _ in range(50)]
    drawn = random.Random(5)
    got = []
    for _ in range(50):
        for name in drawn.sample(["b", "c", "d"], drawn.randint(0, 3)):
            crowd.value(tag(name))
        got.append(crowd.value(tag("a")))
    assert got == expected
    assert [crowd.value(tag("b")) for _ in range(5)] != expected[:5]
    assert signals(described, seed=2)[0].value(tag("a")) != expected[0]


def test_a_restart_begins_anew() -> None:
    plant, loop = signals({"**": {"mean": 10, "noise": 1, "amplitude": 3}})
    first = [plant.value(tag()) for _ in range(5)]
    loop.now += 77
    plant.restart()
    assert [plant.value(tag()) for _ in range(5)] == first


# Faults


def faulty(kind: str, rate: float = 0.0, **more: Any) -> tuple[Signals, Loop]:
    fault = Fault(kind=kind, at=Duration("20s"), rate=rate)  # type: ignore[arg-type]
    return signals({"press-1/temp": {"mean": 10, "fault": fault.model_dump(), **more}})


@pytest.mark.parametrize(
    ("kind", "rate", "after_10_s"), [("wear", 0.06, 10 * math.exp(0.6)), ("drift", 0.4, 14.0), ("spike", 25.0, 35.0)]
)
def test_a_fault_begins_at_its_time_and_not_before(kind: str, rate: float, after_10_s: float) -> None:
    plant, loop = faulty(kind, rate)
    loop.now += 19.99
    assert plant.value(tag()) == 10
    loop.now += 10.01
    assert plant.value(tag()) == pytest.approx(after_10_s)
    loop.now += 1e6
    assert math.isfinite(float(plant.value(tag())))


def test_a_stuck_sensor_repeats_its_last_value_to_the_bit() -> None:
    plant, loop = faulty("stuck", noise=0.5, amplitude=2)
    before = [plant.value(tag()) for _ in range(10)]
    loop.now += 19
    last = plant.value(tag())
    assert last not in before
    after = []
    for _ in range(50):
        loop.now += 1.5
        after.append(plant.value(tag()))
    assert set(after) == {last}


def test_a_sensor_that_nobody_read_before_it_stuck_is_stuck_too() -> None:
    plant, loop = faulty("stuck", noise=0.5)
    loop.now += 100
    assert len({plant.value(tag()) for _ in range(10)}) == 1


# Replays


def test_each_read_moves_a_series_by_one_row_and_it_stays_on_its_last(tmp_path: Path) -> None:
    plant, _ = signals(replays=(recorded(tmp_path, [1.5, "nan", 2.5]),))
    shown = [float(plant.value(tag())) for _ in range(5)]
    assert shown[0] == 1.5
    assert math.isnan(shown[1])
    assert shown[2:] == [2.5, 2.5, 2.5]


def test_a_read_that_is_no_step_shows_the_recording_at_its_own_time_times_speed(tmp_path: Path) -> None:
    plant, loop = signals(replays=(recorded(tmp_path, [1, 2, 3, 4], speed=5.0),))
    shown = []
    for _ in range(5):
        shown.append(plant.value(tag(), step=False))
        shown.append(plant.value(tag(), step=False))
        loop.now += 2
    assert shown == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert plant.value(tag()) == 1  # the two ways don't disturb each other


def test_the_row_to_come_can_be_seen_without_taking_it(tmp_path: Path) -> None:
    plant, loop = signals({"press-1/other": {"constant": 7}}, replays=(recorded(tmp_path, [1, 2, 3], speed=5.0),))
    seen = []
    for _ in range(5):
        loop.now += 100
        assert plant.upcoming(tag()) == plant.upcoming(tag())
        seen.append((plant.upcoming(tag()), plant.value(tag())))
    assert seen == [(1, 1), (2, 2), (3, 3), (3, 3), (3, 3)]
    assert plant.upcoming(tag("other")) is None
    plant.restart()
    assert plant.upcoming(tag()) == 1


def test_tags_without_a_nan_keep_the_value_before_a_missing_one(tmp_path: Path) -> None:
    values: list[object] = [1, "nan", 0, "", "inf", 2]
    for options, boolean, expected in (
        ({"value_type": "integer"}, False, [1, 1, 0, 0, 0, 2]),
        ({"enum": {0: "idle", 1: "run"}}, False, [1, 1, 0, 0, 0, 2]),
        ({}, True, [1, 1, 0, 0, 0, 1]),
    ):
        plant, _ = signals(replays=(recorded(tmp_path, values),))
        assert [plant.value(tag(**options), boolean=boolean) for _ in values] == expected


@pytest.mark.parametrize("named", ["acme/osaka/press-1/temp", "press-1/temp", "press/temp", "**/temp", "press-1/*"])
def test_a_replay_finds_its_tag_by_path_pattern_or_adapter_and_name(tmp_path: Path, named: str) -> None:
    plant, _ = signals({"press-1/temp": {"constant": 7}}, replays=(recorded(tmp_path, [1.5], tag=named),))
    assert plant.value(tag()) == 1.5
    assert plant.value(tag("other", path="acme/osaka/else/other", adapter="else", device="else")) != 1.5


def test_tags_of_one_pattern_move_each_for_itself(tmp_path: Path) -> None:
    plant, _ = signals(replays=(recorded(tmp_path, [1, 2, 3], tag="press-1/*"),))
    assert [plant.value(tag("a")) for _ in range(2)] == [1, 2]
    assert [plant.value(tag("b")) for _ in range(2)] == [1, 2]


def test_a_restart_rewinds_the_recording_and_a_missing_file_is_named(tmp_path: Path) -> None:
    plant, _ = signals(replays=(recorded(tmp_path, [1, 2, 3]),))
    assert [plant.value(tag()) for _ in range(2)] == [1, 2]
    plant.restart()
    assert plant.value(tag()) == 1
    with pytest.raises(ConfigError, match=r"[Nn]o such"):
        signals(replays=(Replay(tag="t", file=tmp_path / "missing.csv"),))
