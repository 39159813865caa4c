"""The YAML model: widths against types, value columns, endpoints, CPU families, overlapping addresses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.s7 import PLUGIN
from adapters.s7.config import S7Config, S7Tag
from tests.adapters.s7 import rig


def tag(address: str, kind: str, **more: Any) -> S7Tag:
    return S7Tag.model_validate({"address": address, "type": kind, **more})


@pytest.mark.parametrize(
    ("address", "kind", "says"),
    [
        (
            "DB10.DBD4",
            "int",
            "DB10.DBD4 is 4 bytes wide and int has 2; write DB10.DBW4 or one of the types dword, dint, udint, real",
        ),
        ("DB10.DBW4", "real", "write DB10.DBD4"),
        ("MB4", "word", "MB4 is 1 byte wide and word has 2; write MW4"),
        ("DB10.DBD4", "lreal", "write DB10.DBB4"),
        ("DB10.DBW20", "string[32]", "write DB10.DBB20"),
        ("DB10.DBB4", "bool", "write DB10.DBX4.0"),
        ("MB4", "bool", "write M4.0"),
        ("M4.3", "byte", "write MB4"),
        ("DB10.DBX4.1", "string[4]", "write DB10.DBB4"),
        ("DB10.DBD4", "quaternion", "types are bool, byte"),
        ("DB10.DBB4", "string[255]", "1 to 254"),
        ("DB10.DBD4", "real[10]", "array[10] of real"),
        ("DB10.DBD4", "array[0..] of real", "array[10] of real"),
        ("DB10.DBB4", "array[0..9, 0..2] of bool", "a tag for each row"),
        ("DB10.DBB4", "array[2] of array[3] of real", "array[3, 10] of real"),
        ("DB10.DBB4", "array[2] of array[3] of char", "array[3, 10] of real"),
        ("DB10.DBB4", "array[0..9] of timer", "a tag for each timer"),
        ("DB10.DBB4", "array[257] of string", "1 to 256 elements"),
        ("DB10.DBX4.1", "array[8] of bool", "write DB10.DBB4"),
        ("DB10.DBB4", "array[0] of real", "1 to 16384 elements"),
        ("DB10.DBB4", "array[5..4] of real", "1 to 16384 elements"),
        ("DB10.DBB4", "array[16385] of real", "1 to 16384 elements"),
        ("DB10.DBW4", "array[4] of real", "write DB10.DBB4"),
        ("DB10.DBD4", "string[2]", "write DB10.DBB4"),
        ("DB10.DBB4", "struct", "element by element"),
        ("T5", "int", "T5 is a timer and int is not its type; write timer"),
        ("C5", "s5time", "C5 is a counter and s5time is not its type; write counter"),
        ("C5", "array[2] of word", "write counter"),
    ],
)
def test_width_and_type_that_do_not_fit_are_refused_with_the_way_out(address: str, kind: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tag(address, kind)
    assert says in str(caught.value)
    assert caught.value.errors()[0]["loc"] == ("type",)


@pytest.mark.parametrize(
    ("address", "kind", "canonical", "column"),
    [
        ("%DB10.DBD4", "Real", "DB10.DBD4", "number"),
        ("DB10.DBX0.3", "BOOL", "DB10.DBX0.3", "number"),
        ("DB10.DBX20.0", "String[32]", "DB10.DBB20", "text"),
        ("DB10.DBB20", "string", "DB10.DBB20", "text"),
        ("DB10.DBL8", "LReal", "DB10.DBB8", "number"),
        ("DB10.DBX8.0", "LInt", "DB10.DBB8", "integer"),
        ("MB8", "ulint", "MB8", "integer"),
        ("MW8", "S5Time", "MW8", "number"),
        ("MD8", "Time_Of_Day", "MD8", "number"),
        ("MB8", "Date_And_Time", "MB8", "text"),
        ("MW8", "date", "MW8", "text"),
        ("EB0", "char", "IB0", "text"),
        ("DB10.DBL4", "LTime", "DB10.DBB4", "number"),
        ("MB8", "LTime_Of_Day", "MB8", "number"),
        ("MB8", "LDT", "MB8", "text"),
        ("%T5", "Timer", "T5", "number"),
        ("T5", "s5time", "T5", "number"),
        ("Z12", "Counter", "C12", "number"),
        ("C12", "word", "C12", "number"),
        ("MW8", "counter", "MW8", "number"),
        ("DB10.DBX20.0", "Array[0..9] of Real", "DB10.DBB20", "samples"),
        ("DB10.DBD20", "array[10] of real", "DB10.DBB20", "samples"),
        ("DB10.DBB20", "Array[-1..1] of SInt", "DB10.DBB20", "samples"),
        ("DB10.DBB20", "Array[0..2, 1..4] of Real", "DB10.DBB20", "samples"),
        ("DB10.DBX20.0", "Array[0..15] of Bool", "DB10.DBB20", "samples"),
        ("DB10.DBW20", "Array[0..3] of S5Time", "DB10.DBB20", "samples"),
        ("DB10.DBB20", "Array[1..16] of Char", "DB10.DBB20", "text"),
        ("DB10.DBB20", "Array[0..9] of String[4]", "DB10.DBB20", "text"),
        ("DB10.DBB20", "Array[0..9] of LInt", "DB10.DBB20", "text"),
        ("DB10.DBB20", "Array[0..9] of DTL", "DB10.DBB20", "text"),
    ],
)
def test_spellings_canonical_addresses_and_value_columns(address: str, kind: str, canonical: str, column: str) -> None:
    made = tag(address, kind)
    assert (made.wire_address(), made.value_type()) == (canonical, column)


def test_a_scaled_or_named_64_bit_integer_is_a_number() -> None:
    assert tag("MB0", "lint", scale=0.1).value_type() == "number"
    assert tag("MB0", "lint", enum={0: "idle"}).value_type() == "number"


def test_options_that_need_a_number_are_refused_on_text() -> None:
    for option in ({"scale": 2}, {"offset": 1}, {"enum": {0: "idle"}}):
        with pytest.raises(ValidationError, match="needs a number"):
            tag("MB0", "string[4]", **option)
    with pytest.raises(ValidationError, match="enum needs one number"):
        tag("MB0", "array[4] of int", enum={0: "idle"})
    with pytest.raises(ValidationError, match="cp932"):
        tag("MB0", "string[4]", encoding="klingon")


@pytest.mark.parametrize(
    "endpoint", ["tcp://10.0.0.1", "s7://", "s7://10.0.0.1/db", "s7://10.0.0.1:0", "s7://10.0.0.1:70000", "10.0.0.1"]
)
def test_a_wrong_endpoint_shows_a_right_one(endpoint: str) -> None:
    with pytest.raises(ValidationError, match=r"s7://10\.0\.0\.20"):
        rig.configure({}, endpoint)


@pytest.mark.parametrize(
    ("options", "remote"),
    [
        ({}, 0x0201),
        ({"cpu": "s7-300"}, 0x0202),
        ({"cpu": "s7-400", "slot": 2, "connection": "pg"}, 0x0102),
        ({"rack": 1, "slot": 4, "connection": "basic"}, 0x0324),
        ({"tsap": "02.00"}, 0x0200),
        ({"tsap": {"local": "10.00", "remote": "0x1001"}}, 0x1001),
    ],
)
def test_how_the_cpu_is_addressed(options: dict[str, Any], remote: int) -> None:
    config = rig.configure({}, "s7://plc", **options)
    assert config.tsaps == (0x1000 if isinstance(options.get("tsap"), dict) else 0x0100, remote)
    assert (config.host, config.port) == ("plc", 102)


@pytest.mark.parametrize("options", [{"tsap": 2.0}, {"tsap": "0200", "slot": 1}, {"cpu": "s7-200"}, {"rack": 8}])
def test_contradicting_or_unquoted_cpu_addresses_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rig.configure({}, **options)


def findings(config: S7Config) -> list[tuple[str, tuple[str | int, ...], str]]:
    assert PLUGIN.check is not None
    return [(finding.level, finding.loc, finding.message) for finding in PLUGIN.check(config)]


def test_overlapping_addresses_of_different_type_are_a_warning_at_the_second() -> None:
    config = rig.configure({"a": ("DB1.DBD0", "real"), "b": ("DB1.DBW2", "int"), "c": ("DB2.DBW2", "int"), "d": ("MW2", "int")})
    assert findings(config) == [("warning", ("tags", "b", "address"), "DB1.DBW2 (int) overlaps DB1.DBD0 (real) of tag 'a'")]


def test_overlaps_are_found_across_devices_and_under_long_values() -> None:
    device = {"tags": {"text": {"address": "DB1.DBB0", "type": "string[100]"}, "flag": {"address": "DB1.DBX4.0", "type": "bool"}}}
    config = rig.configure({}, devices={"one": device, "two": {"tags": {"late": {"address": "DB1.DBD98", "type": "real"}}}})
    assert [loc for _, loc, _ in findings(config)] == [
        ("devices", "one", "tags", "flag", "address"),
        ("devices", "two", "tags", "late", "address"),
    ]


def test_bits_of_a_word_and_the_same_value_twice_are_no_overlap() -> None:
    config = rig.configure(
        {
            "word": ("MW0", "word"),
            "b0": ("M0.0", "bool"),
            "b1": ("M1.7", "bool"),
            "x": ("DB1.DBD0", "real"),
            "y": ("DB1.DBD0", "real"),
        }
    )
    assert findings(config) == []


def test_timers_side_by_side_do_not_overlap_and_arrays_do() -> None:
    config = rig.configure(
        {"t5": ("T5", "timer"), "t6": ("T6", "timer"), "curve": ("DB1.DBB0", "array[4] of real"), "one": ("DB1.DBD12", "real")}
    )
    assert [message for _, _, message in findings(config)] == [
        "DB1.DBD12 (real) overlaps DB1.DBB0 (array[4] of real) of tag 'curve'"
    ]


def test_reading_a_configuration_imports_no_protocol_library() -> None:
    code = "import sys, adapters.s7; print(sorted({'s7', 'snap7', 'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ten_thousand_tags_are_checked_in_a_second() -> None:
    config = rig.configure({f"t{n}": (f"DB{n // 1000 + 1}.DBD{n % 1000 * 4}", "real") for n in range(10_000)})
    assert findings(config) == []
