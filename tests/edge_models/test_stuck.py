"""What `stuck` may say of tags that are polled and of tags that report by exception, as OPC UA subscriptions do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_models.runtime import ModelSet
from edge_models.stuck import PLUGIN
from schemas import quality as q
from schemas.tags import Tag
from tests.conformance.model import T0, make_tag, readings

S = 1_000_000
MINUTE = 60 * S
PERIOD_US = 200_000
BEAT = 0
"""A tag that always goes on: without it nothing at all is seen, and that is nobody's fault."""


class Plant:
    """Readings of a model set with the default settings, in whatever order the tags report; alerts are kept."""

    def __init__(self, tags: int, **options: Any) -> None:
        config = PLUGIN.config.model_validate({"kind": "stuck", "tags": ["**"], "alarm": {"peak_first": "0s"}, **options})
        made: list[Tag] = [make_tag(n, limits=None, unit="Cel", period_us=PERIOD_US) for n in range(tags)]
        self.models = ModelSet.build({"frozen-sensor": config}, made, lambda _: PLUGIN)
        self.rng = np.random.default_rng(7)
        self.now = T0
        self.alerts: list[dict[str, Any]] = []
        self._seq = 0

    def report(self, tags: Sequence[int], values: Sequence[float | None], quality: Sequence[int] | int = 0) -> None:
        """One publish answer, or one poll."""
        batch = readings(list(tags), list(values), self.now, first_seq=self._seq, quality=quality)
        self._seq += len(tags)
        self._keep(self.models.update(batch, self.now).alerts)

    def tick(self) -> None:
        self._keep(self.models.tick(self.now).alerts)

    def go_on(self, for_us: int, also: Sequence[int] = (), step_us: int = PERIOD_US) -> None:
        """The beat, and the tags of `also`, report a new value each `step_us`; models get many reports at once, as from a file."""
        tags = [BEAT, *also]
        steps = self.now + step_us * np.arange(1, for_us // step_us + 1)
        for some in np.array_split(steps, max(1, len(steps) // 200)):
            ids, time = np.tile(np.array(tags, np.int32), len(some)), np.repeat(some, len(tags))
            batch = readings(ids, self.rng.normal(20, 1, len(ids)), time, first_seq=self._seq)
            self._seq += len(ids)
            self.now = int(some[-1])
            self._keep(self.models.update(batch, self.now).alerts)

    def _keep(self, batches: Sequence[Any]) -> None:
        self.alerts += [row for batch in batches for row in batch.to_pylist()]

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(row["transition"], row["problem"]) for row in self.alerts]


def test_a_subscribed_tag_that_reports_once_and_never_changes_never_alarms() -> None:
    plant = Plant(2)
    plant.report([BEAT, 1], [20.0, 180.0])
    plant.go_on(2 * 60 * MINUTE, step_us=S)
    plant.tick()
    assert plant.said == []


@pytest.mark.parametrize("pause_us", [11 * S, 3 * MINUTE, 15 * MINUTE])
def test_a_set_point_that_is_moved_now_and_then_never_alarms(pause_us: int) -> None:
    plant = Plant(2)
    for value in np.arange(15.0):
        plant.report([BEAT, 1], [20.0, value])
        plant.go_on(pause_us, step_us=2 * S)
    plant.go_on(12 * pause_us, step_us=2 * S)
    assert plant.said == []


def test_a_set_point_that_is_dragged_once_behind_the_warm_up_never_alarms() -> None:
    plant = Plant(2)
    plant.report([BEAT, 1], [20.0, 100.0])
    plant.go_on(60 * MINUTE, step_us=2 * S)
    plant.go_on(5 * S, also=[1])  # 25 values in 5 s
    plant.go_on(60 * MINUTE, step_us=2 * S)
    assert plant.said == []


def test_a_set_point_that_was_dragged_during_the_warm_up_never_alarms() -> None:
    plant = Plant(2)
    plant.go_on(5 * S, also=[1])
    plant.go_on(60 * MINUTE, step_us=2 * S)
    plant.now += PERIOD_US
    plant.report([BEAT, 1], [20.0, 3.0])
    plant.go_on(60 * MINUTE, step_us=2 * S)
    assert plant.said == []


def test_a_tag_that_reported_five_times_a_second_and_falls_silent_alarms_and_clears() -> None:
    plant = Plant(3)
    plant.go_on(11 * MINUTE, also=[1, 2])
    assert plant.said == []
    silent = plant.now
    plant.go_on(20 * S, also=[2])
    assert plant.said == [("raised", "press t1 has sent no new good value for 5 s")]
    assert plant.now - 20 * S == silent
    plant.go_on(20 * S, also=[1, 2])
    assert [said[0] for said in plant.said] == ["raised", "cleared"]
    plant.go_on(20 * S, also=[2])  # the fault has not blinded it
    assert [said[0] for said in plant.said] == ["raised", "cleared", "raised"]


def test_silence_may_be_left_out() -> None:
    plant = Plant(2, missing=False)
    plant.go_on(11 * MINUTE, also=[1])
    plant.go_on(5 * MINUTE)
    assert plant.said == []


def test_a_polled_tag_that_was_always_constant_never_alarms() -> None:
    plant = Plant(2)
    for _ in range(30 * 60):
        plant.now += S
        plant.report([BEAT, 1], [float(plant.rng.normal(20, 1)), 7.25])
    assert plant.said == []


def test_a_polled_tag_that_varied_and_freezes_alarms() -> None:
    plant = Plant(2)
    plant.go_on(11 * MINUTE, also=[1])
    for _ in range(10 * 5):
        plant.now += PERIOD_US
        plant.report([BEAT, 1], [float(plant.rng.normal(20, 1)), 48.5])
    ((transition, problem),) = plant.said
    assert transition == "raised"
    assert problem.startswith("press t1 has not changed for 5")
    assert problem.endswith("it stays at 48.5 °C")


def test_bad_readings_that_go_on_read_the_same_as_silence() -> None:
    plant = Plant(2)
    plant.go_on(11 * MINUTE, also=[1])
    for _ in range(10 * 5):
        plant.now += PERIOD_US
        plant.report([BEAT, 1], [float(plant.rng.normal(20, 1)), None], [q.GOOD, q.BAD_SENSOR_FAILURE])
    ((_, problem),) = plant.said
    assert problem.startswith("press t1 has sent no new good value for 5")


def test_what_was_learnt_of_a_tag_s_pace_survives_a_restart() -> None:
    plant = Plant(3)
    plant.report([BEAT, 1, 2], [20.0, 1.0, 2.0])
    for value in np.arange(15.0):
        plant.go_on(MINUTE, also=[2], step_us=S)
        plant.report([1], [value])
    again = Plant(3)
    again.models.restore(plant.models.snapshot())
    again.now, again._seq = plant.now, plant._seq
    again.go_on(10 * MINUTE)
    assert [problem.split(" has ")[0] for _, problem in again.said] == ["press t2"]
