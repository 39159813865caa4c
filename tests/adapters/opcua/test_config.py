from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.base import devices_of
from adapters.opcua import PLUGIN
from adapters.opcua.config import OpcuaConfig
from schemas.plugin import Finding
from tests.adapters.opcua.rig import configure


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
