from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.base import devices_of
from adapters.opcua import PLUGIN
from adapters.opcua.config import OpcuaConfig
from adapters.opcua.plan import compile_plan
from adapters.opcua.sampling import Sampling, ServerDeadband
from schemas.plugin import Finding
from tests.adapters.opcua.rig import bind, configure


def findings(tags: dict[str, Any], **more: Any) -> list[Finding]:
    assert PLUGIN.check is not None
    return list(PLUGIN.check(configure(tags, **more)))


def test_the_example_of_the_plant_file() -> None:
    config = OpcuaConfig.model_validate(
        {
            "kind": "opcua",
            "endpoint": "opc.tcp://192.168.1.5:49320",
            "security": {"policy": "Basic256Sha256", "mode": "sign_and_encrypt", "trust": "pki"},
            "auth": {"username": "genba", "password": "s3cret"},
            "scan": "200ms",
            "tags": {"temp": {"address": "ns=2;s=Line.Temp", "unit": "°C"}, "total": {"address": "ns=2;i=4", "type": "uint64"}},
        }
    )
    assert config.secured
    assert "s3cret" not in repr(config)
    assert [config.tags[name].value_type() for name in ("temp", "total")] == ["number", "integer"]
    assert devices_of("kepserver", config) == {"kepserver": config}


def test_devices_behind_one_server() -> None:
    config = configure({}, devices={"press": {"asset": "line/press", "tags": {"t": {"address": "i=1"}}}})
    assert [tag.wire_address() for device in devices_of("x", config).values() for tag in device.tags.values()] == ["i=1"]


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ({}, "number"),
        ({"type": "bool"}, "number"),
        ({"type": "float32"}, "number"),
        ({"type": "int64"}, "integer"),
        ({"type": "uint64", "scale": 0.1}, "number"),
        ({"type": "int64", "offset": 1}, "number"),
        ({"type": "string"}, "text"),
        ({"type": "datetime"}, "text"),
    ],
)
def test_where_a_value_goes(tag: dict[str, Any], wanted: str) -> None:
    assert configure({"t": {"address": "i=1"} | tag}).tags["t"].value_type() == wanted


@pytest.mark.parametrize("policy", [None, "None"])
def test_no_security_may_be_written_out(policy: str | None) -> None:
    assert not configure({}, security={"policy": policy}).secured


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": "tcp://x:4840"},
        {"endpoint": "opc.tcp://x"},
        {"endpoint": "opc.tcp://user:secret@x:4840"},
        {"endpoint": "opc.tcp://x:99999"},
        {"security": {"policy": "Basic999"}},
        {"security": {"policy": "Basic256Sha256", "mode": "encrypt"}},
        {"auth": {"username": "x"}},
        {"auth": {}},
        {"auth": {"certificate": "user.der"}},
        {"auth": {"username": "x", "password": "y", "certificate": "user.der", "key": "user.pem"}},
        {"auth": {"username": "x", "password": "y", "key": "user.pem"}},
        {"queue_size": 0},
        {"tags": {"t": {"address": "Temp"}}},
        {"tags": {"t": {"address": "i=1", "type": "float16"}}},
    ],
)
def test_what_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configure(**({"tags": {}} | more))


def test_an_open_connection_over_a_network_is_named() -> None:
    assert [f.level for f in findings({}, endpoint="opc.tcp://10.0.0.5:4840")] == ["warning"]
    user = {"username": "a", "password": "b"}
    quiet = findings({}, endpoint="opc.tcp://10.0.0.5:4840", auth=user, security={"policy": "None"})
    assert [(f.level, f.loc) for f in quiet] == [("warning", ("endpoint",))], "the password is not sent in the clear"
    loud = findings({}, endpoint="opc.tcp://10.0.0.5:4840", auth=user | {"allow_cleartext": True})
    assert [(f.level, f.loc) for f in loud] == [("warning", ("endpoint",)), ("warning", ("auth", "allow_cleartext"))]
    assert findings({}, endpoint="opc.tcp://10.0.0.5:4840", security={"policy": "Basic256Sha256"}) == []
    assert findings({}) == []


@pytest.mark.parametrize("policy", ["Basic256", "Basic128Rsa15"])
def test_a_withdrawn_policy_is_an_error_unless_asked_for(policy: str) -> None:
    (finding,) = findings({}, security={"policy": policy})
    assert (finding.level, finding.loc) == ("error", ("security", "policy"))
    assert "Basic256Sha256" in finding.hint
    assert "allow_deprecated: true" in finding.hint
    (finding,) = findings({}, security={"policy": policy, "allow_deprecated": True})
    assert (finding.level, finding.loc) == ("warning", ("security", "policy"))


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"])
def test_the_current_policies_need_nothing_more(policy: str) -> None:
    assert findings({}, security={"policy": policy}) == []


def test_one_node_of_two_types_is_named() -> None:
    tags = {"a": {"address": "i=1", "type": "int16"}, "b": {"address": "ns=0;i=1", "type": "float32"}, "c": {"address": "i=1"}}
    (finding,) = findings(tags)
    assert (finding.level, finding.loc) == ("warning", ("tags", "b", "type"))
    assert "a" in finding.message


def test_a_scan_below_a_millisecond_is_an_error() -> None:
    (finding,) = findings({"a": {"address": "i=1", "scan": "100us"}})
    assert (finding.level, finding.loc) == ("error", ("tags", "a", "scan"))
    (device,) = findings({}, devices={"d": {"scan": "10us"}})
    assert device.loc == ("devices", "d", "scan")


def test_importing_the_folder_imports_no_library() -> None:
    heavy = {"asyncua", "pyarrow", "numpy", "cryptography"}
    code = f"import sys, adapters.opcua; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_nearest_option_of_sampling_counts() -> None:
    config = configure(
        {},
        queue_size=50,
        trigger="timestamp",
        devices={
            "a": {"asset": "a", "server_deadband": 0.5, "discard": "newest", "tags": {
                "plain": {"address": "i=1"},
                "own": {"address": "i=2", "server_deadband": "2 %", "queue_size": 1, "read": "poll", "trigger": "status"},
                "none": {"address": "i=3", "server_deadband": 0},
            }},
        },
    )  # fmt: skip
    plan = compile_plan(bind(config), config)
    assert plan.sampling == (
        Sampling(50, "newest", ServerDeadband(0.5), "timestamp", "subscribe"),
        Sampling(1, "newest", ServerDeadband(2.0, percent=True), "status", "poll"),
        Sampling(50, "newest", None, "timestamp", "subscribe"),
    )
    assert ([c.positions for c in plan.classes], [c.positions for c in plan.polls]) == ([(0, 2)], [(1,)])
    assert compile_plan(bind(configure({"t": "i=1"}))).sampling == (Sampling(10, "oldest", None, "value", "subscribe"),)


@pytest.mark.parametrize(
    ("text", "spelled"), [("0.5", "0.5"), (2, "2"), ("2%", "2 %"), (" 1.5 % ", "1.5 %"), ("1e-3", "0.001"), (0, "0")]
)
def test_deadbands_of_the_server(text: object, spelled: str) -> None:
    deadband = configure({"t": {"address": "i=1", "server_deadband": text}}).tags["t"].server_deadband
    assert str(deadband) == spelled
    assert ServerDeadband.parse(str(deadband)) == deadband


def test_an_array_is_taken_apart_before_anything_is_connected() -> None:
    tags = {
        "temp": {"address": "ns=2;s=Temps", "elements": 3, "label": "Zone", "type": "float32", "unit": "°C"},
        "axis": {"address": "ns=2;s=Axes", "elements": "1..2", "field": "limits[0].high", "name": "a"},
        "one": {"address": "ns=2;s=Temps", "index": 7},
    }
    found = configure(tags).tags
    assert [(name, tag.name, tag.label, tag.wire_address()) for name, tag in found.items()] == [
        ("temp_0", None, "Zone 0", "ns=2;s=Temps[0]"),
        ("temp_1", None, "Zone 1", "ns=2;s=Temps[1]"),
        ("temp_2", None, "Zone 2", "ns=2;s=Temps[2]"),
        ("axis_1", "a_1", "", "ns=2;s=Axes[1]#limits[0].high"),
        ("axis_2", "a_2", "", "ns=2;s=Axes[2]#limits[0].high"),
        ("one", None, "", "ns=2;s=Temps[7]"),
    ]
    assert found["axis_2"].selection() == (2, "limits", 0, "high")
    assert found["temp_1"].unit == "°C"
    again = OpcuaConfig.model_validate(configure(tags).model_dump(exclude_none=True))
    assert again.tags == found


@pytest.mark.parametrize(
    "tag",
    [
        {"index": -1},
        {"index": 2, "elements": 3},
        {"elements": 0},
        {"elements": "5..4"},
        {"elements": 10_001},
        {"elements": "all"},
        {"elements": True},
        {"field": ""},
        {"field": "a..b"},
        {"field": "[0]"},
        {"field": "a[x]"},
        {"field": ".".join("abcdefghijklmnopqrst")},
        {"server_deadband": "2 mm"},
        {"server_deadband": -1},
        {"server_deadband": "101 %"},
        {"server_deadband": True},
        {"discard": "all"},
        {"trigger": "any"},
        {"read": "history"},
        {"queue_size": 10_001},
        {"type": "array of float16"},
    ],
)
def test_options_of_a_tag_that_are_refused(tag: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configure({"t": {"address": "i=1"} | tag})


def test_elements_that_would_give_a_name_twice() -> None:
    with pytest.raises(ValidationError, match="makes a tag t_1"):
        configure({"t": {"address": "i=1", "elements": 2}, "t_1": {"address": "i=2"}})


@pytest.mark.parametrize(
    ("kind", "wanted"), [("array of float32", "samples"), ("array of bool", "samples"), ("array of int64", "text"), ("array of string", "text")]
)  # fmt: skip
def test_where_an_array_goes(kind: str, wanted: str) -> None:
    assert configure({"t": {"address": "i=1", "type": kind}}).tags["t"].value_type() == wanted


def test_options_of_a_subscription_at_a_polled_tag_are_named() -> None:
    tags = {
        "a": {"address": "i=1", "server_deadband": 1},
        "b": {"address": "i=2"},
        "c": {"address": "i=3", "read": "subscribe", "trigger": "status"},
    }
    (finding,) = findings(tags, read="poll", queue_size=5)
    assert (finding.level, finding.loc) == ("warning", ("tags", "a", "server_deadband"))
