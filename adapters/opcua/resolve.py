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

_NAMESPACES = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
_LIMITS = (
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall),
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead),
    ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds),
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself: namespaces, and operation limits (0: it names none)."""

    namespaces: Mapping[str, int]
    items_per_call: int = 0
    nodes_per_read: int = 0
    paths_per_call: int = 0


@dataclass(slots=True)
class Resolved:
    """NodeId by position for what was found, status code by position for what was not."""

    nodes: dict[int, ua.NodeId] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)


async def read_facts(connection: Connection) -> ServerFacts:
    """Ask the server for its namespaces and operation limits in one read."""
    namespaces, *limits = await connection.read_values([_NAMESPACES, *_LIMITS])
    uris = namespaces if isinstance(namespaces, list) else []
    items, nodes, paths = (limit if isinstance(limit, int) else 0 for limit in limits)
    return ServerFacts({str(uri): index for index, uri in enumerate(uris)}, items, nodes, paths)


async def resolve(connection: Connection, facts: ServerFacts, addresses: Sequence[Address], positions: Sequence[int]) -> Resolved:
    """The nodes of `positions`; each address stands for itself, one that is not there takes no other along."""
    found = Resolved()
    paths: list[int] = []
    asked: dict[int, ua.BrowsePath] = {}
    for position in positions:
        address = addresses[position]
        if isinstance(address, PathAddress):
            if (steps := address.indexed(facts.namespaces)) is None:
                found.refused[position] = q.BAD_NODE_ID_UNKNOWN
            else:
                paths.append(position)
                asked[position] = _browse_path(steps)
            continue
        index = address.index if address.uri is None else facts.namespaces.get(address.uri)
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
