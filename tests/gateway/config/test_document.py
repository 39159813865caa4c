"""YAML 1.2 to plain data with places."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import document
from gateway.config.places import Section, find
from gateway.config.report import Report
from gateway.config.source import Source


def parsed(text: str) -> tuple[Section | None, Report]:
    report = Report()
    return document.parse(Source("plant.yaml", Path("plant.yaml"), text), report), report


def value(text: str) -> object:
    found, report = parsed(f"a: {text}\n")
    assert found is not None, report.finished()
    return found["a"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("off", "off"), ("NO", "NO"), ("yes", "yes"), ("on", "on"), ("true", True), ("True", True), ("FALSE", False), ("tRUE", "tRUE"),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("017", 17), ("+5", 5), ("-5", -5),
        ("1_000", "1_000"), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("1.5e-3", 0.0015), ("-.5E+1", -5.0), (".", "."), ("-x", "-x"),
        ("1e", "1e"), ("~", None), ("null", None), ("Null", None), ("", None), ('"5"', "5"), ("'true'", "true"), ('""', ""), ("nan", "nan"),
        ("1.2.3", "1.2.3"), ("!!int 5", 5), ("°C", "°C"), ("[1, two, ~]", [1, "two", None]), ("{b: 1}", {"b": 1}), ("|\n  x\n  y\n", "x\ny\n"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_core_schema(written: str, read: object) -> None:
    found = value(written)
    assert found == read
    assert type(found) in (type(read), document.Section, document.Items)


@pytest.mark.parametrize("key", ["on", "off", "0", "0x10", "1.5", "true", "null", "~", "007"])
def test_keys_are_the_text_that_is_written(key: str) -> None:
    found, _ = parsed(f"{key}: 1\n")
    assert list(found or ()) == [key]


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"], exclude_characters="\ufeff"))
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT.filter(bool), below, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXT.filter(bool), DATA, min_size=1, max_size=5))
def test_json_is_read_as_it_is(data: dict[str, Any]) -> None:
    """JSON is YAML: whatever json writes comes back, the text of each scalar stands where its place says."""
    text = json.dumps(data, ensure_ascii=False)
    found, report = parsed(text)
    assert report.finished() == []
    assert found is not None
    assert json.dumps(found, ensure_ascii=False) == text
    for key in found:
        place = found.spots[key].key()
        assert text[place.column : place.column + place.length] == json.dumps(key, ensure_ascii=False)


@given(st.text(alphabet=st.sampled_from(" \t\n\r:-#{}[],&*!|>'\"%@`?ab0.~<é\u2028\x00\ufeff")))
def test_no_text_makes_it_fail(text: str) -> None:
    found, report = parsed(text)
    diagnostics = report.finished()
    assert found is not None or any(diagnostic.level == "error" for diagnostic in diagnostics)
    for diagnostic in diagnostics:
        assert diagnostic.render()


def test_places_are_lines_and_columns_of_the_file() -> None:
    found, _ = parsed("# 温度\r\na:\r\n  温度: {b: [x, 主モータ]}\r\n")
    assert found is not None
    spot = find(found, ("a", "温度", "b", 1)).spot
    assert spot is not None
    assert spot.value() == (2, 14, 4)
    assert find(found, ("a", "温度", "b")).spot.key() == (2, 7, 1)  # type: ignore[union-attr]
    assert find(found, ("a", "nothing", "b")).loc == ("a",)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    from gateway.config.source import read

    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    report = Report()
    found = document.parse(read(tmp_path / "bom.yaml", "bom.yaml"), report)
    assert found == {"a": 1}
    assert found.spots["a"].key() == (0, 0, 1)


def test_merge_keys_and_aliases() -> None:
    found, report = parsed("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 5}\nd: {<<: *a}\ne: [*a, *a]\n")
    assert report.finished() == []
    assert found is not None
    assert found["c"] == {"x": 5, "y": 2, "z": 4}
    assert found["d"] == {"x": 1, "y": 2}
    first, second = found["e"]  # type: ignore[misc]
    assert first == second
    assert first is not second  # what is changed at one place stays as it is at the other
    assert parsed("a: {<<: 5}\n")[1].finished()[0].code == "E011"


def test_a_quoted_merge_sign_is_a_key() -> None:
    assert parsed('a: {"<<": 1}\n')[0] == {"a": {"<<": 1}}


def test_aliases_may_be_used_often_but_not_without_end() -> None:
    many = "x: &x {a: 1, b: 2}\n" + "".join(f"y{i}: *x\n" for i in range(1000))
    assert parsed(many)[1].finished() == []
    found, report = parsed("a: &a {b: [*a]}\n")
    assert (found, report.finished()[0].code) == (None, "E005")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_and_does_not_overflow(opening: str) -> None:
    text = opening * 20_000 if opening in "[{a: " else "".join(" " * (2 * i) + opening + "\n" for i in range(500))
    found, report = parsed(text)
    assert found is None
    assert report.finished()[0].code in ("E002", "E005")


def test_numbers_without_end_do_not_overflow() -> None:
    assert parsed(f"a: {'9' * 5000}\n")[0] is not None
    assert parsed("a: 1e999\n")[1].finished()[0].code == "E006"


def test_numbers_are_finite() -> None:
    for written in (".inf", "-.INF", ".nan"):
        found, report = parsed(f"a: {written}\n")
        assert [d.code for d in report.finished()] == ["E006"]
        assert found is not None
        assert not (isinstance(found["a"], float) and math.isfinite(found["a"]))


def test_the_parser_without_libyaml_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from yaml.composer import Composer
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Plain(Reader, Scanner, Parser, Composer):
        def __init__(self, stream: str) -> None:
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)
            Composer.__init__(self)

    text = Path("examples/plant.yaml").read_text(encoding="utf-8")
    usual, _ = parsed(text)
    monkeypatch.setattr(document, "_Composer", type("Slow", (document._Rules, Plain), {}))
    slow = parsed(text)[0]
    assert slow == usual
    assert slow is not None
    assert usual is not None
    for loc in [("site",), ("adapters", "press-07", "tags", "mode", "enum", "1"), ("models", "early-warning", "tags", 0)]:
        assert find(slow, loc).spot.value() == find(usual, loc).spot.value()  # type: ignore[union-attr]
