"""Adapters in a process of their own keep what every adapter keeps: the same suites, the adapter behind a pipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapters.modbus import PLUGIN as MODBUS
from adapters.s7 import PLUGIN as S7
from gateway.isolation.adapter import IsolatedAdapter
from schemas.errors import NotConnected
from schemas.plugin import Plugin
from tests.adapters.modbus.test_conformance import TestModbus as _Modbus
from tests.adapters.s7.test_adapter import TestS7 as _S7
from tests.conformance.adapter import TIMEOUT_S, _free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class _Isolated:
    """What is different: the first connection includes the start of an interpreter, which a busy machine takes its time for."""

    options: ClassVar = {"isolation": "process"}

    async def test_an_absent_device_is_not_connected_in_time(self: Any, tmp_path: Path) -> None:
        rig = self.rig(self.configure(self.endpoint(_free_port())), tmp_path)
        with pytest.raises(NotConnected) as raised:
            await rig.adapter.connect()
        assert str(raised.value)
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await rig.adapter.connect()
        assert time.monotonic() - began < TIMEOUT_S + 1
        await rig.adapter.aclose()


class TestIsolatedModbus(_Isolated, _Modbus):
    plugin = Plugin(MODBUS.config, IsolatedAdapter, simulate=MODBUS.simulate)


class TestIsolatedS7(_Isolated, _S7):
    plugin = Plugin(S7.config, IsolatedAdapter, simulate=S7.simulate)
