"""Every model that ships keeps what `ModelConformance` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from edge_models import (
    drift,
    ensemble,
    envelope,
    forecast,
    forecast_residual,
    limits,
    novelty,
    rules,
    seasonal,
    shape,
    stuck,
    trend_to_limit,
    vibration,
)
from edge_models.base import EdgeModel
from schemas.tags import Tag
from tests.conformance.model import TAGS, ModelConformance, make_tag
from tests.edge_models.waveforms import carried


class TestForecastResidual(ModelConformance):
    plugin = forecast_residual.PLUGIN
    kind = "forecast_residual"


class TestDrift(ModelConformance):
    plugin = drift.PLUGIN
    kind = "drift"


class TestStuck(ModelConformance):
    plugin = stuck.PLUGIN
    kind = "stuck"
    looks_at_bad = True
    options: ClassVar[Mapping[str, Any]] = {"at_least": "2s", "min_changes": 5}


class TestLimits(ModelConformance):
    plugin = limits.PLUGIN
    kind = "limits"
    warm_up_us = 0
    row_per_reading = False


class TestRulesOfOneTag(ModelConformance):
    plugin = rules.PLUGIN
    kind = "rules"
    warm_up_us = 0
    row_per_reading = False
    most_bytes_per_tag = 300
    bulk = (2_000, 100)  # three rules on each tag
    options: ClassVar[Mapping[str, Any]] = {
        "rules": {
            "too-high": {"tag": "t*", "above": 22, "below": 5, "hysteresis": 1.0, "on_delay": "1s"},
            "rises": {"tag": "t?", "rate_above": 2.0, "rate_below": -3.0, "over": "1s"},
            "dead": {"tag": "t*", "heartbeat": "5s"},
        }
    }


class TestEnvelope(ModelConformance):
    plugin = envelope.PLUGIN
    kind = "envelope"
    options: ClassVar[Mapping[str, Any]] = {"min_samples": 10}


class TestEnsemble(ModelConformance):
    plugin = ensemble.PLUGIN
    kind = "ensemble"
    most_bytes_per_tag = 350
    options: ClassVar[Mapping[str, Any]] = {
        "min_samples": 10,
        "members": {"forecast_residual": {"min_samples": 20}, "drift": {}, "envelope": {"min_samples": 10}},
    }


class TestNovelty(ModelConformance):
    plugin = novelty.PLUGIN
    kind = "novelty"
    most_bytes_per_tag = 800
    options: ClassVar[Mapping[str, Any]] = {"min_samples": 10, "patterns": 25}


class TestTrendToLimit(ModelConformance):
    plugin = trend_to_limit.PLUGIN
    kind = "trend_to_limit"
    gives_health = True
    most_bytes_per_tag = 1700
    options: ClassVar[Mapping[str, Any]] = {"min_samples": 10, "window": "24s", "high": 34, "confidence": 0.5}


class TestSeasonal(ModelConformance):
    """A cycle of eight seconds, so that each slot is seen several times."""

    plugin = seasonal.PLUGIN
    kind = "seasonal"
    most_bytes_per_tag = 400
    options: ClassVar[Mapping[str, Any]] = {"min_samples": 10, "cycle": "8s", "slot": "1s", "min_visits": 2}


class TestSeasonalByTheClockOfAPlant(ModelConformance):
    """Berlin, two readings a slot at most, and slots that are learnt anew."""

    plugin = seasonal.PLUGIN
    kind = "seasonal"
    most_bytes_per_tag = 600
    options: ClassVar[Mapping[str, Any]] = {
        "min_samples": 10, "cycle": "10s", "slot": "500ms", "min_visits": 2, "time_zone": "Europe/Berlin", "accept_after": "1m",
    }  # fmt: skip


class TestForecast(ModelConformance):
    """A cycle of four seconds; it knows something when it has seen it a few times."""

    plugin = forecast.PLUGIN
    kind = "forecast"
    gives_health = True
    most_bytes_per_tag = 1200
    options: ClassVar[Mapping[str, Any]] = {
        "min_samples": 10, "cycle": "4s", "slot": "1s", "horizon": "2s", "confidence": 0.5
    }  # fmt: skip


class TestShape(ModelConformance):
    plugin = shape.PLUGIN
    kind = "shape"
    most_bytes_per_tag = 1300
    bulk = 500, 20
    refill = 8
    options: ClassVar[Mapping[str, Any]] = {"window": 8, "history": 64, "every": 1, "min_samples": 30}


class TestVibration(ModelConformance):
    plugin = vibration.PLUGIN
    kind = "vibration"
    gives_health = True
    most_bytes_per_tag = 700
    bulk = 500, 4
    options: ClassVar[Mapping[str, Any]] = {
        "sample_rate": 1000, "rpm": 6000, "orders": {"BPFO": 3.6}, "bands": [[10, 400]], "min_samples": 20, "report": "5s",
    }  # fmt: skip

    @staticmethod
    def carry(batch: pa.RecordBatch) -> pa.RecordBatch:
        return carried(batch)

    @staticmethod
    def tag(number: int) -> Tag:
        return make_tag(number, value_type="samples", unit="m/s2")


class TestVibrationAtTheSpeedOfATag(TestVibration):
    """Tag 0 bears the shaft speed of all others; their zones are told too."""

    row_per_reading = False
    looks_at_bad = True  # a speed that is bad makes the lines unknown
    options: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in TestVibration.options.items() if key != "rpm"},
        "sample_rate": 2500, "speed": "t0", "min_speed": 5, "zones": [20, 22, 24],
    }  # fmt: skip

    def model(self, tags: Sequence[int] = range(TAGS), **options: Any) -> EdgeModel:
        ids = [0, *(tag for tag in tags if tag)] if len(tags) else []
        return super().model(ids, **options)

    @staticmethod
    def carry(batch: pa.RecordBatch) -> pa.RecordBatch:
        return carried(batch, length=500, numbers=[0])

    @staticmethod
    def tag(number: int) -> Tag:
        return make_tag(number, unit="{rev}/min") if number == 0 else TestVibration.tag(number)
