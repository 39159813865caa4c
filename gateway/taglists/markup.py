"""XML of files from elsewhere: no document type, no entities, bounded depth; so nothing is expanded, fetched or endless."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree
from xml.parsers import expat

from schemas.errors import ConfigError

DEEPEST: Final = 100


class _Forbidden(Exception):
    pass


def parse(raw: bytes, where: str) -> ElementTree.Element:
    """The root element. Raises ConfigError as `parse_lines` does."""
    return parse_lines(raw, where)[0]


def parse_lines(raw: bytes, where: str) -> tuple[ElementTree.Element, dict[ElementTree.Element, int]]:
    """The root element, and the line on which each element begins.

    Raises ConfigError for what is not well-formed, declares a document type, or nests deeper than `DEEPEST`.
    """
    depth = 0
    lines: list[int] = []

    def forbid(*_: object) -> None:
        raise _Forbidden("it declares a document type, which an export does not")

    def begin(*_: object) -> None:
        nonlocal depth
        depth += 1
        lines.append(parser.CurrentLineNumber)
        if depth > DEEPEST:
            raise _Forbidden(f"it nests deeper than {DEEPEST}")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = forbid
    parser.EntityDeclHandler = forbid
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(raw, True)
        root = ElementTree.fromstring(raw)  # the pass above refuses document types, and with them every entity
        return root, dict(zip(root.iter(), lines, strict=True))
    except _Forbidden as error:
        raise ConfigError(f"is not read: {error}", where=where, hint="export it again from the tool") from error
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise ConfigError(f"is not XML: {error}", where=where, hint="export it again from the tool") from error


def local(tag: str) -> str:
    """The name of an element without its namespace."""
    return tag.rpartition("}")[2]
