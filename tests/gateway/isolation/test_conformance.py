"""Adapters in a process of their own keep what every adapter keeps: the same suites, the adapter behind a pipe."""

from __future__ import annotations

from typing import ClassVar

import pytest

from adapters.modbus import PLUGIN as MODBUS
from adapters.s7 import PLUGIN as S7
from gateway.isolation.adapter import IsolatedAdapter
from schemas.plugin import Plugin
from tests.adapters.modbus.test_conformance import TestModbus as _Modbus
from tests.adapters.s7.test_adapter import TestS7 as _S7

pytestmark = pytest.mark.timeout(120)


class TestIsolatedModbus(_Modbus):
    plugin = Plugin(MODBUS.config, IsolatedAdapter, simulate=MODBUS.simulate)
    options: ClassVar = {"isolation": "process"}


class TestIsolatedS7(_S7):
    plugin = Plugin(S7.config, IsolatedAdapter, simulate=S7.simulate)
    options: ClassVar = {"isolation": "process"}
