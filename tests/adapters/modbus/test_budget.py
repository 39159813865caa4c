"""The share of a serial line that polls take."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.modbus.budget import check_line
from adapters.modbus.config import ModbusConfig

TAG = {"address": "hr:0", "type": "int16"}


def messages(tags: dict[str, Any], **more: Any) -> list[str]:
    options = {"kind": "modbus", "endpoint": "rtu:/dev/ttyUSB0", "tags": tags} | more
    return [finding.message for finding in check_line(ModbusConfig.model_validate(options))]


def test_classes_that_fit_together_are_fine() -> None:
    fast, slow = TAG | {"scan": "50ms"}, {"address": "hr:100", "type": "int16", "scan": "200ms"}
    assert messages({"a": fast, "b": slow}) == []


def test_a_class_that_has_no_time_left_beside_a_faster_one_is_named() -> None:
    fast, slow = TAG | {"scan": "25ms"}, {"address": "hr:100", "type": "int16", "scan": "30ms"}
    (message,) = messages({"a": fast, "b": slow})
    assert message.startswith("the scan class 30ms cannot be kept: one poll takes 0.023 s on the line, and faster ones need 9")


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.7", "rtu+tcp://10.0.0.7:4001"])
def test_a_line_of_unknown_speed_is_not_judged(endpoint: str) -> None:
    assert messages({"a": TAG | {"scan": "1ms"}}, endpoint=endpoint) == []


def test_the_written_line_behind_a_converter_is_judged() -> None:
    assert len(messages({"a": TAG | {"scan": "20ms"}}, endpoint="rtu+tcp://10.0.0.7:4001", serial={"baud": 9600})) == 1


def test_tags_without_a_scan_are_polled_each_second() -> None:
    far = {f"t{n}": {"address": f"hr:{100 * n}", "type": "int16"} for n in range(60)}
    assert messages(dict(list(far.items())[:30])) == []
    (message,) = messages(far)
    assert message.startswith("the scan class 1s cannot be kept: one poll takes 1.4 s")
