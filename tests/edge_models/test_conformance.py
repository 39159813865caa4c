"""Every model that ships keeps what `ModelConformance` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from edge_models import drift, forecast_residual, limits, stuck
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
