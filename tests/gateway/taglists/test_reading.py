"""Samples of each format, as the tools write them: which tags come out, with which units, and which rows are named as left out."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.s7.datatypes import parse_type
from gateway.taglists.layout import Layout, Member, Shape
from gateway.taglists.reading import Wanted, read
from gateway.taglists.rows import TagList
from gateway.taglists.text import decode
from gateway.taglists.types import typed
from schemas.errors import ConfigError

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str, **wanted: Any) -> TagList:
    return read(SAMPLES / name, Wanted(**wanted))


def options(found: TagList) -> dict[str, Mapping[str, Any]]:
    return {point.name: point.options for point in found.points}


def addresses(found: TagList) -> dict[str, str]:
    return {point.name: point.options["address"] for point in found.points}


def left_out(found: TagList) -> dict[str, str]:
    return {f"{one.line} {one.name}": one.reason for one in found.refused}


def test_tia_tag_table() -> None:
    found = sample("furnace.xml")
    assert found.kind == "s7"
    assert options(found) == {
        "burner_on": {"address": "I0.3", "type": "bool", "description": "Burner is on"},
        "zone_1_temp": {"address": "MW10", "type": "int", "description": "Zone 1 [°C]", "unit": "°C"},
        "gas_flow": {"address": "MD20", "type": "real", "description": "Gas & air [m³/h]", "unit": "m³/h"},
    }
    reasons = left_out(found)
    assert list(reasons) == ["6 DriveIn", "7 Raw", "8 RETRIES"]
    assert "not an S7 type" in reasons["6 DriveIn"]
    assert "peripheral" in reasons["7 Raw"]
    assert "constant" in reasons["8 RETRIES"]


def test_tia_openness() -> None:
    found = sample("openness.xml")
    assert options(found) == {
        "parts_made": {"address": "MD100", "type": "dint", "description": "Parts since the shift began [pcs]", "unit": "pcs"}
    }
    assert list(left_out(found)) == ["26 MAX"]


def test_a_table_without_a_header_is_read_by_its_columns() -> None:
    found = sample("symbols.sdf")
    assert options(found) == {
        "burner_on": {"address": "I0.3", "type": "bool", "description": "Burner is on"},
        "zone_temp": {"address": "MW10", "type": "int", "description": "Zone 1, left [°C]", "unit": "°C"},
        "total": {"address": "MD20", "type": "dint", "description": 'Says "sum"'},
    }


def test_tia_block_with_standard_access() -> None:
    found = sample("motor.db", number=10)
    at = addresses(found)
    # Worked out by hand with the rules of STEP 7: bits packed, words even, structures and arrays even at both ends.
    expected = {
        "running": "DB10.DBX0.0", "alarm": "DB10.DBX0.1", "mode": "DB10.DBB1", "code": "DB10.DBB2", "count": "DB10.DBW4",
        "motor_temp": "DB10.DBD6", "name": "DB10.DBB10", "after": "DB10.DBB17", "flags_0": "DB10.DBX18.0", "flags_9": "DB10.DBX19.1",
        "next": "DB10.DBX20.0", "zones_1": "DB10.DBW22", "zones_3": "DB10.DBW26", "axis_pos": "DB10.DBB28", "axis_homed": "DB10.DBX36.0",
        "main_speed": "DB10.DBD38", "main_fault": "DB10.DBX42.1", "spare_1_speed": "DB10.DBD44", "spare_2_speed": "DB10.DBD50",
        "since": "DB10.DBB56", "grid_1_3": "DB10.DBX68.2", "grid_2_1": "DB10.DBX69.0", "a": "DB10.DBW86", "b": "DB10.DBW88", "text": "DB10.DBB90",
    }  # fmt: skip
    assert {name: at[name] for name in expected} == expected
    assert options(found)["main_speed"]["unit"] == "rpm"
    assert options(found)["motor_temp"]["description"] == "Winding [°C]"
    assert next(point.note for point in found.points if point.name == "after").startswith("it follows a text of odd length")
    reasons = left_out(found)
    assert list(reasons) == ["37 Timer", "40 Unknown", "41 Lost"]
    assert "its address is not known" in reasons["41 Lost"]


def test_a_whole_array_as_one_waveform() -> None:
    found = sample("motor.db", numbers={"Motor": 7}, arrays="waveform")
    assert options(found)["zones"] == {"address": "DB7.DBB22", "type": "array[3] of int"}
    assert addresses(found)["axis_pos"] == "DB7.DBB28"
    assert "flags_9" in addresses(found), "an array of bits is no waveform"


def test_a_block_without_a_number_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match=r"number is not in the source.*--db Motor=10"):
        sample("motor.db")


def test_an_optimised_block_is_refused_with_the_steps_in_tia() -> None:
    with pytest.raises(ConfigError, match="Optimized block access"):
        sample("optimised.db", number=10)


def blocks(text: str, tmp_path: Path, **wanted: Any) -> TagList:
    path = tmp_path / "blocks.scl"
    path.write_text(text, encoding="utf-8")
    return read(path, Wanted(**wanted))


def test_classic_sources_several_blocks_and_blocks_of_a_type(tmp_path: Path) -> None:
    found = blocks(
        """\
TYPE UDT 5
  STRUCT
    v : REAL ; // value
  END_STRUCT ;
END_TYPE
DATA_BLOCK DB 12
TITLE =
STRUCT
  x : ARRAY [ 1 .. 2 ] OF UDT 5; (* two of
  them *)
  t : S5TIME := S5T#10MS;
  d : DATE_AND_TIME := DT#90-1-1-0:0:0.000;
END_STRUCT ;
BEGIN
END_DATA_BLOCK
DATA_BLOCK "Of type" UDT 5
BEGIN
END_DATA_BLOCK
DATA_BLOCK "Fast"
{ S7_Optimized_Access := 'TRUE' }
VAR
  y : Int;
END_VAR
BEGIN
END_DATA_BLOCK
""",
        tmp_path,
        numbers={"Of type": 3},
    )
    assert addresses(found) == {
        "db12_x_1_v": "DB12.DBD0", "db12_x_2_v": "DB12.DBD4", "db12_t": "DB12.DBW8", "db12_d": "DB12.DBB10", "of_type_v": "DB3.DBD0",
    }  # fmt: skip
    assert "Optimized block access" in left_out(found)["19 Fast"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("DATA_BLOCK DB1\nSTRUCT\na : Int\nEND_STRUCT;\nBEGIN\nEND_DATA_BLOCK", "semicolon"),
        ("DATA_BLOCK DB1\nSTRUCT\na Int;\nEND_STRUCT;\nEND_DATA_BLOCK", "':' should stand"),
        ("DATA_BLOCK DB1\nSTRUCT\na : Array[1..N] of Int;\nEND_STRUCT;\nEND_DATA_BLOCK", "not numbers"),
        ("DATA_BLOCK DB1\n", "the file ends"),
        ("TYPE A\nSTRUCT\na : Int;\nEND_STRUCT;\nEND_TYPE", "no data block"),
        ("DATA_BLOCK DB1\nSTRUCT\nEND_STRUCT;\nBEGIN\nEND_DATA_BLOCK", "declares no values"),
        ("DATA_BLOCK DB1\n" + "STRUCT\n" + "a : STRUCT\n" * 100, "nest deeper"),
    ],
)
def test_a_source_that_is_broken_names_the_place(source: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        blocks(source, tmp_path)


def test_an_array_that_claims_too_much_costs_nothing(tmp_path: Path) -> None:
    source = "DATA_BLOCK DB1\nSTRUCT\na : Array[0..2000000000] of Bool;\nb : Int;\nEND_STRUCT;\nEND_DATA_BLOCK"
    found = blocks(source, tmp_path)
    assert (found.points, len(found.refused)) == ([], 2)
    types = "".join(
        f'TYPE "T{n}"\nSTRUCT\na : Array[1..9] of "T{n + 1}";\nEND_STRUCT;\nEND_TYPE\n' for n in range(30)
    )  # fmt: skip
    deep = blocks(types + 'DATA_BLOCK DB1\n"T0"\nBEGIN\nEND_DATA_BLOCK', tmp_path)
    assert deep.points == []


def test_a_type_that_holds_itself_ends(tmp_path: Path) -> None:
    source = 'TYPE "A"\nSTRUCT\na : "A";\nEND_STRUCT;\nEND_TYPE\nDATA_BLOCK DB1\n"A"\nBEGIN\nEND_DATA_BLOCK'
    assert "nest too deep" in blocks(source, tmp_path).refused[0].reason


elementary = st.sampled_from(["bool", "byte", "int", "real", "lreal", "char", "dtl", "string[3]", "word", "date"])


@given(st.lists(elementary, min_size=1, max_size=30))
def test_values_never_overlap_and_wide_ones_are_even(kinds: list[str]) -> None:
    members = [Member(f"m{n}", Shape(kind), n) for n, kind in enumerate(kinds)]
    end = 0
    for slot, kind in zip(Layout({}).slots(members), kinds, strict=True):
        size = 1 if kind == "bool" else parse_type(kind).size * 8
        assert slot.bit >= end
        assert kind == "bool" or slot.bit % (8 if size == 8 else 16) == 0
        end = slot.bit + size


def test_kepserver_for_the_device_itself() -> None:
    found = sample("kepserver_modbus.csv")
    assert found.kind == "modbus"
    assert options(found) == {
        "speed": {
            "address": "hr:0",
            "type": "uint16",
            "scale": 0.3663003663,
            "description": "Motor speed, actual",
            "unit": "rpm",
        },
        "motor_temp": {"address": "ir:9", "type": "float32", "scan": "500ms", "description": 'Says "hot"', "unit": "°C"},
        "status_ready": {"address": "hr:19.3", "type": "bool"},
        "serial": {"address": "hr:99", "type": "string[16]"},
        "pump": {"address": "co:7", "type": "bool"},
    }
    assert list(left_out(found)) == ["7 Curve", "8 Flow", "9 Odd"]
    assert "Square Root" in left_out(found)["8 Flow"]
    assert "CDAB" in found.notes[0]


def test_kepserver_for_a_siemens_plc() -> None:
    found = sample("kepserver_siemens.csv")
    assert found.kind == "s7"
    assert {name: (one["address"], one["type"]) for name, one in options(found).items()} == {
        "zone1": ("DB10.DBD4", "real"),
        "burner": ("DB10.DBX0.3", "bool"),
        "word": ("DB10.DBW8", "int"),
        "recipe": ("DB10.DBB20", "string[32]"),
        "bit": ("DB10.DBX30.1", "bool"),  # bit 9 of a big endian word is bit 1 of its first byte
        "flag": ("M10.3", "bool"),
        "level": ("MW12", "word"),
    }


def test_kepserver_as_opc_ua_server() -> None:
    found = sample("kepserver_modbus.csv", kind="opcua", prefix="Line2.Press7")
    assert options(found)["speed"] == {
        "address": "nsu=KEPServerEX;s=Line2.Press7.Speed",
        "type": "float64",  # what it is scaled to there
        "description": "Motor speed, actual",
        "unit": "rpm",
    }
    with pytest.raises(ConfigError, match="--prefix"):
        sample("kepserver_modbus.csv", kind="opcua")


def test_a_spreadsheet_with_semicolons_and_german_headers() -> None:
    found = sample("excel.csv")
    assert options(found) == {
        "drehzahl_lüfter": {"address": "hr:0", "type": "int16", "scale": 0.1, "description": "Motor; links", "unit": "1/min"},
        "status": {"address": "hr:1", "type": "uint16"},
        "druck": {"address": "hr:3", "type": "float32"},
    }
    assert next(point.note for point in found.points if point.name == "druck") == "its unit 'Blubb' is not known here"
    assert list(left_out(found)) == ["4 40003", "6 Leer", "7 Typ"]


def test_japanese_and_western_code_pages() -> None:
    japanese, western = sample("japan.csv"), sample("latin.csv")
    assert options(japanese)["モータ温度"] == {"address": "hr:0", "type": "float32", "description": "主モータ巻線", "unit": "°C"}
    assert options(western)["temp"] == {"address": "DB1.DBD0", "type": "real", "description": "Größe", "unit": "°C"}
    assert ("cp932" in japanese.notes[0], "cp1252" in western.notes[0]) == (True, True)
    assert sample("japan.csv", encoding="cp932").notes == []
    with pytest.raises(ConfigError, match="not utf-8"):
        sample("japan.csv", encoding="utf-8")
    with pytest.raises(ConfigError, match="no encoding"):
        sample("japan.csv", encoding="ebcdic-99")


@pytest.mark.parametrize(
    ("text", "encoding"), [("温度,°C", "utf-16"), ("温度", "utf-8-sig"), ("ﾓｰﾀｵﾝﾄﾞ", "cp932"), ("Größe µm é", "cp1252")]
)
def test_the_encoding_is_told_from_the_bytes(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding), Path("x"))[0] == text


@given(st.binary(max_size=300))
def test_any_bytes_are_text_of_some_kind(raw: bytes) -> None:
    try:
        decode(raw, Path("x"))
    except ConfigError:
        assert raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"))


def table(text: str, tmp_path: Path, **wanted: Any) -> TagList:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return read(path, Wanted(**wanted))


def test_the_columns_of_a_table_are_optional_but_for_name_and_address(tmp_path: Path) -> None:
    found = table("Tag\tNode ID\nTemp\tns=2;s=Temp\nOdd\tnonsense\n", tmp_path)
    assert options(found) == {"temp": {"address": "ns=2;s=Temp", "type": "auto"}}
    assert "not an OPC UA address" in left_out(found)["3 Odd"]
    with_asset = table("name,address,type,asset,scan\na,hr:0,bool,line/press,2s\n", tmp_path)
    assert (with_asset.points[0].asset, with_asset.points[0].options["scan"]) == ("line/press", "2s")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,where\na,b\n", "cannot tell for which protocol"),
        ("name,address\na,1\n", "cannot tell for which protocol"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
    ],
)
def test_a_table_that_nobody_can_tell(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        table(text, tmp_path)


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column is the name or the address"):
        table("a,b\nc,d\n", tmp_path, kind="s7")


def test_a_quote_that_is_not_closed_takes_no_row_silently(tmp_path: Path) -> None:
    found = table('name,address,type,comment\na,hr:0,int16,"open\nb,hr:1,int16,x\n', tmp_path)
    assert len(found.points) + len(found.refused) == 1
    assert "b,hr:1" in found.points[0].options["description"], "what was swallowed is seen"


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("INT", "modbus", "int16"), ("int", "opcua", "int32"), ("Int", "s7", "int"), ("Short", "s7", "int"), ("Float", "s7", "real"),
        ("REAL", "modbus", "float32"), ("String[20]", "modbus", "string[20]"), ("STRING (20)", "s7", "string[20]"), ("LBCD", "modbus", "bcd32"),
        ("Array[0..9] of Real", "s7", "array[10] of real"), ("Boolean", "opcua", "bool"), ("QWord", "s7", "lword"),
    ],
)  # fmt: skip
def test_types_in_the_words_of_the_adapter(text: str, kind: str, name: str) -> None:
    assert typed(text, kind) == name


def workbook(tmp_path: Path, *, extra: Mapping[str, bytes] | None = None) -> Path:
    """A workbook as TIA Portal writes it: shared strings, a sheet of tags and one of constants."""
    strings = [
        "Name",
        "Path",
        "Data Type",
        "Logical Address",
        "Comment",
        "Burner",
        "Default tag table",
        "Bool",
        "%I0.3",
        "Zone [°C]",
        "Temp",
        "Int",
        "%MW10",
    ]
    rows = [[0, 1, 2, 3, 4], [5, 6, 7, 8], [10, 6, 11, 12, 9]]
    cells = "".join(
        f'<row r="{r + 1}">' + "".join(f'<c r="{chr(65 + c)}{r + 1}" t="s"><v>{s}</v></c>' for c, s in enumerate(row)) + "</row>"
        for r, row in enumerate(rows)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    items = "".join(f"<si><t>{s}</t><rPh><t>ignored</t></rPh></si>" for s in strings)
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{rel}"><sheets><sheet name="PLC Tags" r:id="rId1"/><sheet name="Constants" r:id="rId2"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships><Relationship Id="rId1" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Target="/xl/worksheets/sheet2.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{main}">{items}</sst>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
        "xl/worksheets/sheet2.xml": f'<worksheet xmlns="{main}"><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>Name</t></is></c></row></sheetData></worksheet>',
    }
    path = tmp_path / "tags.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**parts, **(extra or {})}.items():
            archive.writestr(name, text)
    return path


def test_a_workbook(tmp_path: Path) -> None:
    found = read(workbook(tmp_path), Wanted())
    assert options(found) == {
        "burner": {"address": "I0.3", "type": "bool"},
        "temp": {"address": "MW10", "type": "int", "description": "Zone [°C]", "unit": "°C"},
    }
    with pytest.raises(ConfigError, match="PLC Tags, Constants"):
        read(workbook(tmp_path), Wanted(sheet="Elsewhere"))


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><Tagtable name="&y;"/>'


def test_xml_declares_nothing_and_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tags.xml"
    external = (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Tagtable><Tag type="Bool" addr="%I0.0">&x;</Tag></Tagtable>'
    )
    for text, says in (
        (BOMB, "document type"),
        (external, "document type"),
        ("<a>" * 500, "nests deeper"),
        ("<Tagtable", "is not XML"),
        ("<Other/>", "no tag table"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            read(path, Wanted())
    with pytest.raises(ConfigError, match="document type"):
        read(workbook(tmp_path, extra={"xl/sharedStrings.xml": BOMB.encode()}), Wanted())


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.taglists import workbook as reader

    monkeypatch.setattr(reader, "LARGEST_PART", 1000)
    with pytest.raises(ConfigError, match="unpacks to more"):
        read(workbook(tmp_path, extra={"xl/sharedStrings.xml": b" " * 100_000}), Wanted())


@given(st.binary(max_size=200))
def test_a_damaged_workbook_is_a_clean_error(tail: bytes) -> None:
    from gateway.taglists import workbook as reader

    with pytest.raises(ConfigError):
        list(reader.sheets(b"PK\x03\x04" + tail, "x"))


@given(st.text(max_size=300))
def test_any_text_is_a_list_or_a_clean_error(text: str) -> None:
    from gateway.taglists import kepserver, tia_blocks
    from gateway.taglists import table as tables

    for attempt in (
        lambda: tables.read(tables.delimited(text), None, "table", "x"),
        lambda: tables.read(tables.delimited(text), "s7", "table", "x"),
        lambda: tia_blocks.read(f"DATA_BLOCK DB1\nSTRUCT\n{text}", {}, None, "elements", "x"),
        lambda: kepserver.read(tables.delimited(f"Tag Name,Address,Respect Data Type\n{text}"), "modbus", "", "x"),
    ):
        try:
            attempt()
        except ConfigError:
            continue


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "nothing.csv", Wanted())
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path, Wanted())
    old = tmp_path / "tags.xls"
    old.write_bytes(b"\xd0\xcf\x11\xe0rest")
    with pytest.raises(ConfigError, match="old Excel"):
        read(old, Wanted())
