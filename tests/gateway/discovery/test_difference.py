"""A second run over a file that people have edited: what follows the device, what stays, and what is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gateway.config import examine
from gateway.discovery import memory
from gateway.discovery.points import entries
from gateway.discovery.writing import Draft, draft
from schemas.errors import ConfigError
from schemas.plugin import Point

DAY = "2026-11-27"


def point(name: str, address: str, kind: str = "float32", asset: str | None = None, **options: object) -> Point:
    return Point(name, {"address": address, "type": kind, **options}, asset)


FIRST = [
    point("temp", "nsu=urn:a;s=Temp", unit="°C", label="Winding"),
    point("speed", "nsu=urn:a;s=Speed", unit="rpm"),
    point("mode", "nsu=urn:a;s=Mode", "int32", enum={0: "idle", 1: "run"}),
    point("torque", "nsu=urn:a;s=Torque", asset="robot-3/axis1"),
]


def compared(path: Path, points: Sequence[Point], *, scope: str = "all", whole: bool = True, again: bool = False) -> Draft:
    return draft(path, entries(points, "opcua"), "opcua", scope=scope, whole=whole, head="# head\n", again=again)


def written(path: Path, points: Sequence[Point] = FIRST, *, prune: bool = False, **options: object) -> list[tuple[str, ...]]:
    one = compared(path, points, **options)  # type: ignore[arg-type]
    one.write(day=DAY, prune=prune)
    return told(one)


def told(one: Draft) -> list[tuple[str, ...]]:
    return [(c.kind, c.key, c.option) if c.option else (c.kind, c.key) for c in one.difference.changes]


@pytest.fixture(params=["tags.yaml", "tags.csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / str(request.param)
    written(made)
    return made


def replaced(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text, text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_second_run_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    noted = memory.path_of(path).read_bytes()
    assert written(path) == []
    assert (path.read_bytes(), memory.path_of(path).read_bytes()) == (before, noted)
    assert compared(path, FIRST).difference.same == 4


def test_what_the_device_changed_is_changed_and_told(path: Path) -> None:
    now = [
        point("temp", "nsu=urn:a;s=Temp", "float64", unit="K", label="Winding left"),
        FIRST[1],
        point("mode", "nsu=urn:a;s=Mode", "int32", enum={0: "idle", 1: "run", 2: "fault"}),
        FIRST[3],
        point("new", "nsu=urn:a;s=New", "bool"),
    ]
    assert written(path, now) == [
        ("retyped", "temp", "type"),
        ("unit", "temp", "unit"),
        ("changed", "temp", "label"),
        ("changed", "mode", "enum"),
        ("added", "new"),
    ]
    assert compared(path, now).difference.same == 5
    assert "float64" in path.read_text(encoding="utf-8")


def test_edits_stay_and_the_device_is_told_where_both_changed(tmp_path: Path) -> None:
    path = tmp_path / "tags.yaml"
    written(path)
    replaced(path, "temp: {", "winding:   {name: winding_temp, limits: {high: 90}, scan: 100ms, deadband: 0.5,  ")
    replaced(path, "unit: rpm", "unit: 1/min  ")
    replaced(path, "label: Winding", "label: 主モータ")
    edited = path.read_text(encoding="utf-8")
    assert written(path) == []
    assert path.read_text(encoding="utf-8") == edited
    # Both changed: the file stays. `1/min` is not what the server said, so the edit was meant.
    now = [
        point("temp", "nsu=urn:a;s=Temp", unit="°C", label="Winding 2"),
        point("speed", "nsu=urn:a;s=Speed", unit="Hz"),
        *FIRST[2:],
    ]
    assert written(path, now) == [("kept", "winding", "label"), ("kept", "speed", "unit")]
    assert path.read_text(encoding="utf-8") == edited
    assert written(path, now) == [], "it is told once"


def test_an_edit_of_another_option_does_not_stop_a_change(path: Path) -> None:
    replaced(path, "°C", "K")
    assert written(path, [point("temp", "nsu=urn:a;s=Temp", "float64", unit="°C", label="Winding"), *FIRST[1:]]) == [
        ("retyped", "temp", "type")
    ]
    assert "°C" not in path.read_text(encoding="utf-8")


def test_removed_tags_are_marked_stay_marked_and_come_back(path: Path) -> None:
    before = path.read_bytes()
    assert written(path, FIRST[1:]) == [("removed", "temp")]
    assert f"# gone since {DAY}: " in path.read_text(encoding="utf-8")
    assert written(path, FIRST[1:]) == [], "a tag that is marked is no difference any more"
    assert written(path, FIRST) == [("back", "temp")]
    assert path.read_bytes() == before


def test_prune_takes_them_out_and_forgets_them(path: Path) -> None:
    written(path, FIRST[1:])
    written(path, FIRST[2:], prune=True)
    text = path.read_text(encoding="utf-8")
    assert ("Temp" in text, "Speed" in text, "Mode" in text, "gone" in text) == (False, False, True, False)
    assert written(path, FIRST) == [("added", "temp"), ("added", "speed")]


def test_a_walk_of_another_scope_or_one_that_broke_off_says_nothing_of_the_others(path: Path) -> None:
    before = path.read_bytes()
    for options in ({"whole": False}, {"scope": "narrow"}):
        one = compared(path, FIRST[:1], **options)  # type: ignore[arg-type]
        assert (told(one), one.difference.not_asked) == ([], 3)
        one.write(day=DAY)
    assert path.read_bytes() == before
    # A control: the same walk, whole and of the old scope, finds them gone; `temp` belongs to the narrow scope now.
    assert written(path, []) == [("removed", "speed"), ("removed", "mode"), ("removed", "robot-3/axis1/torque")]


def test_deleted_tags_and_tags_in_comments_stay_out(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [f"# {line}" if "s=Mode" in line else line for line in lines if "s=Speed" not in line]
    path.write_text("".join(kept), encoding="utf-8")
    before = path.read_bytes()
    assert written(path) == []
    assert path.read_bytes() == before
    assert compared(path, FIRST).difference.left_out == 2
    assert written(path, again=True) == [("added", "speed")], "what stands in a comment stays there"


def test_tags_in_comments_stay_out_without_the_memory_too(path: Path) -> None:
    replaced(path, "mode", "# mode") if path.suffix == ".yaml" else replaced(path, "\nmode", "\n#mode")
    memory.path_of(path).unlink()
    assert written(path) == []


def test_a_new_address_of_the_same_name_is_the_same_tag(path: Path) -> None:
    moved = [point("temp", "nsu=urn:b;s=Temp", unit="°C", label="Winding"), *FIRST[1:]]
    assert written(path, moved) == [("readdressed", "temp", "address")]
    text = path.read_text(encoding="utf-8")
    assert ("nsu=urn:b;s=Temp" in text, "nsu=urn:a;s=Temp" in text, "gone" in text) == (True, False, False)


def test_a_renamed_tag_is_followed_to_its_new_address(tmp_path: Path) -> None:
    path = tmp_path / "tags.yaml"
    written(path)
    replaced(path, "temp: {", "winding: {")
    assert written(path, [point("temp", "nsu=urn:b;s=Temp", unit="°C", label="Winding"), *FIRST[1:]]) == [
        ("readdressed", "winding", "address")
    ]


def test_without_memory_the_file_counts_and_differences_are_told(path: Path) -> None:
    memory.path_of(path).unlink()
    replaced(path, "rpm", "Hz")
    before = path.read_bytes()
    assert written(path) == [("kept", "speed", "unit")]
    assert path.read_bytes() == before
    assert written(path) == []


def test_names_are_unique_and_do_not_depend_on_the_order() -> None:
    points = [point("a", f"nsu=urn:a;s={n}") for n in ("x", "y", "z")] + [
        point("a_2", "nsu=urn:a;s=w"),
        point("A", "nsu=urn:a;s=v"),
    ]
    keys = {entry.identity: entry.key for entry in entries(points, "opcua")}
    assert keys == {entry.identity: entry.key for entry in entries(points[::-1], "opcua")}
    assert len({key.casefold() for key in keys.values()}) == 5
    assert keys["nsu=urn:a;s=w"] == "a_2"


def test_a_new_tag_never_takes_the_path_of_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "tags.yaml"
    path.write_text('mine: {name: torque, asset: Robot-3/Axis1, address: "nsu=urn:a;s=mine", type: bool}\ntemp: {address: i=7}\n')
    written(path)
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "enterprise: acme\nsite: osaka\ngateway: gw\nadapters:\n"
        "  robot: {kind: opcua, endpoint: 'opc.tcp://127.0.0.1:4840', tags: {file: tags.yaml}}\nsinks: {lake: {kind: parquet, location: lake}}\n"
    )
    configuration, diagnostics = examine(plant)
    assert configuration is not None, [str(one) for one in diagnostics]
    assert sorted(tag.path for tag in configuration.tags) == [
        "acme/osaka/Robot-3/Axis1/torque",
        "acme/osaka/robot-3/axis1/torque_2",
        "acme/osaka/robot/mode",
        "acme/osaka/robot/speed",
        "acme/osaka/robot/temp",
    ]


def test_spellings_of_one_address_are_one_tag(tmp_path: Path) -> None:
    path = tmp_path / "drive.yaml"
    path.write_text(
        "speed: {address: 40001, type: int16}\nagain: {address: 'hr:0x0', type: uint16}\ntemp: {address: '0x10', type: int16}\n"
    )
    found = entries([point("hr_0", "hr:0", "int16"), point("hr_16", "hr:16", "int16")], "modbus")
    one = draft(path, found, "modbus", scope="", whole=True)
    assert [(c.kind, c.key) for c in one.difference.changes] == [("kept", "again"), ("removed", "temp"), ("added", "hr_16")]


def test_elements_and_fields_of_a_value_that_is_there_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag may be a part of the value at an address: then the address alone is what a walk finds."""
    from gateway.discovery import writing

    def identity(options: Mapping[str, object]) -> str:
        return f"{options['address']}[{options['index']}]" if "index" in options else str(options["address"])

    monkeypatch.setattr(writing, "identity_of", lambda kind: identity)
    path = tmp_path / "tags.yaml"
    path.write_text("first: {address: nsu=urn:a;s=Arr, index: 0}\nthird: {address: nsu=urn:a;s=Arr, index: 2}\n")
    one = draft(path, entries([point("arr", "nsu=urn:a;s=Arr")], "opcua"), "opcua", scope="", whole=True)
    assert (one.difference.changes, one.difference.same) == ([], 2)


def test_what_somebody_writes_meanwhile_is_not_overwritten(path: Path) -> None:
    one = compared(path, FIRST[1:])
    path.write_text(path.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="changed by somebody else"):
        one.write(day=DAY)


def test_a_memory_that_cannot_be_read_is_named(path: Path) -> None:
    for broken in ("{", "[]", json.dumps({"version": 9, "tags": {}}), json.dumps({"version": 1, "tags": {"a": 1}})):
        memory.path_of(path).write_text(broken)
        with pytest.raises(ConfigError, match=r"found\.json"):
            compared(path, FIRST)


def test_5000_tags_are_compared_and_written_in_little_time(tmp_path: Path) -> None:
    path = tmp_path / "tags.yaml"
    points = [point(f"t{n}", f"nsu=urn:a;s=T{n}", unit="°C", asset=f"a/m-{n % 50}") for n in range(5000)]
    written(path, points)
    assert len(written(path, [point(p.name, p.options["address"], "float64", p.asset, unit="K") for p in points])) == 10_000
