"""`genba import tags FILE`: from an export to a tag file that `genba check` accepts, and its second run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Genba = Callable[..., Any]
SAMPLES = Path(__file__).parents[1] / "taglists" / "samples"
ENTRIES = {
    "s7": "kind: s7, endpoint: 's7://10.0.0.20'",
    "modbus": "kind: modbus, endpoint: 'tcp://10.0.0.7:502'",
    "opcua": "kind: opcua, endpoint: 'opc.tcp://127.0.0.1:4840'",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", [".yaml", ".csv"])
@pytest.mark.parametrize(
    ("sample", "kind", "more", "tags", "status"),
    [
        ("furnace.xml", "s7", (), 3, 1),
        ("openness.xml", "s7", (), 1, 1),
        ("symbols.sdf", "s7", (), 3, 0),
        ("motor.db", "s7", ("--db", "Motor=10"), 43, 1),
        ("kepserver_modbus.csv", "modbus", (), 5, 1),
        ("kepserver_modbus.csv", "opcua", ("--kind", "opcua", "--prefix", "Line2.Press7"), 6, 1),
        ("kepserver_siemens.csv", "s7", (), 7, 0),
        ("excel.csv", "modbus", (), 3, 1),
        ("japan.csv", "modbus", (), 2, 0),
        ("latin.csv", "s7", (), 1, 0),
    ],
)
def test_each_format_goes_round_to_check(
    genba: Genba, tmp_path: Path, sample: str, kind: str, more: tuple[str, ...], tags: int, status: int, suffix: str
) -> None:
    command = ("import", "tags", SAMPLES / sample, *more, "--out", f"tags{suffix}")
    assert genba(*command).status == status
    Path("plant.yaml").write_text(
        "enterprise: acme\nsite: osaka\ngateway: gw\nadapters:\n"
        f"  one: {{{ENTRIES[kind]}, tags: {{file: tags{suffix}}}}}\nsinks: {{lake: {{kind: parquet, location: lake}}}}\n"
    )
    checked = genba("check", "plant.yaml", "--format", "json")
    report = json.loads(checked.out)
    assert report["ok"], report["diagnostics"]
    assert (
        report["summary"]["tags"] == tags
        if isinstance(report["summary"]["tags"], int)
        else len(report["summary"]["tags"]) == tags
    )
    before = (tmp_path / f"tags{suffix}").read_bytes()
    again = genba(*command)
    assert (again.status, (tmp_path / f"tags{suffix}").read_bytes()) == (status, before)
    assert f"{tags} as before" in again.out


def test_every_row_left_out_is_named_with_its_line(genba: Genba) -> None:
    done = genba("import", "tags", SAMPLES / "excel.csv")
    assert done.status == 1
    lines = done.err.splitlines()
    assert [line.split(": left out: ")[0].rpartition("/")[2] for line in lines[:3]] == [
        "excel.csv:4: 40003",
        "excel.csv:6: Leer",
        "excel.csv:7: Typ",
    ]
    assert lines[-1].endswith("excel.csv (table): 3 tags for modbus, 3 left out")
    assert "drehzahl_lüfter" in done.out


def test_a_new_export_is_a_difference_and_edits_stay(genba: Genba, tmp_path: Path) -> None:
    export = tmp_path / "list.csv"
    export.write_text("name,address,type,unit\nspeed,hr:0,int16,rpm\ntemp,hr:1,int16,°C\n", encoding="utf-8")
    assert genba("import", "tags", export, "--out", "tags.yaml").status == 0
    file = tmp_path / "tags.yaml"
    file.write_text(file.read_text().replace("speed: {", "drehzahl:   {limits: {high: 90}, "))
    export.write_text("name,address,type,unit\nspeed,hr:0,int32,rpm\nnew,hr:7,bool,\n", encoding="utf-8")
    shown = genba("import", "tags", export, "--out", "tags.yaml", "--diff")
    assert shown.status == 1
    assert shown.out.splitlines()[1:] == [
        "~ drehzahl  type int16 -> int32",
        "- temp  hr:1  is not there any more",
        "+ new  hr:7  bool",
    ]
    assert genba("import", "tags", export, "--out", "tags.yaml").status == 0
    text = file.read_text()
    assert 'drehzahl:   {limits: {high: 90}, address: "hr:0", type: int32, unit: rpm}' in text
    assert "# gone since" in text


def test_what_a_file_says_is_no_command_to_the_terminal(genba: Genba, tmp_path: Path) -> None:
    export = tmp_path / "list.csv"
    export.write_bytes(b"name,address,type\nred\x1b[31m,hr:0,nonsense\x1b[2J\n\x1b]0;title\x07b,hr:1,int16\n")
    done = genba("import", "tags", export, "--out", "tags.yaml")
    assert "\x1b" not in done.out + done.err
    assert "\x1b" not in (tmp_path / "tags.yaml").read_text()


def test_json(genba: Genba) -> None:
    told = json.loads(genba("import", "tags", SAMPLES / "furnace.xml", "--json").out)
    assert (told["kind"], told["format"], len(told["points"])) == ("s7", "TIA Portal tag table", 3)
    assert [one["line"] for one in told["left_out"]] == [6, 7, 8]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing.csv",), "no such file"),
        ((SAMPLES / "motor.db",), "--db Motor=10"),
        ((SAMPLES / "optimised.db", "--db", "1"), "Optimized block access"),
        ((SAMPLES / "motor.db", "--db", "x"), "--db: 'x'"),
        ((SAMPLES / "kepserver_modbus.csv", "--kind", "opcua"), "--prefix"),
        ((SAMPLES / "excel.csv", "--format", "kepserver"), "has not the columns"),
        ((SAMPLES / "excel.csv", "--prune"), "name it"),
    ],
)
def test_a_wrong_call_ends_with_2(genba: Genba, arguments: tuple[object, ...], says: str) -> None:
    done = genba("import", "tags", *arguments)
    assert done.status == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_the_command_is_listed(genba: Genba) -> None:
    assert "  import " in genba("--help").out
    assert "tags" in genba("import", "--help").out
