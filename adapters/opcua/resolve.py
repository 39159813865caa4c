"""Turns addresses into the NodeIds of this session: namespace URIs and browse paths are looked up at each connect.

So a server that has renumbered its namespaces never gives the value of another tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asyncua import ua

from schemas import quality as q

from .address import Address, NodeAddress, PathAddress, Steps
from .connection import Connection
from .plan import chunks

NAMESPACES = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
_LIMITS = (
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead),
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds),
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData),
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself: namespaces, and operation limits (0: it names none).

    `pinned` is the namespace URI that each index had when the adapter first met the server: an address with a plain index means that
    namespace for as long as the adapter lives, whatever its number is by then.
    """

    namespaces: Mapping[str, int]
    items_per_call: int = 0
    nodes_per_read: int = 0
    paths_per_call: int = 0
    history_nodes: int = 0
    pinned: Mapping[int, str] = field(default_factory=dict)

    def index(self, written: int) -> int | None:
        """Today's index of the namespace that `written` meant at first; None when the server has it no longer.

        Index 1 is the server's own by definition (OPC 10000-3, 8.2.2), whatever its name.
        """
        uri = self.pinned.get(written)
        return written if uri is None or written <= 1 else self.namespaces.get(uri)

    def steps(self, address: PathAddress) -> Steps | None:
        """The path as it is sent today; None when the server does not have one of its namespaces."""
        found: list[tuple[int, str]] = []
        for space, name in address.steps:
            index = self.namespaces.get(space) if isinstance(space, str) else self.index(space)
            if index is None:
                return None
            found.append((index, name))
        return tuple(found)

    def renumbered(self, now: ServerFacts) -> bool:
        """Whether a namespace has another index `now`, or none. A server that does not say has renumbered nothing."""
        return bool(now.namespaces) and any(now.namespaces.get(uri) != index for uri, index in self.namespaces.items())

    @property
    def moved(self) -> Mapping[int, int | None]:
        """Indices that mean another number today, or None, with that."""
        return {written: now for written in self.pinned if (now := self.index(written)) != written}


@dataclass(slots=True)
class Resolved:
    """NodeId by position for what was found, status code by position for what was not."""

    nodes: dict[int, ua.NodeId] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)


async def read_facts(connection: Connection, pinned: Mapping[int, str] | None = None) -> ServerFacts:
    """Ask the server for its namespaces and operation limits in one read; indices not yet `pinned` are pinned to what they are now."""
    namespaces, *limits = await connection.read_values([NAMESPACES, *_LIMITS])
    uris = namespaces if isinstance(namespaces, list) else []
    items, nodes, paths, history = (limit if isinstance(limit, int) else 0 for limit in limits)
    now = {index: str(uri) for index, uri in enumerate(uris)}
    return ServerFacts({uri: index for index, uri in now.items()}, items, nodes, paths, history, now | dict(pinned or {}))


async def resolve(connection: Connection, facts: ServerFacts, addresses: Sequence[Address], positions: Sequence[int]) -> Resolved:
    """The nodes of `positions`; each address stands for itself, one that is not there takes no other along."""
    found = Resolved()
    paths: list[int] = []
    asked: dict[int, ua.BrowsePath] = {}
    for position in positions:
        address = addresses[position]
        if isinstance(address, PathAddress):
            if (steps := facts.steps(address)) is None:
                found.refused[position] = q.BAD_NODE_ID_UNKNOWN
            else:
                paths.append(position)
                asked[position] = _browse_path(steps)
            continue
        index = facts.index(address.index) if address.uri is None else facts.namespaces.get(address.uri)
        if index is None:
            found.refused[position] = q.BAD_NODE_ID_UNKNOWN
        else:
            found.nodes[position] = node_id(address, index)
    for chunk in chunks(paths, facts.paths_per_call):
        answers = await connection.session.translate_browsepaths_to_nodeids([asked[position] for position in chunk])
        for position, answer in zip(chunk, answers, strict=True):
            if not answer.StatusCode.is_good():
                found.refused[position] = int(answer.StatusCode.value)
            elif not answer.Targets:
                found.refused[position] = q.BAD_NODE_ID_UNKNOWN
            else:
                target = answer.Targets[0].TargetId
                found.nodes[position] = ua.NodeId(target.Identifier, target.NamespaceIndex)
    return found


def node_id(address: NodeAddress, index: int) -> ua.NodeId:
    """`address` on the wire, in the namespace that has `index` in this session."""
    kind = ua.NodeIdType.ByteString if isinstance(address.identifier, bytes) else None
    return ua.NodeId(address.identifier, index, kind) if kind is not None else ua.NodeId(address.identifier, index)


def _browse_path(steps: Steps) -> ua.BrowsePath:
    elements = [
        ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(ua.ObjectIds.HierarchicalReferences),
            IsInverse=False,
            IncludeSubtypes=True,
            TargetName=ua.QualifiedName(name, index),
        )
        for index, name in steps
    ]
    return ua.BrowsePath(StartingNode=ua.NodeId(ua.ObjectIds.RootFolder), RelativePath=ua.RelativePath(Elements=elements))
