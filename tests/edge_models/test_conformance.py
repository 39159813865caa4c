"""Every model that ships keeps what `ModelConformance` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from edge_models import drift, envelope, forecast_residual, limits, rules, stuck, trend_to_limit
from tests.conformance.model import ModelConformance


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


class TestTrendToLimit(ModelConformance):
    plugin = trend_to_limit.PLUGIN
    kind = "trend_to_limit"
    gives_health = True
    most_bytes_per_tag = 1700
    options: ClassVar[Mapping[str, Any]] = {"min_samples": 10, "window": "24s", "high": 34, "confidence": 0.5}
