"""PLC tag tables of TIA Portal in XML: the table's own export, and the one of TIA Openness (SimaticML)."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from schemas.errors import ConfigError

from .markup import local, parse_lines
from .rows import TagList, unit_in
from .types import typed


def read(raw: bytes, where: str) -> TagList:
    """The tags of the tables in the file; constants are named as left out. Raises ConfigError for another XML."""
    root, lines = parse_lines(raw, where)
    made = TagList("s7", "TIA Portal tag table")
    tables = [one for one in root.iter() if local(one.tag).casefold() == "tagtable"]
    openness = [one for one in root.iter() if local(one.tag) == "SW.Tags.PlcTagTable"]
    if not tables and not openness:
        raise ConfigError(
            f"is no tag table of TIA Portal (its root is <{local(root.tag)}>)",
            where=where,
            hint="in TIA Portal: PLC tags, Show all tags, Export",
        )
    for table in tables:
        for tag in table:
            number = lines[tag]
            name = "".join(tag.itertext()).strip() or tag.get("name", "")
            if local(tag.tag) == "Constant":
                made.refuse(number, name, "a constant: it has no address")
            elif local(tag.tag) == "Tag":
                _take(made, number, name, tag.get("addr", ""), tag.get("type", ""), tag.get("remark", ""))
    for table in openness:
        for tag in (one for one in table.iter() if local(one.tag) in ("SW.Tags.PlcTag", "SW.Tags.PlcUserConstant")):
            number = lines[tag]
            found = _attributes(tag)
            name = found.get("Name", "")
            if local(tag.tag) != "SW.Tags.PlcTag":
                made.refuse(number, name, "a constant: it has no address")
            else:
                _take(made, number, name, found.get("LogicalAddress", ""), found.get("DataTypeName", ""), _comment(tag))
    return made


def _take(made: TagList, number: int, name: str, address: str, kind: str, comment: str) -> None:
    comment = " ".join(comment.split())
    if not name or not address:
        made.refuse(number, name or address, "it has no name" if not name else "it has no address")
        return
    options = {"address": address.lstrip("%"), "type": typed(kind.strip('"'), "s7"), "description": comment}
    made.take(number, name, options, unit=unit_in(comment))


def _attributes(tag: Element) -> dict[str, str]:
    held = next((one for one in tag if local(one.tag) == "AttributeList"), None)
    return {local(one.tag): (one.text or "").strip() for one in held} if held is not None else {}


def _comment(tag: Element) -> str:
    """The first text of a comment that is not empty; there is one for each language of the project."""
    for text in (one for one in tag.iter() if local(one.tag) == "MultilingualText" and one.get("CompositionName") == "Comment"):
        for item in (one for one in text.iter() if local(one.tag) == "Text"):
            if (item.text or "").strip():
                return item.text or ""
    return ""
