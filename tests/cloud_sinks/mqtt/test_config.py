"""What a person may write about a broker, and what they are told when it cannot work."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from cloud_sinks.mqtt.config import MqttConfig, address, check


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("mqtt://localhost", ("localhost", 1883, False)),
        ("mqtts://broker.plant.example", ("broker.plant.example", 8883, True)),
        ("mqtt://10.0.0.5:11883", ("10.0.0.5", 11883, False)),
        ("mqtts://[::1]:8883/", ("::1", 8883, True)),
    ],
)
def test_endpoints(endpoint: str, said: tuple[str, int, bool]) -> None:
    assert address(endpoint) == said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "localhost:1883"}, "write mqtt://host:1883"),
        ({"endpoint": "http://x"}, "not an MQTT endpoint"),
        ({"endpoint": "mqtt://x:port"}, "not a port number"),
        ({"endpoint": "mqtt://user:secret@x"}, "options of their own"),
        ({"endpoint": "mqtt://x/topic"}, "nothing follows the port"),
        ({"endpoint": "mqtt://a b"}, "not a host name"),
        ({"topic": "genba/#"}, "no # or \\+"),
        ({"topic": "genba/{data}/{asset}/{tagname}"}, "unknown place {tagname}"),
        ({"topic": "genba/{data!r}"}, "unknown place"),
        ({"topic": "genba/{data"}, "not a topic"),
        ({"topic": "/genba"}, "no empty level"),
        ({"topic": "$SYS/{data}"}, "begin with \\$"),
        ({"status_topic": "s/{data}"}, "unknown place {data}"),
        ({"timeout": "10ms"}, "at least 1s"),
        ({"protocol": "4"}, "'auto', '5' or '3.1.1'"),
        ({"max_in_flight": 0}, "greater than or equal to 1"),
        ({"tpoic": "x"}, "Extra inputs"),
    ],
)
def test_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MqttConfig(**{"endpoint": "mqtt://x", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "level", "loc"),
    [
        ({"ca": "ca.pem"}, "error", "ca"),
        ({"endpoint": "mqtts://x", "certificate": "c.pem"}, "error", "certificate"),
        ({"endpoint": "mqtts://x", "key": "k.pem"}, "error", "key"),
        ({"password": "p"}, "error", "password"),
        ({"endpoint": "mqtts://x", "insecure": True}, "warning", "insecure"),
        ({"endpoint": "mqtt://10.0.0.1", "username": "u", "password": "p"}, "warning", "endpoint"),
        ({"topic": "genba/{data}"}, "warning", "topic"),
    ],
)
def test_findings(options: dict[str, object], level: str, loc: str) -> None:
    findings = list(check(MqttConfig(**{"endpoint": "mqtt://localhost", **options})))  # type: ignore[arg-type]
    assert (level, (loc,)) in [(finding.level, finding.loc) for finding in findings]


def test_what_is_right_is_not_commented_on_and_secrets_are_not_shown() -> None:
    config = MqttConfig(endpoint="mqtt://127.0.0.1", username="u", password="hunter2", protocol=5)  # type: ignore[arg-type]
    assert list(check(config)) == []
    assert config.protocol == "5"
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.model_dump_json()


def test_reading_a_configuration_imports_neither_arrow_nor_paho() -> None:
    code = (
        "import sys, cloud_sinks.mqtt, cloud_sinks.parquet; cloud_sinks.mqtt.PLUGIN.config, cloud_sinks.parquet.PLUGIN.config;"
        "print(sorted({'pyarrow', 'numpy', 'polars', 'paho'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
