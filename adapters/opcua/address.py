"""Addresses of OPC UA nodes: NodeId text, NodeId with namespace URI, or browse path. Pure; imports no library.

The texts are those of OPC 10000-6, 5.3.1.10 (`ns=2;s=Line.Temp`, `nsu=http://acme.example/plant;i=7`) and, for paths, names with
their namespace index below the root folder (`/Objects/2:Plant/2:Robot/2:Temp`; no index means 0; `&` escapes `/`, `:` and `&`).
A step may name its namespace by URI instead, as qualified names do (`/Objects/nsu=http://acme.example/plant;Robot`). In a URI
`%3B` stands for a semicolon and `%25` for a percent sign.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NODE: Final = re.compile(r"(?:ns=(?P<index>[0-9]+);|nsu=(?P<uri>[^;]+);)?(?P<kind>[isgb])=(?P<id>.+)", re.DOTALL)
_STEP: Final = re.compile(r"(?:nsu=(?P<uri>[^;]+);|(?P<index>[0-9]+):)?(?P<name>(?:[^&:/]|&.)+)", re.DOTALL)
_PATH_PARTS: Final = re.compile(r"/((?:nsu=[^;]+;)?(?:[^&/]|&.)*)", re.DOTALL)
_HINT: Final = "write ns=2;s=Line.Temp, nsu=http://acme.example/plant;s=Line.Temp, or /Objects/2:Plant/2:Temp"

Steps = tuple[tuple[int, str], ...]
"""A path as it is sent: namespace index and browse name of each step."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A NodeId. `uri` is None when the namespace is given by `index`; else the index is looked up at each connect."""

    index: int
    uri: str | None
    identifier: int | str | uuid.UUID | bytes

    def __str__(self) -> str:
        space = f"nsu={escape_uri(self.uri)};" if self.uri is not None else f"ns={self.index};" if self.index else ""
        match self.identifier:
            case int():
                return f"{space}i={self.identifier}"
            case str():
                return f"{space}s={self.identifier}"
            case bytes():
                return f"{space}b={base64.b64encode(self.identifier).decode()}"
            case _:
                return f"{space}g={self.identifier}"


@dataclass(frozen=True, slots=True)
class PathAddress:
    """A browse path below the root folder: (namespace index or URI, browse name) of each step."""

    steps: tuple[tuple[int | str, str], ...]

    def __str__(self) -> str:
        return "".join(f"/{_space(space)}{_escape(name)}" for space, name in self.steps)

    @property
    def uris(self) -> tuple[str, ...]:
        """The namespaces that are given by URI, in order."""
        return tuple(dict.fromkeys(space for space, _ in self.steps if isinstance(space, str)))

    def indexed(self, spaces: Mapping[str, int]) -> Steps | None:
        """The steps with the indices of this session; None when it does not have one of the namespaces."""
        steps = tuple((spaces.get(space, -1) if isinstance(space, str) else space, name) for space, name in self.steps)
        return None if any(index < 0 for index, _ in steps) else steps


Address = NodeAddress | PathAddress


def parse(text: str) -> Address:
    """The address that `text` spells; `str(parse(text))` is its canonical spelling. Raises ValueError with the way to write it."""
    return _path(text) if text.startswith("/") else _node(text)


def _node(text: str) -> NodeAddress:
    match = _NODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an OPC UA address; {_HINT}")
    index = int(match["index"] or 0)
    if index > 0xFFFF:
        raise ValueError(f"{text!r}: a namespace index is at most 65535")
    try:
        identifier = _identifier(match["kind"], match["id"])
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"{text!r}: {match['id']!r} is not an identifier of kind {match['kind']}= ({error})") from error
    return NodeAddress(index, None if match["uri"] is None else _unescape_uri(match["uri"]), identifier)


def _identifier(kind: str, text: str) -> int | str | uuid.UUID | bytes:
    if kind == "s":
        return text
    if kind == "g":
        return uuid.UUID(text)
    if kind == "b":
        return base64.b64decode(text, validate=True)
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFF_FFFF:
        raise ValueError("i= takes a whole number from 0 to 4294967295")
    return int(text)


def _path(text: str) -> PathAddress:
    parts = _PATH_PARTS.findall(text)
    if "".join(f"/{part}" for part in parts) != text:
        raise ValueError(f"{text!r} ends inside an escape; {_HINT}")
    steps: list[tuple[int | str, str]] = []
    for part in parts:
        match = _STEP.fullmatch(part)
        if match is None or int(match["index"] or 0) > 0xFFFF:
            raise ValueError(f"{text!r}: {part!r} is not a browse name like 2:Robot; {_HINT}")
        space = int(match["index"] or 0) if match["uri"] is None else _unescape_uri(match["uri"])
        steps.append((space, re.sub(r"&(.)", r"\1", match["name"], flags=re.DOTALL)))
    return PathAddress(tuple(steps))


def _space(space: int | str) -> str:
    if isinstance(space, str):
        return f"nsu={escape_uri(space)};"
    return f"{space}:" if space else ""


def _escape(name: str) -> str:
    escaped = re.sub(r"([&:/])", r"&\1", name)
    return f"&{escaped}" if escaped.startswith("nsu=") else escaped


def escape_uri(uri: str) -> str:
    """A namespace URI as it stands behind `nsu=`."""
    return uri.replace("%", "%25").replace(";", "%3B")


def _unescape_uri(text: str) -> str:
    return re.sub("%3B", ";", text, flags=re.IGNORECASE).replace("%25", "%")
