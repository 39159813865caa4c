"""A damaged bearing is found at its own frequency and at no other, velocity is judged by zones, and what cannot be used is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from edge_models.base import ModelContext
from edge_models.runtime import ModelSet, Outputs
from edge_models.vibration import PLUGIN
from edge_models.waveform import Analysis, bearing_orders
from schemas import quality as q
from schemas.errors import ConfigError
from schemas.kinds import kind_of, make_batch, with_seq
from schemas.tags import Tag
from tests.conformance.model import T0, make_tag
from tests.edge_models.waveforms import Block, bearing

RATE, LENGTH, SHAFT = 25_600, 8192, 24.7
MINUTE = 60_000_000
GEOMETRY = {"balls": 9, "ball_diameter": 7.94, "pitch_diameter": 39.04}
ORDERS = bearing_orders(9, 7.94, 39.04, 0.0)
WAVE = make_tag(0, name="de", value_type="samples", unit="m/s2", label="Fan bearing", limits=None)
Row = dict[str, Any]


def rows(blocks: Sequence[Block | None], *, first: int = 0, tag: int = 0, quality: int = 0) -> pa.RecordBatch:
    """TELEMETRY with a waveform a minute; `first` numbers the first one."""
    n = len(blocks)
    batch = make_batch(
        "telemetry", n, time=T0 + (first + np.arange(n)) * MINUTE, tag=np.full(n, tag, np.int32), quality=np.full(n, quality, np.uint32),
        samples=pa.array(blocks, pa.list_(pa.float32())), lag=0, origin=0,
    )  # fmt: skip
    return with_seq(batch, first)


def model_of(*tags: Tag, **options: Any) -> Any:
    config = PLUGIN.config.model_validate(
        {"kind": "vibration", "sample_rate": RATE, "rpm": SHAFT * 60, "bearing": GEOMETRY, "warm_up": "0s", **options}
    )
    return PLUGIN.build(config, ModelContext("bearings", tags or [WAVE]))


def scores(model: Any, batch: pa.RecordBatch, alarm: str = "bearings") -> list[Row]:
    found = [one for one in model.update(batch, T0) if kind_of(one) == "score"]
    return [row for one in found for row in one.to_pylist() if row["alarm"] == alarm]


def healthy(n: int, seed: int = 0) -> list[Block]:
    return [bearing(88.0, strength=0.0, seed=seed * 10_000 + k, length=LENGTH, shaft=SHAFT) for k in range(n)]


def damaged(n: int, order: float, strength: float = 4.0, shaft: float = SHAFT) -> list[Block]:
    return [bearing(order * shaft, strength=strength, seed=700 + k, length=LENGTH, shaft=shaft) for k in range(n)]


@pytest.fixture(scope="module")
def taught() -> bytes:
    """The state after 80 waveforms of a healthy machine."""
    model = model_of()
    scores(model, rows(healthy(80)))
    state: bytes = model.snapshot()
    return state


@pytest.mark.parametrize("line", ["BPFO", "BPFI", "BSF"])
def test_a_damaged_bearing_is_found_at_its_own_frequency(taught: bytes, line: str) -> None:
    model = model_of()
    model.restore(taught)
    found = scores(model, rows(damaged(6, ORDERS[line]), first=80))
    assert all(row["score"] >= row["limit"] for row in found)
    for row in found:
        first, second, *_ = json.loads(row["contributions"])
        assert first.startswith(line)
        assert not second.startswith(tuple(ORDERS)) or second.startswith(line)


def test_impulses_at_another_frequency_name_no_line_of_the_bearing(taught: bytes) -> None:
    model = model_of()
    model.restore(taught)
    for row in scores(model, rows(damaged(6, 3.1), first=80)):
        first, *_ = shares = json.loads(row["contributions"] or "{}")
        assert not first.startswith(tuple(ORDERS))
        assert not {name.split()[0] for name in shares} & {"BPFO", "BPFI", "BSF"}


def test_a_healthy_bearing_raises_nothing(taught: bytes) -> None:
    model = model_of()
    model.restore(taught)
    found = scores(model, rows(healthy(250, seed=3), first=80))
    assert max(row["score"] for row in found) < 0.999999
    assert sum(row["score"] > 0.999 for row in found) <= 3


def test_it_is_louder_at_all_frequencies(taught: bytes) -> None:
    model = model_of()
    model.restore(taught)
    (row,) = scores(model, rows([healthy(1, seed=9)[0] * 2], first=80))
    assert row["score"] >= row["limit"]
    assert not {name.split()[0] for name in json.loads(row["contributions"])} & {*ORDERS}
    assert row["low"] < row["value"] / 2 < row["high"] < row["value"]


def test_a_fault_that_stays_is_told_for_hundreds_of_waveforms(taught: bytes) -> None:
    model = model_of()
    model.restore(taught)
    found = scores(model, rows(damaged(8, ORDERS["BPFO"]) * 25, first=80))
    assert all(row["score"] >= row["limit"] for row in found)


def test_lines_follow_the_speed_of_a_tag() -> None:
    speed = make_tag(1, name="speed", unit="{rev}/min", limits=None)
    model = model_of(WAVE, speed, rpm=None, speed="speed", min_speed=300)
    rng = np.random.default_rng(4)

    def stream(first: int, shafts: npt.NDArray[np.float64], order: float) -> pa.RecordBatch:
        made = []
        for k, shaft in enumerate(shafts.tolist()):
            before = make_batch(
                "telemetry", 1, time=[T0 + (first + k) * MINUTE - 1_000_000], tag=np.array([1], np.int32), value=[shaft * 60],
                quality=np.zeros(1, np.uint32), lag=0, origin=0,
            )  # fmt: skip
            block = bearing(order * shaft, strength=3.0 * bool(order), seed=first + k, length=LENGTH, shaft=shaft)
            made += [before, rows([block], first=first + k).drop_columns(["seq"])]
        return with_seq(pa.Table.from_batches(made).combine_chunks().to_batches()[0], 2 * first)

    assert scores(model, stream(0, rng.uniform(15, 30, 80), 0.0))[-1]["score"] is not None
    for row in scores(model, stream(80, np.array([16.0, 22.0, 29.0]), ORDERS["BPFO"])):
        assert row["score"] >= row["limit"]
        assert next(iter(json.loads(row["contributions"]))).startswith("BPFO")
    standing = scores(model, stream(90, np.array([0.1]), ORDERS["BPFO"]))
    assert [row["score"] for row in standing] == [None]


def sine(mm_s_rms: float, hz: float = 50.0, length: int = LENGTH) -> Block:
    """Acceleration in m/s² of a pure vibration of that velocity."""
    t = np.arange(length) / RATE
    return (mm_s_rms / 1000 * 2 * np.pi * hz * np.sqrt(2) * np.sin(2 * np.pi * hz * t)).astype(np.float32)


@pytest.mark.parametrize(("unit", "factor"), [("m/s2", 1.0), ("[g]", 1 / 9.80665), ("mm/s2", 1000.0)])
def test_velocity_is_that_of_the_vibration_whatever_the_unit(unit: str, factor: float) -> None:
    tag = make_tag(0, value_type="samples", unit=unit, limits=None)
    model = model_of(tag, machine="medium-rigid")
    (row,) = scores(model, rows([sine(3.0) * np.float32(factor)]), "zone_c")
    assert row["value"] == pytest.approx(3.0, rel=0.01)
    assert row["high"] == 2.8
    assert row["score"] == 1.0


def test_velocity_counts_from_10_to_1000_hz_only() -> None:
    model = model_of(zones=[1, 2, 3])
    found = scores(model, rows([sine(5, 3.125), sine(5, 2000), sine(5, 100) + sine(5, 200)]), "zone_d")
    assert found[0]["value"] < 0.3
    assert found[1]["value"] < 0.01
    assert found[2]["value"] == pytest.approx(5 * np.sqrt(2), rel=0.01)


def alarms(blocks: Sequence[Block], tag: Tag = WAVE, **options: Any) -> list[Row]:
    """Alerts of the whole runtime over a waveform a minute."""
    config = PLUGIN.config.model_validate({"kind": "vibration", "tags": ["**"], "sample_rate": RATE, "warm_up": "0s", **options})
    models = ModelSet.build({"bearings": config}, [tag], lambda _: PLUGIN)
    found: list[Outputs] = [models.update(rows([block], first=k), T0) for k, block in enumerate(blocks)]
    return [row for out in found for batch in out.alerts for row in batch.to_pylist()]


def test_zones_raise_their_alarms_in_mm_s_and_hold_until_the_hysteresis_is_left() -> None:
    told = alarms([sine(v) for v in (1.0, 4.6, 4.45, 7.3, 6.9, 6.5, 4.2)], zones=[2.3, 4.5, 7.1])
    assert [(row["alarm"], row["transition"], row["severity"]) for row in told] == [
        ("de.zone_c", "raised", "warning"), ("de.zone_d", "raised", "critical"), ("de.zone_d", "cleared", "critical"),
        ("de.zone_c", "cleared", "warning"),
    ]  # fmt: skip
    assert {row["unit"] for row in told} == {"mm/s"}
    assert told[1]["problem"] == "Fan bearing vibrates with 7.3 mm/s RMS, beyond 7.1 mm/s: zone D"
    assert told[2]["problem"] == "Fan bearing is normal again: 6.513 mm/s"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (np.where(np.arange(LENGTH) == 9, np.nan, sine(1)).astype(np.float32), "not all numbers"),
        (np.full(LENGTH, np.inf, np.float32), "not all numbers"),
        (sine(1, length=LENGTH // 2), "another length"),
        (np.full(LENGTH, 4.25, np.float32), "constant"),
        (np.zeros(LENGTH, np.float32), "constant"),
        (np.zeros(5, np.float32), "too short"),
        (np.zeros(0, np.float32), "too short"),
    ],
)
def test_a_waveform_that_cannot_be_used_is_told_and_not_learnt(broken: Block, why: str) -> None:
    told = alarms([sine(1), broken, sine(1)])
    assert [(row["alarm"], row["transition"]) for row in told] == [("de.waveform", "raised"), ("de.waveform", "cleared")]
    assert f"({why}): {len(broken)} samples, expected {LENGTH}" in told[0]["problem"]
    assert "`sample_rate`" in told[0]["action"]
    model, other = model_of(report="0s"), model_of(report="0s")
    scores(model, rows([sine(1), broken, sine(2)]))
    scores(other, rows([sine(1)]))
    scores(other, rows([sine(2)], first=2))
    for name in ("level", "spread", "seen"):
        assert (model.state[name] == other.state[name])[~np.isnan(model.state[name])].all()


def test_a_waveform_taken_at_another_rate_is_refused() -> None:
    rate = make_tag(1, name="rate", unit="Hz", limits=None)
    model = model_of(WAVE, rate, rate_tag="rate")

    def after(hz: float, first: int) -> list[Row]:
        told = make_batch(
            "telemetry", 1, time=[T0 + first * MINUTE - 1], tag=np.array([1], np.int32), value=[hz], quality=np.zeros(1, np.uint32),
            lag=0, origin=0,
        )  # fmt: skip
        model.update(with_seq(told, 2 * first), T0)
        return scores(model, with_seq(rows([sine(1)], first=first).drop_columns(["seq"]), 2 * first + 1), "waveform")

    assert after(RATE, 0) == []
    (row,) = after(12_800, 1)
    assert (row["score"], json.loads(row["contributions"])) == (1.0, {"another sample rate": 1.0})
    assert [row["score"] for row in after(RATE, 2)] == [0.0]


def test_bad_rows_and_rows_without_a_waveform_are_nothing() -> None:
    model = model_of(zones=[1, 2, 3])
    batch = rows([sine(9), None])
    assert scores(model, rows([sine(9)], quality=q.BAD_TIMEOUT), "zone_d") == []
    assert [row["value"] for row in scores(model, batch, "zone_d")] == [pytest.approx(9.0, rel=0.01)]
    assert scores(model, rows([None], first=5), "waveform") == []


def test_a_waveform_too_short_for_10_hz_is_refused_where_there_are_zones() -> None:
    assert [row["alarm"] for row in alarms([sine(1, length=2048)], zones=[1, 2, 3])] == ["de.waveform"]
    assert alarms([sine(1, length=2048)]) == []


def test_warm_up_counts_from_the_first_waveform() -> None:
    loud = [sine(9)] * 8
    assert [row["time"].minute for row in alarms(loud, zones=[1, 2, 3], warm_up="5m") if row["alarm"] == "de.zone_d"] == [5]


def test_features_are_written_as_health() -> None:
    model = model_of(report="10m")
    found = [one for one in model.update(rows(healthy(21)), T0) if kind_of(one) == "health"]
    told = [row for one in found for row in one.to_pylist()]
    assert sorted({row["time"].minute for row in told}) == [0, 10, 20]
    units = {row["measure"]: row["unit"] for row in told}
    assert units["rms"] == units["10-1000 Hz"] == "m/s2"
    assert (units["velocity"], units["kurtosis"], units["BPFO 2x"]) == ("mm/s", "1", "1")
    assert next(row["value"] for row in told if row["measure"] == "kurtosis") == pytest.approx(2.6, abs=0.3)


def test_what_cannot_be_followed_is_refused_at_the_start() -> None:
    def refused(*tags: Tag, **options: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            model_of(*tags, **options)
        return str(caught.value)

    assert "bears no waveforms" in refused(make_tag(0))
    assert "zones are about velocity" in refused(make_tag(0, value_type="samples", unit="bar"), machine="large-rigid")
    assert "no tag 'speed' among those of the model" in refused(WAVE, rpm=None, speed="speed")
    assert "speed takes a number in one of rpm" in refused(WAVE, make_tag(1, name="speed", unit="A"), rpm=None, speed="speed")
    assert "rate_tag takes a number in one of Hz" in refused(WAVE, make_tag(1, name="fs", unit="m"), rate_tag="fs")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rpm": None}, "bearing lines need the shaft speed"),
        ({"speed": "n"}, "write one of them"),
        ({"min_speed": 5}, "`min_speed` needs `speed`"),
        ({"orders": {"BPFO": 3}}, "BPFO is in `orders` and follows from `bearing`"),
        ({"orders": {"mesh": -3}}, "positive multiple"),
        ({"bands": [[5, 1]]}, "lower to a higher"),
        ({"zones": [3, 2, 1]}, "zone boundaries are three and rise"),
        ({"zones": [1, 2]}, "zone boundaries are three and rise"),
        ({"bands": [[5]]}, "lower to a higher"),
        ({"zones": [1, 2, 3], "sample_rate": 2000}, "show less than that"),
        ({"envelope_low": 9000, "envelope_high": 100}, "that is no band"),
        ({"bearing": {"balls": 9, "ball_diameter": 40, "pitch_diameter": 39}}, "are the diameters swapped"),
        ({"bearing": {"balls": 2, "ball_diameter": 4, "pitch_diameter": 39}}, "greater than or equal to 3"),
        ({"sample_rate": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        model_of(**options)


def test_orders_are_those_of_the_data_sheet() -> None:
    """SKF 6205-2RS: the figures of the Case Western Reserve University bearing data center."""
    assert {name: round(order, 3) for name, order in ORDERS.items()} == {"BPFO": 3.585, "BPFI": 5.415, "BSF": 2.357, "FTF": 0.398}


def test_levels_are_those_of_the_definition() -> None:
    analysis = Analysis(1000.0, [(40, 60), (60, 200)], (100, 400), {}, 3, 0.02)
    t = np.arange(1000) / 1000
    one = np.ones(1)
    found = dict(zip(analysis.names, analysis((7 + 2 * np.sin(2 * np.pi * 50 * t))[None], one, False, np.nan)[0], strict=True))
    assert found["rms"] == pytest.approx(np.sqrt(2))
    assert found["peak"] == pytest.approx(2.0)
    assert found["crest"] == pytest.approx(np.sqrt(2))
    assert found["kurtosis"] == pytest.approx(1.5)
    assert found["velocity"] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert found["40-60 Hz"] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert found["60-200 Hz"] < 0.01
