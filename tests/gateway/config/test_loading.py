"""What a configuration gives to the rest of the gateway, and what is checked over the whole of it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from gateway.catalogue import Catalogue
from gateway.config import ConfigurationInvalid, examine, load
from schemas.data import KINDS
from schemas.errors import ConfigError
from schemas.tags import Limits
from tests.gateway.config.rig import HEAD, LAKE, Examine, PlcTag

PRESS = """\
adapters:
  press-07:
    kind: plc
    endpoint: tcp://10.0.0.7:502
    asset: stamping/line-2/press-07
    scan: 500ms
    tags:
      motor_temp: {address: "hr:100", type: float32, unit: °C, label: 主モータ, limits: {high: 90, high_high: 110}, action: Stop it}
      strokes: {address: 5, type: int64, scan: 10s, description: Since the last overhaul}
      mode: {address: "hr:40", type: int16, enum: {0: idle, 1: run}, name: state, severity: info}
      force: {address: 1, type: float32, unit: kN, deadband: 0.5, report_at_least: 60s, asset: stamping/line-2/die}
  plain: {kind: plc, endpoint: tcp://b, tags: {x: {address: 1, type: string}}}
"""


def test_tags_are_resolved_in_the_order_of_the_file(examined: Examine) -> None:
    found = examined(HEAD + PRESS + LAKE).whole
    temp, strokes, state, force, x = found.tags
    assert {tag.id for tag in found.tags} == {-1}
    assert temp.path == "acme/osaka/stamping/line-2/press-07/motor_temp"
    assert (temp.asset, temp.name, temp.adapter, temp.device) == (
        "acme/osaka/stamping/line-2/press-07",
        "motor_temp",
        "press-07",
        "press-07",
    )
    assert (temp.address, temp.unit, temp.label, temp.period_us) == ("hr:100", "Cel", "主モータ", 500_000)
    assert temp.limits == Limits(high=90, high_high=110)
    assert temp.action == "Stop it"
    assert (strokes.value_type, strokes.unit, strokes.period_us, strokes.description) == (
        "integer",
        "1",
        10_000_000,
        "Since the last overhaul",
    )
    assert (state.path.rsplit("/", 1)[-1], state.enum, state.severity) == ("state", {0: "idle", 1: "run"}, "info")
    assert (force.asset, force.deadband, force.report_at_least_us) == ("acme/osaka/stamping/line-2/die", 0.5, 60_000_000)
    assert (x.asset, x.value_type, x.period_us) == ("acme/osaka/plain", "text", 1_000_000)


def test_tags_are_bound_to_their_options_by_adapter(examined: Examine) -> None:
    found = examined(HEAD + PRESS + LAKE).whole
    assert list(found.bound) == ["press-07", "plain"]
    assert [bound.tag for bounds in found.bound.values() for bound in bounds] == list(found.tags)
    assert isinstance(found.bound["plain"][0].config, PlcTag)
    assert found.bound["plain"][0].device == "plain"


def test_a_configuration_is_a_value(examined: Examine, catalogue: Catalogue) -> None:
    first = examined(HEAD + PRESS + LAKE).whole
    assert first == load(Path("plant.yaml"), env={}, catalogue=catalogue)
    assert first != examined(HEAD + PRESS.replace("high: 90", "high: 91") + LAKE).whole
    with pytest.raises(AttributeError):
        first.path = Path("other")  # type: ignore[misc]


def test_directory_is_that_of_the_file(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "site").mkdir()
    file = tmp_path / "site" / "plant.yaml"
    file.write_text(HEAD + PRESS + LAKE)
    assert load(file, env={}, catalogue=catalogue).directory == tmp_path / "site"


def test_load_raises_every_error_at_once(examined: Examine, catalogue: Catalogue) -> None:
    examined(HEAD + PRESS.replace("type: float32", "type: floot") + "sinks: {lake: {kind: parkett}}\n")
    with pytest.raises(ConfigurationInvalid) as caught:
        load(Path("plant.yaml"), env={}, catalogue=catalogue)
    assert isinstance(caught.value, ConfigError)
    assert [d.code for d in caught.value.diagnostics] == ["E014", "E014", "E013"]
    assert "plant.yaml:11:45 E014" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path, catalogue: Catalogue) -> None:
    configuration, diagnostics = examine(tmp_path / "plant.yaml", env={}, catalogue=catalogue)
    assert configuration is None
    assert [(d.code, d.where, d.message) for d in diagnostics] == [
        ("E001", str(tmp_path / "plant.yaml"), "there is no such file")
    ]


def test_defaults_of_what_is_not_written(examined: Examine) -> None:
    plant = examined(HEAD + PRESS + LAKE + "models:\nroutes:\nspool:\n").whole.plant
    assert (plant.time_zone, plant.routes, plant.models, plant.status.listen) == ("UTC", None, {}, "127.0.0.1:8470")
    assert (plant.spool.directory, int(plant.spool.max_size), plant.spool.commit_every.s) == (Path("spool"), 20 * 10**9, 0.25)
    assert set(plant.spool.when_full) == set(KINDS)
    assert plant.spool.when_full["alert"] == "block"


def test_what_gives_way_is_told_for_some_kinds_and_kept_for_the_others(examined: Examine) -> None:
    plant = examined(HEAD + PRESS + LAKE + "spool: {when_full: {telemetry: downsample}}\nstatus: {listen: null}\n").whole.plant
    assert (plant.spool.when_full["telemetry"], plant.spool.when_full["event"]) == ("downsample", "drop_oldest")
    assert plant.status.listen is None


@pytest.mark.parametrize(
    ("spool", "code"),
    [
        ("{max_size: 100 MB}", "E018"),
        ("{segment_size: 1 KiB}", "E018"),
        ("{fsync: never}", "E014"),
        ("{when_full: {alarm: block}}", "E014"),
    ],
)
def test_a_spool_that_cannot_work(examined: Examine, spool: str, code: str) -> None:
    assert examined(HEAD + PRESS + LAKE + f"spool: {spool}\n").codes == [code]


def test_keys_that_begin_with_x_are_for_anchors(examined: Examine) -> None:
    text = HEAD + "x-limits: &hot {high: 80}\n" + PRESS.replace("limits: {high: 90, high_high: 110}", "limits: *hot") + LAKE
    assert examined(text).whole.tags[0].limits == Limits(high=80)


def test_plain_numbers_where_text_is_wanted_are_taken_as_written(examined: Examine) -> None:
    text = HEAD + PRESS.replace("unit: kN", "unit: 1").replace("label: 主モータ", "label: 1.50") + LAKE
    found = examined(text)
    assert found.codes == []
    assert (found.whole.tags[3].unit, found.whole.tags[0].label) == ("1", "1.50")


def test_a_plant_without_sinks_is_read_all_the_same(examined: Examine) -> None:
    found = examined(HEAD + PRESS)
    assert found.codes == ["W042"]
    assert len(found.whole.tags) == 5


def test_nothing_is_sent_nowhere_when_a_rule_says_so(examined: Examine) -> None:
    alerts = "sinks: {alerts: {kind: mqtt, endpoint: x}}\n"
    assert examined(HEAD + PRESS + alerts).codes == ["E041"]
    assert examined(HEAD + PRESS + alerts + "routes: [{data: telemetry, to: []}]\n").codes == []


def test_a_model_of_limits_finds_its_tags_itself(examined: Examine) -> None:
    assert examined(HEAD + PRESS + LAKE + "models: {limits: {kind: limits}}\n").codes == []


def test_one_wrong_entry_does_not_hide_what_is_wrong_elsewhere(examined: Examine) -> None:
    text = HEAD + PRESS.replace("plain: {kind: plc", "plain: {kind: plcc") + LAKE.replace("./lake", "./lake, rol: 1")
    text += "models: {m: {kind: watch, tags: ['plain/x'], memory: 1}}\nroutes: [{data: telemetry, to: [laek]}]\n"
    assert sorted(examined(text).codes) == ["E012", "E013", "E015", "E040"]  # and no word about the pattern: `plain` was not read


def test_the_collector_is_left_as_it_was(examined: Examine) -> None:
    assert gc.isenabled()
    examined("a: [")
    assert gc.isenabled()
    gc.disable()
    try:
        examined(HEAD)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_ten_thousand_tags_of_mixed_files(examined: Examine) -> None:
    rows = "name,address,type,unit,high\n" + "".join(f"t{i},hr:{i},float32,°C,90\n" for i in range(5_000))
    tags = "".join(f"t{i}: {{address: {i}, type: float32, unit: °C, limits: {{high: 90}}}}\n" for i in range(5_000))
    text = (
        HEAD
        + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: a.csv}}\n  b: {kind: plc, endpoint: tcp://b, tags: {file: b.yaml}}\n"
    )
    found = examined(text + LAKE + "models: {m: {kind: watch, tags: ['**/t*9']}}\n", {"a.csv": rows, "b.yaml": tags})
    assert len(found.whole.tags) == 10_000
    assert len({tag.path for tag in found.whole.tags}) == 10_000
