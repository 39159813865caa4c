"""Asset paths: what is one, path <-> topic, and patterns against a slow reference."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.asset import from_topic, from_topic_level, is_slug, join, matches, matches_any, segments, to_topic, topic_level

PARTS = (
    st.text(st.characters(exclude_characters="/", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
    .filter(lambda part: part == part.strip())
    .filter(lambda part: part not in (".", ".."))
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)


@given(PATHS)
def test_path_to_topic_and_back(path: str) -> None:
    topic = to_topic(path)
    assert from_topic(topic) == path
    assert topic.count("/") == path.count("/")
    assert topic.isascii()
    assert not set(topic) & set("#+$")


@given(st.text(max_size=20, alphabet=string.printable + "é%2f"))
def test_a_topic_names_one_path_or_is_refused(topic: str) -> None:
    try:
        path = from_topic(topic)
    except ValueError:
        return
    assert to_topic(path) == topic


@given(PARTS, PARTS)
def test_levels_are_a_bijection(one: str, other: str) -> None:
    assert from_topic_level(topic_level(one)) == one
    assert (topic_level(one) == topic_level(other)) == (one == other)


@pytest.mark.parametrize("level", ["a%2fb", "+", "#", "ü", "%41", "%", "%ff"])
def test_levels_that_are_never_made_are_refused(level: str) -> None:
    with pytest.raises(ValueError, match=r"level|decode"):
        from_topic_level(level)


def test_topics_people_read() -> None:
    assert to_topic("acme/osaka/press 7/temp+") == "acme/osaka/press 7/temp%2B"
    assert to_topic("acme/大阪/温度") == "acme/%E5%A4%A7%E9%98%AA/%E6%B8%A9%E5%BA%A6"


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "a/./b", "../a", " a", "a /b", "a\tb", "a\x00b", "a\ud800", "a\x85b"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match=r"empty part|not a usable part"):
        segments(path)


def test_join_checks_and_leaves_empty_parts_out() -> None:
    assert join("acme", "osaka", "", "line/press", "temp") == "acme/osaka/line/press/temp"
    with pytest.raises(ValueError, match="usable"):
        join("acme", "..", "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("press-07", True),
        ("a", True),
        ("0", True),
        ("-a", False),
        ("a-", False),
        ("A", False),
        ("ä", False),
        ("a_b", False),
        ("", False),
    ],
)
def test_slugs(text: str, expected: bool) -> None:
    assert is_slug(text) is expected
    assert not is_slug(text + "\n")


def _fits(path: list[str], pattern: list[str]) -> bool:
    """The rule in its plainest form."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        least = 1 if len(pattern) == 1 else 0
        return any(_fits(path[n:], pattern[1:]) for n in range(least, len(path) + 1))
    return bool(path) and _part_fits(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _part_fits(part: str, pattern: str) -> bool:
    if not pattern:
        return not part
    if pattern[0] == "*":
        return any(_part_fits(part[n:], pattern[1:]) for n in range(len(part) + 1))
    return bool(part) and pattern[0] in (part[0], "?") and _part_fits(part[1:], pattern[1:])


@given(
    st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.one_of(st.just("**"), st.text("ab.*?", min_size=1, max_size=3)), min_size=1, max_size=4),
)
def test_patterns_mean_what_they_say(path: list[str], pattern: list[str]) -> None:
    assert matches("/".join(path), "/".join(pattern)) == _fits(path, pattern)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("acme/osaka/stamping/line-2/press-07/motor_temp", True),
        ("stamping/**/motor_temp", True),
        ("**/motor_temp", True),
        ("**", True),
        ("stamping/*/*/motor_*", True),
        ("stamping/motor_temp", False),
        ("osaka/**", False),
        ("motor_temp", False),
    ],
)
def test_patterns_may_leave_enterprise_and_site_out(pattern: str, expected: bool) -> None:
    assert matches_any("acme/osaka/stamping/line-2/press-07/motor_temp", [pattern]) is expected


def test_a_path_of_enterprise_and_site_only_has_nothing_below() -> None:
    assert not matches_any("acme/osaka", ["osaka"])
    assert matches_any("acme/osaka", ["acme/*"])
    assert not matches_any("acme/osaka", [])
