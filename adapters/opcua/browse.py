"""Walks the address space of a server and tells its variables as points, pinned so that they survive a restart of the server.

Views and objects are browsed in batches with continuation points, one request at a time, below the server's own operation limits; each
node once, so that cycles end. Reads only (Browse, BrowseNext, Read, TranslateBrowsePaths).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua
from pydantic import ValidationError

from schemas.asset import matches
from schemas.errors import ConfigError
from schemas.naming import asset_path, tag_name
from schemas.plugin import Check, Place, Point, Settings

from .address import NodeAddress, PathAddress, parse
from .browsing import OBJECTS, BrowseOptions
from .config import DATA_TYPES, OpcuaConfig
from .connection import Connection, failures, open_connection, quiet_library
from .described import Description, describe
from .resolve import ServerFacts, read_facts, resolve
from .services import Batches, NodeKey, Reference, children, key_of, parent_of

MOST_LEFT_OUT_NAMES: Final = 5
_ROOT_FOLDER: Final = ua.NodeId(ua.ObjectIds.RootFolder)
Steps = tuple[tuple[int, str], ...]


@dataclass(slots=True)
class _LeftOut:
    """Variables that are told and not taken, by reason."""

    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        self.paths.setdefault(reason, []).append(path)

    def checks(self) -> list[Check]:
        return [
            Check("left out", "warning", f"{len(paths):,} {reason}: {_some(paths)}")
            for reason, paths in sorted(self.paths.items())
        ]


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - MOST_LEFT_OUT_NAMES
    return ", ".join(paths[:MOST_LEFT_OUT_NAMES]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class _Node:
    """A node on the way: its path from the root folder and below the walk's own root."""

    id: ua.NodeId
    steps: Steps
    depth: int
    reference: Reference | None = None  # how it was reached; None for the root


async def browse(options: BrowseOptions) -> AsyncGenerator[Check | Point | Settings, None]:
    """Every variable below the root that can be read, as a point, in the order in which the server lists them, level by level.

    Raises NotConnected when the server goes away, ConfigError for what a person must change.
    """
    quiet_library()
    config, place = _reached(options)
    connection = await open_connection(config, place.name, place.directory, place.base)
    try:
        async with failures(config.endpoint):
            walk = _Walk(connection, options, await read_facts(connection))
            yield _settings(config)
            async for told in walk.run():
                yield told
    finally:
        await connection.aclose()


def _reached(options: BrowseOptions) -> tuple[OpcuaConfig, Place]:
    """The connection, and where its certificates are. Raises ConfigError for options that do not fit together."""
    try:
        return options.config(), options.place()
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
    except OSError as error:
        raise ConfigError(f"the password file cannot be read: {error.strerror}", hint="--password-file names it") from error


def _settings(config: OpcuaConfig) -> Settings:
    """What the entry needs beside its endpoint to reach the server as this walk did; never a password."""
    options: dict[str, Any] = {}
    if config.secured and config.security is not None:
        options["security"] = config.security.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    if config.auth is not None:
        written = config.auth.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"password"})
        options["auth"] = written | ({"password": {"file": "secrets/opcua"}} if config.auth.password is not None else {})
    return Settings(options)


class _Walk:
    def __init__(self, connection: Connection, options: BrowseOptions, facts: ServerFacts) -> None:
        self._connection, self._options, self._facts = connection, options, facts
        self._uris = {index: uri for uri, index in facts.namespaces.items()}
        self._batches = Batches(connection, facts)
        self._left_out = _LeftOut()
        self._seen: set[NodeKey] = set()
        self._refused: dict[str, list[str]] = {}
        self._taken = 0
        self._base = 0  # steps of the walk's root

    async def run(self) -> AsyncGenerator[Check | Point | Settings, None]:
        root = await self._root()
        self._base = len(root.steps)
        self._seen.add(key_of(root.id))
        frontier = deque([root])
        full = False
        while frontier:
            batch = [frontier.popleft() for _ in range(min(len(frontier), self._batches.browse_size))]
            answers = await children(self._batches, [node.id for node in batch])
            variables: list[tuple[_Node, Sequence[Reference]]] = []
            for node, answer in zip(batch, answers, strict=True):
                if answer.status:
                    self._refused.setdefault(answer.status, []).append(self._shown(node))
                if node.reference is not None and node.reference.variable:
                    variables.append((node, [one for one in answer.references if one.is_property]))
                full |= self._descend(node, answer.references, frontier)
            async for point in self._points(variables):
                yield point
        for check in self._closing(full):
            yield check

    async def _root(self) -> _Node:
        try:
            address = parse(self._options.root)
        except ValueError as error:
            raise ConfigError(f"--root: {error}") from error
        found = await resolve(self._connection, self._facts, [address], [0])
        status = ua.StatusCode(found.refused[0]).name if 0 in found.refused else ""
        if not status:
            (name,) = await self._batches.read([(found.nodes[0], ua.AttributeIds.BrowseName)])
            status = "" if name.StatusCode is None or name.StatusCode.is_good() else str(name.StatusCode.name)
        if status:
            raise ConfigError(
                f"--root: the server has no {address} ({status})", hint="begin with /Objects, or copy a node id from a client"
            )
        steps = address.indexed(self._facts.namespaces) if isinstance(address, PathAddress) else None
        return _Node(found.nodes[0], steps if steps is not None else await self._steps_to(found.nodes[0]), 0)

    async def _steps_to(self, node: ua.NodeId) -> Steps:
        """The browse path of a node, upwards; as far as it leads."""
        steps: list[tuple[int, str]] = []
        seen = {key_of(node)}
        while key_of(node) != key_of(_ROOT_FOLDER) and len(steps) < self._options.depth:
            name, parent = await parent_of(self._batches, node)
            steps.insert(0, name)
            if parent is None or key_of(parent) in seen:
                break
            seen.add(key_of(parent))
            node = parent
        return tuple(steps)

    def _descend(self, node: _Node, references: Sequence[Reference], frontier: deque[_Node]) -> bool:
        """Put what is below a node on the way; True when there was no room for all of it."""
        options, full = self._options, False
        for reference in references:
            if reference.is_property and not options.properties:
                continue
            if reference.node.NamespaceIndex == 0 and not options.standard and not self._inside_standard(node):
                continue
            if (key := key_of(reference.node)) in self._seen:
                continue
            if len(self._seen) > options.max_nodes or node.depth >= options.depth:
                full = True
                continue
            self._seen.add(key)
            frontier.append(_Node(reference.node, (*node.steps, reference.name), node.depth + 1, reference))
        return full

    def _inside_standard(self, node: _Node) -> bool:
        """Whether somebody has asked for the standard's nodes by beginning among them, below the Server object for instance."""
        return self._options.root not in (OBJECTS, "i=85", "/") and node.id.NamespaceIndex == 0

    async def _points(self, variables: Sequence[tuple[_Node, Sequence[Reference]]]) -> AsyncGenerator[Point, None]:
        wanted = [(node, properties) for node, properties in variables if self._matches(node)]
        described = await describe(self._batches, [(node.id, properties) for node, properties in wanted])
        kept = []
        for (node, _), description in zip(wanted, described, strict=True):
            reason = _reason(description)
            if reason:
                self._left_out.add(reason, self._shown(node))
            else:
                kept.append((node, description))
        values = await self._batches.values([node.id for node, _ in kept]) if self._options.values else []
        for number, (node, description) in enumerate(kept):
            self._taken += 1
            yield self._point(node, description, _shown_value(values[number]) if values else "")

    def _matches(self, node: _Node) -> bool:
        path = self._shown(node)
        return not self._options.match or any(matches(path, pattern.lstrip("/")) for pattern in self._options.match)

    def _shown(self, node: _Node) -> str:
        """The path below the walk's root, by names alone."""
        return "/".join(name.replace("/", "_") for _, name in node.steps[self._base :]) or "/".join(
            name for _, name in node.steps
        )

    def _point(self, node: _Node, description: Description, value: str) -> Point:
        assert node.reference is not None
        names = [name for _, name in node.steps[self._base :]]
        options: dict[str, Any] = {"address": self._address(node), "type": description.tag_type}
        if description.unit:
            options["unit"] = description.unit
        if description.enum:
            options["enum"] = dict(description.enum)
        label = node.reference.label
        if label and label != names[-1]:
            options["label"] = label
        if description.text and description.text not in (label, names[-1]):
            options["description"] = description.text
        flat = self._options.flat
        asset = None if flat else asset_path(*names[:-1])
        return Point(tag_name(*names) if flat else tag_name(names[-1]), options, asset, value, "; ".join(description.notes))

    def _address(self, node: _Node) -> str:
        identifier = node.id.Identifier
        number = isinstance(identifier, int)
        by_path = self._options.pin == "path" or (self._options.pin == "auto" and number and node.id.NamespaceIndex != 0)
        path = self._path(node)
        if by_path and path is not None:
            return path
        uri = self._uris.get(node.id.NamespaceIndex)
        return str(NodeAddress(node.id.NamespaceIndex, uri if node.id.NamespaceIndex else None, identifier))

    def _path(self, node: _Node) -> str | None:
        """The browse path with namespace URIs; None where it does not begin at the root folder or has a name that paths cannot say."""
        if not node.steps or node.steps[0][1] not in ("Objects", "Types", "Views"):
            return None
        steps = tuple((self._uris.get(index, index) if index else 0, name) for index, name in node.steps)
        address = PathAddress(steps)
        with suppress(ValueError):
            return str(address) if parse(str(address)) == address else None
        return None

    def _closing(self, full: bool) -> list[Check]:
        checks = self._left_out.checks()
        for status, paths in sorted(self._refused.items()):
            closed = status in ("BadUserAccessDenied", "BadNodeIdUnknown", "BadNotReadable", "BadSecurityModeInsufficient")
            way_out = "give a user that may see them: --username, or `auth` in the file" if closed else "run the command again"
            found = f"{len(paths):,} nodes cannot be browsed, {status}: {_some(paths)}"
            checks.append(Check("browse", "warning" if closed else "failure", found, way_out))
        if full:
            found = f"the walk ended at {len(self._seen):,} nodes or {self._options.depth} levels, there are more"
            checks.append(Check("browse", "failure", found, "begin deeper with --root, or raise --max-nodes or --depth"))
        if not self._taken and not self._options.match:
            way_out = "begin elsewhere with --root; what the standard defines comes with --standard"
            checks.append(Check("browse", "warning", f"no variable that can be read below {self._options.root}", way_out))
        return checks


def _reason(description: Description) -> str:
    """Why a variable is not taken; empty when it is."""
    if not description.readable:
        return "variables cannot be read (access level)"
    if description.array and description.tag_type not in DATA_TYPES:
        return "variables are arrays"
    if description.tag_type not in DATA_TYPES:
        return f"variables are of a type that is not read ({description.type})"
    return ""


def _shown_value(value: ua.DataValue) -> str:
    if value.StatusCode is not None and not value.StatusCode.is_good():
        return str(value.StatusCode.name)
    content = value.Value.Value if value.Value is not None else None
    text = str(getattr(content, "Text", content))
    return text if len(text) <= 60 else text[:59] + "…"
