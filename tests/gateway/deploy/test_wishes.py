"""What may be wished for in the shadow: judged in the words of `genba check`, and never more than asked for."""

from __future__ import annotations

import json

import pytest

from gateway import config
from gateway.deploy.wishes import MAX_BYTES, judge

PLANT = """
enterprise: acme
site: osaka
gateway: gw-1
templates:
  drive: {kind: modbus, scan: 2s, tags: {speed: {address: "hr:0", type: int16}, load: {address: "hr:1", type: int16, scan: 10s}}}
  bus:
    kind: modbus
    endpoint: "tcp://127.0.0.1:2"
    devices: {a: {tags: {x: {address: "hr:0", type: int16}}}, b: {tags: {x: {address: "hr:1", type: int16}}}}
adapters:
  press: {kind: modbus, endpoint: "tcp://127.0.0.1:1", tags: {file: press.csv}}
  drives:
    kind: modbus
    endpoint: "tcp://127.0.0.1:1"
    scan: 1s
    devices:
      fan-1: {unit_id: 1, template: drive}
      fan-2: {unit_id: 2, tags: {speed: {address: "hr:0", type: int16}}}
  line: {template: bus}
sinks:
  lake: {kind: parquet, location: ./lake}
  core: {kind: iot_core, endpoint: a.example, thing: gw-1, certificate: gw.pem, key: gw.key, shadow: true}
"""


@pytest.fixture
def plant(tmp_path):
    (tmp_path / "press.csv").write_text("name,address,type,scan\ntemp,hr:0,float32,\nslow,hr:2,float32,1m\n")
    (tmp_path / "plant.yaml").write_text(PLANT)
    return config.load(tmp_path / "plant.yaml")


def periods(configuration):
    return {"/".join(tag.path.split("/")[2:]): tag.period_us / 1e6 for tag in configuration.tags}


AS_WRITTEN = {
    "press/temp": 1.0, "press/slow": 60.0, "fan-1/speed": 2.0, "fan-1/load": 10.0, "fan-2/speed": 1.0, "a/x": 1.0, "b/x": 1.0,
}  # fmt: skip


def wished(plant, wishes):
    return judge(plant, json.dumps(wishes))


def test_without_a_wish_all_is_as_the_file_says(plant):
    verdict = wished(plant, {})
    assert periods(verdict.configuration) == periods(plant) == AS_WRITTEN
    assert (verdict.errors, verdict.warnings) == ((), [])


@pytest.mark.parametrize(
    ("wish", "changed"),
    [
        ({"press": {"scan": "5s"}}, {"press/temp": 5.0}),
        ({"press": {"tags": {"slow": {"scan": "2m"}}}}, {"press/slow": 120.0}),
        ({"drives": {"scan": "500ms"}}, {"fan-2/speed": 0.5}),
        ({"drives": {"devices": {"fan-1": {"scan": "4s"}}}}, {"fan-1/speed": 4.0}),
        ({"drives": {"devices": {"fan-1": {"tags": {"load": {"scan": "1s"}}}}}}, {"fan-1/load": 1.0}),
        ({"line": {"scan": "3s"}}, {"a/x": 3.0, "b/x": 3.0}),
    ],
    ids=["connection", "tag of a file", "default of the devices", "device", "tag of a template", "default below a template"],
)
def test_a_scan_class_is_wished_for_where_the_file_would_say_it(plant, wish, changed):
    verdict = wished(plant, {"adapters": wish})
    assert verdict.errors == ()
    assert periods(verdict.configuration) == AS_WRITTEN | changed
    assert [tag.path for tag in verdict.configuration.tags] == [tag.path for tag in plant.tags]


@pytest.mark.parametrize(
    ("wish", "code", "key", "says"),
    [
        ({"welcome": "aws-iot"}, "E012", "welcome", "unknown key"),
        ({"log_level": "loud"}, "E014", "log_level", "must be one of debug, info, warning, error"),
        ({"sinks": {"lake": {"paused": "yes please"}}}, "E011", "sinks.lake.paused", "must be true or false"),
        ({"sinks": {"lakes": {"paused": True}}}, "E012", "sinks.lakes", "unknown key"),
        ({"adapters": {"pres": {"scan": "1s"}}}, "E012", "adapters.pres", "unknown key"),
        ({"adapters": {"press": {"scan": "5"}}}, "E016", "adapters.press.scan", "a duration needs its unit; write it like 500ms"),
        ({"adapters": {"press": {"scan": 0}}}, "E015", "adapters.press.scan", "must be longer than 0s"),
        ({"adapters": {"press": {"endpoint": "tcp://10.0.0.66:502"}}}, "E012", "adapters.press.endpoint", "unknown key"),
        ({"adapters": {"press": {"tags": {"tmp": {"scan": "1s"}}}}}, "E012", "adapters.press.tags.tmp", "unknown key"),
        ({"adapters": {"drives": {"devices": {"fan-3": {"scan": "1s"}}}}}, "E012", "adapters.drives.devices.fan-3", "unknown key"),
        ({"adapters": {"drives": {"tags": {"x": {"scan": "1s"}}}}}, "E022", "adapters.drives.tags", "tags of no device"),
        ({"adapters": {"line": {"devices": {"a": {"scan": "1s"}}}}}, "E018", "", "devices of a template"),
        ({"adapters": {"press": {"scan": "${HOME}"}}}, "E016", "adapters.press.scan", "not a duration"),
        ({"adapters": {"press": None}}, "E011", "adapters.press", "has no value"),
        ({"sinks": []}, "E011", "sinks", "must be a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_in_the_words_of_check(plant, wish, code, key, says):
    verdict = wished(plant, wish)
    assert verdict.wishes is None
    assert [(one.code, one.key) for one in verdict.errors] == [(code, key)]
    assert says in verdict.errors[0].message
    assert verdict.configuration is plant


def test_the_sentence_is_that_of_the_file(plant, tmp_path):
    """The same wrong value in the file and in the shadow: the same code, key, sentence and way out."""
    (tmp_path / "plant.yaml").write_text(PLANT.replace("scan: 1s", "scan: 1 sec"))
    _, diagnostics = config.examine(tmp_path / "plant.yaml")
    (written, *_) = [one for one in diagnostics if one.level == "error"]
    (wish, *_) = wished(plant, {"adapters": {"drives": {"scan": "1 sec"}}}).errors
    assert (written.code, written.message, written.hint) == (wish.code, wish.message, wish.hint)
    assert written.key == wish.key == "adapters.drives.scan"


def test_the_file_counts_as_it_was_read(plant, tmp_path):
    """Somebody edits the file of a running gateway: a wish must not bring half of that into force."""
    (tmp_path / "plant.yaml").write_text("nonsense: [")
    (tmp_path / "press.csv").unlink()
    verdict = wished(plant, {"adapters": {"press": {"scan": "5s"}}})
    assert periods(verdict.configuration) == AS_WRITTEN | {"press/temp": 5.0}


@pytest.mark.parametrize(
    "text", ['{"a": "\x85"}', '{"' + "k" * 2000 + '": 1}', '{"log_level": "\\ud800"}', "[1]", '{"<<": {"log_level": "info"}}']
)
def test_what_is_odd_is_refused_and_does_no_harm(plant, text):
    assert judge(plant, text).wishes is None


def test_too_many_wishes(plant):
    verdict = wished(plant, {"sinks": {f"s{number}": {"paused": True} for number in range(200)}})
    assert f"{MAX_BYTES} are taken" in verdict.errors[0].message


SERIAL = """
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  bus: {kind: modbus, endpoint: "rtu:/dev/ttyUSB0", tags: {a: {address: "hr:0", type: int16}, b: {address: "hr:500", type: int16}}}
sinks:
  lake: {kind: parquet, location: ./lake}
"""


def test_what_the_line_cannot_do_is_no_wish(tmp_path):
    """The plug-in's own check is asked too, as `genba check` asks it: 45 ms on the wire do not fit into 20 ms."""
    (tmp_path / "plant.yaml").write_text(SERIAL)
    plant = config.load(tmp_path / "plant.yaml")
    assert wished(plant, {"adapters": {"bus": {"scan": "200ms"}}}).errors == ()
    (error,) = wished(plant, {"adapters": {"bus": {"scan": "20ms"}}}).errors
    assert (error.code, error.message[:38]) == ("E060", "the scan class 20ms cannot be kept: on")
