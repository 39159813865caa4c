"""A tag file in YAML, edited in place: only the characters of what changes are touched, so comments, order, alignment and quotes stay.

The places of values come from the C parser (a file of 5,000 tags in 0.15 s, where a comment-keeping loader needs seconds and
evens out the columns that people have lined up). The result is parsed again and compared with what was meant before anybody writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from gateway.config import document
from gateway.config.places import Section
from gateway.config.report import Report
from gateway.config.source import Source
from schemas.errors import ConfigError

from .points import Entry
from .scalars import flow, text
from .tagfile import GONE, Written, gone_mark, switched_off


class YamlTags:
    """The tags of a YAML file. Raises ConfigError for a file that is not a mapping of tags."""

    def __init__(self, path: Path, content: str) -> None:
        self._bom = "\ufeff" if content.startswith("\ufeff") else ""
        self._path, self._content = path, content.removeprefix("\ufeff")
        self._break = "\r\n" if "\r\n" in content else "\n"
        self._nodes: dict[str, tuple[ScalarNode, Node]] = {}
        self._wanted: dict[str, dict[str, Any]] = {}
        self._fixed: dict[str, str] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._marks: dict[str, str | None] = {}
        self._removed: list[str] = []
        self._added: list[Entry] = []
        self._parse()

    @property
    def written(self) -> list[Written]:
        """The tags, in the order of the file."""
        return [
            Written(key, options, self._mark_line(key) is not None, self._fixed.get(key, ""))
            for key, options in self._wanted.items()
            if key in self._nodes
        ]

    @property
    def off(self) -> frozenset[str]:
        """Addresses in comments."""
        found = (switched_off(line) for line in self._content.splitlines())
        return frozenset(address for address in found if address is not None)

    def set(self, key: str, option: str, value: object) -> None:
        """One option of a tag."""
        self._changed.setdefault(key, {})[option] = value
        self._wanted[key][option] = value

    def add(self, entry: Entry) -> None:
        """A new tag at the end."""
        self._added.append(entry)
        self._wanted[entry.key] = dict(entry.options)

    def mark(self, key: str, day: str | None) -> None:
        """Mark a tag as gone, or take the mark away."""
        self._marks[key] = day

    def remove(self, key: str) -> None:
        """Take a tag out with its mark."""
        self._removed.append(key)
        del self._wanted[key]

    def text(self) -> str:
        """The file with all changes. Raises ConfigError where its layout cannot be edited by a program."""
        edits: list[tuple[int, int, str]] = []
        for key, options in self._changed.items():
            if key not in self._removed:
                edits += self._options_edits(key, options)
        for key, day in self._marks.items():
            if key not in self._removed:
                edits.append(self._mark_edit(key, day))
        edits += [self._removal(key) for key in self._removed]
        pieces: list[str] = []
        at = 0
        for begin, end, new in sorted(edits):
            pieces += (self._content[at:begin], new)
            at = end
        made = "".join([*pieces, self._content[at:]])
        made += self._appended(made)
        self._prove(made)
        return self._bom + made

    def _parse(self) -> None:
        source, report = Source(str(self._path), self._path, self._content), Report()
        empty = not any(line.strip() and not line.lstrip().startswith("#") for line in self._content.splitlines())
        if empty:
            return
        section = document.parse(source, report)
        if section is None or report.failed:
            raise ConfigError(
                "the file cannot be read, so it is not overwritten",
                where=str(self._path),
                hint="; ".join(diagnostic.message for diagnostic in report.finished()[:3]),
            )
        root = yaml.compose(self._content, Loader=getattr(yaml, "CLoader", yaml.Loader))
        assert isinstance(root, MappingNode)
        seen: set[int] = set()
        for key_node, value_node in root.value:
            key = str(key_node.value)
            options = section.get(key)
            if not isinstance(options, Section):
                raise ConfigError(
                    f"{key!r} is not a tag", where=f"{self._path}:{key_node.start_mark.line + 1}", hint="a tag is a name with options below it"
                )  # fmt: skip
            self._nodes[key], self._wanted[key] = (key_node, value_node), _plain(options)
            if root.flow_style or id(value_node) in seen or not isinstance(value_node, MappingNode):
                self._fixed[key] = (
                    "the file is one mapping in braces" if root.flow_style else "it takes its options from an anchor"
                )
            elif len(value_node.value) != len(options) or any(name.value == "<<" for name, _ in value_node.value):
                self._fixed[key] = "it takes options from an anchor"
            elif self._content[value_node.start_mark.index] in "&*!":
                self._fixed[key] = "it is an anchor for others"
            seen.add(id(value_node))

    def _options_edits(self, key: str, options: Mapping[str, Any]) -> list[tuple[int, int, str]]:
        node = self._nodes[key][1]
        assert isinstance(node, MappingNode)
        places = {str(name.value): value for name, value in node.value}
        edits = [
            (places[option].start_mark.index, self._end(places[option]), flow(value))
            for option, value in options.items()
            if option in places
        ]
        new = [(option, value) for option, value in options.items() if option not in places]
        if new and node.flow_style:
            at = self._end(node.value[-1][1]) if node.value else node.start_mark.index + 1
            written = ", ".join(f"{option}: {flow(value)}" for option, value in new)
            edits.append((at, at, f", {written}" if node.value else written))
        elif new:
            at = self._line_end(self._end(node.value[-1][1]))
            indent = " " * node.value[0][0].start_mark.column
            edits.append((at, at, "".join(f"{self._break}{indent}{option}: {flow(value)}" for option, value in new)))
        return edits

    def _mark_line(self, key: str) -> tuple[int, int] | None:
        """Begin and end of the comment line right above a tag that says that it is gone."""
        begin = self._line_begin(self._nodes[key][0].start_mark.index)
        if begin == 0:
            return None
        above = self._line_begin(begin - 1)
        return (above, begin) if GONE.match(self._content[above:begin]) else None

    def _mark_edit(self, key: str, day: str | None) -> tuple[int, int, str]:
        found = self._mark_line(key)
        if day is None:
            return (*found, "") if found else (0, 0, "")
        begin = self._line_begin(self._nodes[key][0].start_mark.index)
        indent = " " * self._nodes[key][0].start_mark.column
        return (begin, begin, "") if found else (begin, begin, f"{indent}{gone_mark(day)}{self._break}")

    def _removal(self, key: str) -> tuple[int, int, str]:
        key_node, value_node = self._nodes[key]
        begin = self._line_begin(key_node.start_mark.index)
        found = self._mark_line(key)
        end = self._line_end(max(self._end(value_node), key_node.end_mark.index))
        end += len(self._break) if self._content.startswith(self._break, end) else 0
        return found[0] if found else begin, end, ""

    def _appended(self, made: str) -> str:
        if not self._added:
            return ""
        column = next((key.start_mark.column for key, _ in self._nodes.values()), 0)
        lines = "" if not made or made.endswith(("\n", "\r")) else self._break
        asset = next((options.get("asset") for options in reversed([w.options for w in self.written])), None)
        for entry in self._added:
            mine = entry.options.get("asset")
            if mine != asset and mine is not None:
                lines += f"{self._break if made + lines else ''}{' ' * column}# {_comment(str(mine))}{self._break}"
            asset = mine
            note = f"  # {_comment(entry.note)}" if entry.note else ""
            lines += f"{' ' * column}{text(entry.key)}: {flow(entry.options)}{note}{self._break}"
        return lines

    def _prove(self, made: str) -> None:
        """The text says what was meant, as the gateway will read it."""
        report = Report()
        wanted = {key: _spelled(options) for key, options in self._wanted.items()}
        empty = not any(line.strip() and not line.lstrip().startswith("#") for line in made.splitlines())
        section = None if empty else document.parse(Source(str(self._path), self._path, made), report)
        found = {key: _spelled(_plain(below)) for key, below in (section or {}).items() if isinstance(below, Section)}
        if report.failed or found != wanted or (section is not None and len(section) != len(found)):
            wrong = next((key for key in wanted if found.get(key) != wanted[key]), next(iter(found.keys() - wanted.keys()), ""))
            raise ConfigError(
                f"the layout around {wrong!r} cannot be edited by a program, so nothing is written",
                where=str(self._path),
                hint="write to another file with --out and compare, or put this tag on one line",
            )

    def _end(self, node: Node) -> int:
        """Behind the last character of a value; the parser puts the end of a block at the beginning of what follows."""
        if isinstance(node, ScalarNode):
            begin, end = int(node.start_mark.index), int(node.end_mark.index)
            return begin + len(self._content[begin:end].rstrip()) if node.style in ("|", ">") else end
        if not isinstance(node, CollectionNode) or node.flow_style:
            return int(node.end_mark.index)
        last = node.value[-1] if node.value else None
        if last is None:
            return int(node.start_mark.index)
        return self._end(last[1] if isinstance(last, tuple) else last)

    def _line_begin(self, index: int) -> int:
        return self._content.rfind("\n", 0, index) + 1

    def _line_end(self, index: int) -> int:
        """At the line break behind `index`, or the end of the file."""
        end = self._content.find("\n", index)
        if end < 0:
            return len(self._content)
        return end - 1 if end > 0 and self._content[end - 1] == "\r" else end


def _plain(section: Section) -> dict[str, Any]:
    """The options of a tag as plain data, with `$${` as what it stands for."""
    return {key: _value(value) for key, value in section.items()}


def _value(value: Any) -> Any:
    if isinstance(value, Section):
        return _plain(value)
    if isinstance(value, list):
        return [_value(one) for one in value]
    return value.replace("$${", "${") if isinstance(value, str) else value


def _spelled(value: Any) -> Any:
    """One spelling for what YAML reads the same: keys as text, whole numbers as such."""
    if isinstance(value, Mapping):
        return {str(key): _spelled(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _comment(words: str) -> str:
    return "".join(one if one.isprintable() else " " for one in " ".join(words.split()))
