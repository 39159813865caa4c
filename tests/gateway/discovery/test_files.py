"""Tag files edited in place: only what changes is touched, whatever people have made of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import document
from gateway.config.report import Report
from gateway.config.source import Source
from gateway.discovery import writing
from gateway.discovery.csv_file import CsvTags
from gateway.discovery.points import Entry
from gateway.discovery.scalars import flow
from gateway.discovery.yaml_file import YamlTags
from schemas.errors import ConfigError

HERE = Path("tags.yaml")
BY_HAND = """\
# Ours: the press.

motor_temp:   {address: "hr:100",  type: float32, unit: °C, limits: {high: 90}}   # the winding
mode:         {'address': 'hr:40', "type": uint16, enum: {0: idle, 1: run}}
#off: {address: "hr:41", type: uint16}

block:                       # written downwards
    address: hr:200
    type: int16              # raw
    label: >
      two
      words

    description: last
tail: {address: "hr:300", type: bool}
"""


def edited(before: str) -> YamlTags:
    return YamlTags(HERE, before)


def test_nothing_to_change_is_the_same_text() -> None:
    assert edited(BY_HAND).text() == BY_HAND


def test_an_option_changes_and_every_other_character_stays() -> None:
    file = edited(BY_HAND)
    file.set("motor_temp", "type", "float64")
    file.set("motor_temp", "label", "Winding: left")
    file.set("mode", "address", "hr:42")
    file.set("block", "type", "int32")
    file.set("block", "unit", "°C")
    expected = BY_HAND.replace(
        "type: float32, unit: °C, limits: {high: 90}}", 'type: float64, unit: °C, limits: {high: 90}, label: "Winding: left"}'
    )
    expected = expected.replace("'hr:40'", '"hr:42"').replace("type: int16  ", "type: int32  ")
    expected = expected.replace("    description: last\n", "    description: last\n    unit: °C\n")
    assert file.text() == expected


def test_gone_tags_are_marked_once_and_the_mark_goes_when_they_are_back() -> None:
    file = edited(BY_HAND)
    file.mark("block", "2026-11-27")
    file.mark("tail", "2026-11-27")
    marked = file.text()
    again = edited(marked)
    assert [tag.key for tag in again.written if tag.gone] == ["block", "tail"]
    assert marked.count("# gone since 2026-11-27: ") == 2
    again.mark("block", "2027-01-01")
    assert again.text() == marked
    for key in ("block", "tail"):
        again.mark(key, None)
    assert again.text() == BY_HAND


def test_a_tag_is_taken_out_with_its_mark_and_its_neighbours_keep_their_comments() -> None:
    file = edited(BY_HAND)
    file.mark("block", "2026-11-27")
    marked = edited(file.text())
    marked.remove("block")
    marked.remove("mode")
    assert [tag.key for tag in edited(marked.text()).written] == ["motor_temp", "tail"]
    assert "#off:" in marked.text()
    assert "written downwards" not in marked.text()


def test_new_tags_come_last_also_behind_a_file_without_a_line_end() -> None:
    file = edited(BY_HAND.rstrip())
    file.add(Entry("hr:1", "a/b", {"name": "b", "asset": "a", "address": "hr:1", "type": "bool"}, note="look\x07 here"))
    assert file.text().endswith('type: bool}\n\n# a\na/b: {name: b, asset: a, address: "hr:1", type: bool}  # look  here\n')


@pytest.mark.parametrize("before", ["", "# only a comment\n", "---\n# x\n"])
def test_an_empty_file_takes_tags(before: str) -> None:
    if before.startswith("---"):
        with pytest.raises(ConfigError):
            edited(before)
        return
    file = edited(before)
    file.add(Entry("hr:1", "b", {"address": "hr:1"}))
    assert file.text() == before + 'b: {address: "hr:1"}\n'


def test_windows_line_ends_and_a_byte_order_mark_stay() -> None:
    before = "\ufeff" + BY_HAND.replace("\n", "\r\n")
    file = edited(before)
    file.set("tail", "type", "uint16")
    file.mark("block", "2026-11-27")
    file.add(Entry("hr:1", "new", {"address": "hr:1"}))
    made = file.text()
    assert made.startswith("\ufeff")
    assert made.count("\n") == made.count("\r\n") == before.count("\n") + 2


@pytest.mark.parametrize(
    "before",
    [
        "a: &base {address: x, type: bool}\nb: {<<: *base, address: y}\nc: *base\n",
        "{a: {address: x, type: bool}, b: {address: y, type: bool}, c: {address: z}}\n",
    ],
)
def test_tags_with_anchors_and_a_file_in_braces_are_left_alone(before: str) -> None:
    assert all(tag.fixed for tag in edited(before).written)


@pytest.mark.parametrize(
    "before", ["- a\n- b\n", "a: 1\n", "a: {address: x\n", "a: {address: x}\na: {address: y}\n", "just text\n"]
)
def test_what_is_no_tag_file_is_not_touched(before: str) -> None:
    with pytest.raises(ConfigError):
        edited(before)


def test_comments_hold_the_addresses_of_tags_that_are_switched_off() -> None:
    before = "a: {address: x}\n# b: {address: \"nsu=urn:x;s=b\", type: bool}\n#c:\n#  address: hr:7   # why\n  # d: {'address': 'ns=2;s=d'}\n"
    assert edited(before).off == {"nsu=urn:x;s=b", "hr:7", "ns=2;s=d"}


scalars = st.one_of(
    st.text(max_size=30), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
DAYS = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(st.dictionaries(DAYS, scalars, min_size=1, max_size=4))
def test_any_option_reads_back_as_it_was(options: dict[str, object]) -> None:
    plain = {key: value for key, value in options.items() if not isinstance(value, str) or value.isprintable()}
    text = "tag: " + flow(plain) + "\n"
    report = Report()
    section = document.parse(Source("x", HERE, text), report)
    assert section is not None
    assert not report.failed, text
    read = {key: value.replace("$${", "${") if isinstance(value, str) else value for key, value in section["tag"].items()}  # type: ignore[union-attr]
    assert read == plain


def test_rows_that_do_not_change_keep_every_character() -> None:
    before = 'name,address,type,unit,enum\nspeed,hr:0,int16,"rpm",\n# off,hr:5,int16,,\nstate , hr:8,uint16,,0=off;1=on\n'
    file = CsvTags(Path("tags.csv"), before)
    assert file.text() == before
    assert file.off == {"hr:5"}
    file.set("speed", "type", "int32")
    file.set("state", "label", "State; of it")
    file.mark("state", "2026-11-27")
    file.add(
        Entry(
            "hr:9", "press/temp", {"name": "temp", "asset": "press", "address": "hr:9", "type": "float32", "description": "a, b"}
        )
    )
    lines = file.text().splitlines()
    assert lines == [
        "name,address,type,unit,enum,asset,label,description",
        "speed,hr:0,int32,rpm,,,,",
        "# off,hr:5,int16,,",
        lines[3],
        "state , hr:8,uint16,,0=off;1=on,,State; of it,",
        'temp,hr:9,float32,,,press,,"a, b"',
    ]
    assert lines[3].startswith("# gone since 2026-11-27: ")
    again = CsvTags(Path("tags.csv"), file.text())
    assert [(tag.key, tag.gone) for tag in again.written] == [("speed", False), ("state", True), ("press/temp", False)]
    again.mark("state", None)
    again.remove("press/temp")
    assert "gone" not in again.text()
    assert "temp" not in again.text()


def test_a_new_csv_file_opens_in_a_spreadsheet() -> None:
    file = CsvTags(Path("tags.csv"), "")
    file.add(
        Entry("hr:0", "温度", {"address": "hr:0", "type": "int16", "unit": "°C", "enum": {0: "a;b", 1: "run"}, "scale": 0.5})
    )
    assert file.text() == '\ufeffname,address,type,unit,enum,scale\n温度,hr:0,int16,°C,"0=a,b;1=run",0.5\n'


def test_a_csv_file_that_cannot_be_read_is_not_touched() -> None:
    for broken in ('name,address\n"a,hr:0\n', "address,type\nhr:0,bool\n", "name,address\na,hr:0\na,hr:1\n"):
        with pytest.raises(ConfigError, match="not overwritten"):
            CsvTags(Path("tags.csv"), broken)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "tags.yaml"
    writing.write_whole(path, "a\n")
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    writing.write_whole(link, "b\n")
    assert (path.read_text(), path.stat().st_mode & 0o777, link.is_symlink()) == ("b\n", 0o640, True)
    monkeypatch.setattr(writing.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="No space left"):
        writing.write_whole(path, "c\n")
    assert path.read_text() == "b\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["tags.yaml"]
