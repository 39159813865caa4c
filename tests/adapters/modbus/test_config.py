"""The YAML model: what it takes, what it refuses with the way out, and what `check` finds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from adapters.modbus import PLUGIN, ModbusConfig
from adapters.modbus.config import check


def configure(tags: dict[str, Any] | None = None, **more: Any) -> ModbusConfig:
    entry = {"kind": "modbus", "endpoint": "tcp://10.0.0.7:502", "tags": tags or {}}
    return ModbusConfig.model_validate(entry | more)


def refusal(**tag: Any) -> tuple[tuple[Any, ...], str]:
    with pytest.raises(ValidationError) as raised:
        configure({"t": {"address": "hr:0", "type": "int16"} | tag})
    (error,) = raised.value.errors()
    return error["loc"], error["msg"]


def test_the_press_of_the_documentation() -> None:
    config = configure(
        {
            "motor_temp": {"address": "hr:100", "type": "float32", "unit": "°C"},
            "vibration": {"address": "hr:102", "type": "float32", "order": "CDAB", "scan": "100ms"},
            "strokes": {"address": "ir:0", "type": "uint32"},
            "total": {"address": "ir:2", "type": "uint64"},
            "scaled_total": {"address": "ir:6", "type": "uint64", "scale": 0.001},
            "clutch": {"address": "di:3", "type": "bool"},
            "mode": {"address": "hr:40", "type": "UINT16", "enum": {0: "idle"}},
            "press_force": {"address": 40151, "type": "int16", "scale": 0.1, "offset": -40},
            "program": {"address": "hr:200", "type": "string[20]"},
            "ready": {"address": "hr:41.3", "type": "bool"},
        }
    )
    assert [tag.wire_address() for tag in config.tags.values()] == [
        "hr:100", "hr:102", "ir:0", "ir:2", "ir:6", "di:3", "hr:40", "hr:150", "hr:200", "hr:41.3",
    ]  # fmt: skip
    assert {name: tag.value_type() for name, tag in config.tags.items() if tag.value_type() != "number"} == {
        "total": "integer",
        "program": "text",
    }
    assert list(check(config)) == []
    assert PLUGIN.check is not None


@pytest.mark.parametrize(
    ("tag", "field", "hint"),
    [
        ({"type": "float"}, "type", "did you mean 'float32'"),
        ({"type": "flot32"}, "type", "did you mean 'float32'"),
        ({"type": "word"}, "type", "did you mean 'uint16'"),
        ({"type": "string"}, "type", "did you mean 'string[16]'"),
        ({"type": "string[300]"}, "type", "1 to 250 bytes"),
        ({"type": "zebra"}, "type", "Types are bool"),
        ({"address": "co:3"}, "type", "write type bool, or a register such as hr:3"),
        ({"address": "hr:3.1"}, "type", "write type bool, or hr:3"),
        ({"address": "hr:65533", "type": "float64"}, "type", "does not fit"),
        ({"address": 100}, "address", "write hr:100"),
        ({"address": 40001.3}, "address", 'quote an address with a bit, or YAML reads it as a number: "40001.3"'),
        ({"order": "ABDC"}, "order", "'ABCD'"),
        ({"encoding": "latin-99"}, "encoding", "write latin-1"),
        ({"adress": "hr:1"}, "adress", "not permitted"),
    ],
)
def test_a_bad_tag_is_refused_where_it_is_with_the_way_out(tag: dict[str, Any], field: str, hint: str) -> None:
    loc, message = refusal(**tag)
    assert loc == ("tags", "t", field)
    assert hint in message


@pytest.mark.parametrize("option", [{"scale": 2}, {"offset": 1}, {"enum": {1: "x"}}])
def test_text_takes_no_number_options(option: dict[str, Any]) -> None:
    _, message = refusal(type="string[4]", **option)
    assert "string[4] is text" in message


@pytest.mark.parametrize(
    ("endpoint", "transport", "host", "port"),
    [
        ("tcp://10.0.0.7:502", "tcp", "10.0.0.7", 502),
        ("tcp://plc-7.local", "tcp", "plc-7.local", 502),
        ("tcp://[fe80::1]:5020", "tcp", "fe80::1", 5020),
        ("tls://10.0.0.7", "tls", "10.0.0.7", 802),
        ("rtu+tcp://10.0.0.9:4001", "rtu+tcp", "10.0.0.9", 4001),
        ("rtu:/dev/serial/by-id/usb-FTDI_1", "rtu", "/dev/serial/by-id/usb-FTDI_1", 0),
    ],
)
def test_endpoints(endpoint: str, transport: str, host: str, port: int) -> None:
    config = configure(endpoint=endpoint)
    assert (config.transport, config.host, config.port) == (transport, host, port)


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("10.0.0.7:502", "did you mean tcp://10.0.0.7:502?"),
        ("plc-7", "did you mean tcp://plc-7?"),
        ("http://10.0.0.7", "write it like tcp://"),
        ("tcp://", "write it like tcp://"),
        ("tcp://10.0.0.7:0", "write it like tcp://"),
        ("tcp://10.0.0.7:99999", "1 to 65535"),
        ("tcp://10.0.0.7:502/1", "write it like tcp://"),
        ("rtu:", "rtu:/dev/ttyUSB0"),
        ("rtu://dev/ttyUSB0", "rtu:/dev/ttyUSB0"),
    ],
)
def test_a_bad_endpoint_is_refused_with_the_way_out(endpoint: str, hint: str) -> None:
    with pytest.raises(ValidationError) as raised:
        configure(endpoint=endpoint)
    assert hint in raised.value.errors()[0]["msg"]


def test_serial_options_belong_to_a_serial_line() -> None:
    serial = {"baud": 9600, "parity": "none", "stop_bits": 2}
    config = configure(endpoint="rtu:/dev/ttyUSB0", serial=serial)
    assert config.serial is not None
    assert config.serial.model_dump(exclude={"turnaround", "data_bits"}) == serial
    with pytest.raises(ValidationError, match="serial belongs to an endpoint like rtu:"):
        configure(serial=serial)


def test_devices_take_what_they_do_not_say_from_the_connection() -> None:
    tags = {"t": {"address": "hr:0", "type": "int16"}}
    config = configure(
        order="CDAB", max_registers=60, devices={"a": {"unit_id": 7, "tags": tags}, "b": {"order": "ABCD", "tags": tags}}
    )
    a, b = config.options_of("a"), config.options_of("b")
    assert (a.unit_id, a.order, a.max_registers, list(a.tags)) == (7, "CDAB", 60, ["t"])
    assert (b.unit_id, b.order, b.max_registers) == (1, "ABCD", 60)
    assert config.options_of("whatever the adapter is called") is config


def findings(tags: dict[str, Any], **more: Any) -> list[tuple[str, tuple[str | int, ...]]]:
    return [(finding.level, finding.loc) for finding in check(configure(tags, **more))]


def test_addresses_that_overlap_with_another_type_are_found() -> None:
    a = {"address": "hr:100", "type": "float32"}
    assert findings({"a": a, "b": a}) == []
    assert findings({"a": a, "b": {"address": "hr:102", "type": "float32"}}) == []
    assert findings({"a": a, "b": {"address": "ir:100", "type": "int16"}}) == []
    assert findings({"a": a, "b": {"address": "hr:101", "type": "float32"}}) == [("warning", ("tags", "b", "address"))]
    assert findings({"a": a, "b": {"address": "hr:100", "type": "int32"}}) == [("warning", ("tags", "b", "address"))]
    assert findings({"a": a, "b": a | {"order": "CDAB"}}) == [("warning", ("tags", "b", "address"))]
    assert findings({"a": {"address": "hr:0", "type": "string[20]"}, "b": a, "c": {"address": "hr:9", "type": "int16"}}) == [
        ("warning", ("tags", "c", "address"))
    ]


def test_bits_of_a_word_overlap_nothing() -> None:
    word = {"address": "hr:5", "type": "uint16"}
    bits = {f"b{n}": {"address": f"hr:5.{n}", "type": "bool"} for n in range(16)}
    assert findings({"word": word, **bits}) == []
    assert findings({"long": {"address": "hr:4", "type": "uint32"}, "b": {"address": "hr:5.1", "type": "bool"}}) == [
        ("warning", ("tags", "b", "address"))
    ]


def test_the_same_address_of_another_unit_is_another_place() -> None:
    one, other = {"t": {"address": "hr:0", "type": "int16"}}, {"t": {"address": "hr:0", "type": "float32"}}
    apart = {"devices": {"x": {"unit_id": 1, "tags": one}, "y": {"unit_id": 2, "tags": other}}}
    same = {"devices": {"x": {"unit_id": 1, "tags": one}, "y": {"unit_id": 1, "tags": other}}}
    assert findings({}, **apart) == []
    assert findings({}, **same) == [("warning", ("devices", "y", "tags", "t", "address"))]


def test_a_value_wider_than_a_request_is_an_error() -> None:
    text = {"t": {"address": "hr:0", "type": "string[64]"}}
    assert findings(text, max_registers=32) == []
    assert findings(text, max_registers=31) == [("error", ("tags", "t", "type"))]


@pytest.mark.parametrize("endpoint", ["tls://10.0.0.7", "rtu:/dev/ttyUSB0", "rtu+tcp://10.0.0.7:4001"])
def test_every_transport_is_fine(endpoint: str) -> None:
    assert findings({}, endpoint=endpoint) == []


def test_a_certificate_that_is_not_looked_at_is_warned_of() -> None:
    assert findings({}, endpoint="tls://10.0.0.7", insecure=True) == [("warning", ("insecure",))]


def test_certificates_belong_to_tls() -> None:
    with pytest.raises(ValidationError, match="ca belongs to an endpoint like tls:"):
        configure(ca="ca.pem")
    with pytest.raises(ValidationError, match="key belongs to a certificate"):
        configure(endpoint="tls://10.0.0.7", key="me.key")
