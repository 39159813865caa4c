"""Templates, tag files, and options of a connection as defaults: who wins, and where the error stands."""

from __future__ import annotations

import pytest

from adapters.base import devices_of
from tests.gateway.config.rig import HEAD, LAKE, Examine, Examined, PlcDevice

TEMPLATE = """\
templates:
  drive:
    kind: plc
    order: CDAB
    scan: 5s
    tags:
      speed: {address: 1, type: int16, unit: rpm, limits: {high: 90, high_high: 95}}
      torque: {address: 2, type: int16, unit: "%"}
"""
LINE = """\
adapters:
  line:
    kind: plc
    endpoint: tcp://a
    unit_id: 9
    scan: 2s
    devices:
"""


def devices(found: Examined) -> dict[str, PlcDevice]:
    return dict(devices_of("line", found.whole.plant.adapters["line"]))  # type: ignore[arg-type]


def test_a_device_takes_its_own_option_then_its_template_s_then_the_connection_s(examined: Examine) -> None:
    text = HEAD + TEMPLATE + LINE + "      a: {template: drive}\n      b: {template: drive, scan: 1s, unit_id: 3}\n" + LAKE
    found = devices(examined(text))
    assert [(d.order, str(d.scan), d.unit_id) for d in found.values()] == [("CDAB", "5s", 9), ("CDAB", "1s", 3)]


def test_tags_of_a_template_are_merged_by_name_and_option(examined: Examine) -> None:
    device = "      a: {template: drive, tags: {speed: {limits: {high: 80}}, extra: {address: 3, type: bool}}}\n"
    tags = devices(examined(HEAD + TEMPLATE + LINE + device + LAKE))["a"].tags
    assert list(tags) == ["speed", "torque", "extra"]
    assert (tags["speed"].address, tags["speed"].unit) == (1, "rpm")
    assert tags["speed"].limits is not None
    assert (tags["speed"].limits.high, tags["speed"].limits.high_high) == (80, None)  # an option is replaced whole


def test_two_devices_of_one_template_do_not_share_anything(examined: Examine) -> None:
    text = HEAD + TEMPLATE + LINE + "      a: {template: drive, tags: {speed: {unit: Hz}}}\n      b: {template: drive}\n" + LAKE
    found = examined(text)
    assert [tag.unit for tag in found.whole.tags if tag.name == "speed"] == ["Hz", "{rev}/min"]


def test_a_template_of_the_connection_is_for_all_its_devices(examined: Examine) -> None:
    text = HEAD + TEMPLATE + LINE.replace("    scan: 2s", "    template: drive") + "      a: {}\n      b: {scan: 1s}\n" + LAKE
    found = devices(examined(text.replace("a: {}", "a: {unit_id: 1}")))
    assert [(d.order, str(d.scan), len(d.tags)) for d in found.values()] == [("CDAB", "5s", 2), ("CDAB", "1s", 2)]


def test_a_connection_takes_its_kind_from_its_template(examined: Examine) -> None:
    found = examined(HEAD + TEMPLATE + "adapters:\n  a: {template: drive, endpoint: tcp://a, order: ABCD}\n" + LAKE)
    assert found.whole.plant.adapters["a"].kind == "plc"
    assert found.whole.plant.adapters["a"].order == "ABCD"  # type: ignore[attr-defined]
    assert [tag.path for tag in found.whole.tags] == ["acme/osaka/a/speed", "acme/osaka/a/torque"]


def test_options_of_the_connection_alone_do_not_reach_its_devices(examined: Examine) -> None:
    found = examined(HEAD + LINE + "      a: {tags: {x: {address: 1, type: bool}}, timeout: 1s}\n" + LAKE)
    assert found.codes == ["E012"]  # `timeout` is the connection's


def test_an_error_in_a_template_stands_at_the_template_once(examined: Examine) -> None:
    text = HEAD + TEMPLATE.replace("type: int16, unit: rpm", "type: int17, unit: rpm") + LINE
    found = examined(text + "      a: {template: drive}\n      b: {template: drive}\n" + LAKE)
    assert [(d.code, d.line) for d in found.diagnostics] == [("E014", 10)]


CSV = "name,address,type,unit,asset,scale,low,high,enum,label\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tags_from_csv(examined: Examine, delimiter: str, end: str, mark: bytes) -> None:
    rows = [
        CSV.strip(),
        "speed,hr:0,int16,rpm,,,,,,",
        "# a comment,,,,,,,,,",
        "temp,hr:1,float32,°C,hall/oven,0.1,-5,90,,主モータ",
        ",,,,,,,,,",
        "mode,hr:2,int16,,,,,,0=idle|1=run,",
    ]
    text = end.join(rows).replace(",", delimiter).encode()
    found = examined(
        HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t.csv}}\n" + LAKE, {"t.csv": mark + text}
    )
    speed, temp, mode = found.whole.tags
    assert found.codes == []
    assert (speed.path, speed.address, speed.unit) == ("acme/osaka/a/speed", "hr:0", "{rev}/min")
    assert (temp.path, temp.label, temp.unit) == ("acme/osaka/hall/oven/temp", "主モータ", "Cel")
    assert temp.limits is not None
    assert (temp.limits.low, temp.limits.high) == (-5, 90)
    assert mode.enum == {0: "idle", 1: "run"}


def test_cells_with_delimiters_and_lines_in_quotes(examined: Examine) -> None:
    text = 'name,address,type,label\na,hr:0,bool,"x, ""y""\nz"\nb,hr:1,boool,\n'
    found = examined(HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t.csv}}\n" + LAKE, {"t.csv": text})
    assert [(d.file, d.line, d.column) for d in found.diagnostics] == [("t.csv", 4, 8)]
    found = examined(
        "",
        {
            "plant.yaml": (HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t.csv}}\n" + LAKE),
            "t.csv": text.replace("boool", "bool"),
        },
    )
    assert found.whole.tags[0].label == 'x, "y"\nz'


def test_tags_beside_a_file_win_over_those_in_it(examined: Examine) -> None:
    tags = "{file: [a.csv, b.yaml], speed: {label: own}, extra: {address: 9, type: bool}}"
    files = {"a.csv": "tag,address,type,label\nspeed,hr:0,int16,a\ntemp,hr:1,int16,a\n", "b.yaml": "temp: {label: b}\n"}
    found = examined(HEAD + f"adapters:\n  a: {{kind: plc, endpoint: tcp://a, tags: {tags}}}\n" + LAKE, files)
    assert [(tag.name, tag.label) for tag in found.whole.tags] == [("speed", "own"), ("temp", "b"), ("extra", "")]


def test_a_tag_may_be_called_file(examined: Examine) -> None:
    found = examined(HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: {address: 1, type: bool}}}\n" + LAKE)
    assert [tag.name for tag in found.whole.tags] == ["file"]


def test_references_in_a_tag_file(examined: Examine) -> None:
    files = {"t.yaml": 'a: {address: 1, type: bool, label: "${LABEL}"}\n'}
    text = HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t.yaml}}\n" + LAKE
    assert examined(text, files, env={"LABEL": "x"}).whole.tags[0].label == "x"
    missing = examined(text, files).diagnostics[0]
    assert (missing.code, missing.file, missing.line, missing.column) == ("W050", "t.yaml", 1, 36)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E021"),
        (b"name,address,type\n\xff,1,bool\n", "E001"),
        (b"name,tag\na,b\n", "E021"),
        (b"name,type,type\na,b,c\n", "E003"),
        (b'name,type\n"a,b\n', "E021"),
        (b"name,address,type,\na,1,bool,x\n", "E021"),
        (b"name,address,type\n", "W021"),
    ],
)
def test_csv_that_is_not_usable(examined: Examine, content: bytes, code: str) -> None:
    found = examined(HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t.csv}}\n" + LAKE, {"t.csv": content})
    assert found.codes == [code]


def test_a_broken_yaml_tag_file_is_named_with_its_line(examined: Examine) -> None:
    found = examined(
        HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t/t.yaml}}\n" + LAKE, {"t/t.yaml": "a: {b: 1\n"}
    )
    assert [(d.code, d.where) for d in found.diagnostics] == [("E002", "t/t.yaml:2:1")]


def test_a_directory_is_no_tag_file(examined: Examine) -> None:
    found = examined(HEAD + "adapters:\n  a: {kind: plc, endpoint: tcp://a, tags: {file: t}}\n" + LAKE, {"t/x": ""})
    assert found.codes == ["E001"]
