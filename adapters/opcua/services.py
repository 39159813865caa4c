"""Browse and Read for many nodes: batches within the server's operation limits, continuation points followed, smaller where it asks.

One request at a time, each with the connection's deadline, so that a walk is gentle on the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from asyncua import ua

from .connection import Connection
from .resolve import ServerFacts

T = TypeVar("T")
R = TypeVar("R")
NodeKey = tuple[int, str]

_BROWSE_BATCH: Final = 200
_READ_BATCH: Final = 1000
_REFERENCES_PER_NODE: Final = 1000
MOST_REFERENCES: Final = 1_000_000
"""References of one node, over all continuations; a server that has more is not believed."""
_SMALLER: Final = frozenset({ua.StatusCodes.BadTooManyOperations, ua.StatusCodes.BadResponseTooLarge, ua.StatusCodes.BadRequestTooLarge, ua.StatusCodes.BadEncodingLimitsExceeded})  # fmt: skip
_LIMIT: Final = ua.NodeId(ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse)
_FIELDS: Final = (
    ua.BrowseResultMask.BrowseName
    | ua.BrowseResultMask.DisplayName
    | ua.BrowseResultMask.NodeClass
    | ua.BrowseResultMask.ReferenceTypeId
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A node below another: `name` is its browse name with the namespace index of this session."""

    node: ua.NodeId
    name: tuple[int, str]
    label: str
    variable: bool
    is_property: bool


@dataclass(slots=True)
class Answer:
    """What is below one node; `status` is the name of the status code where it could not be browsed (to its end)."""

    references: list[Reference] = field(default_factory=list)
    status: str = ""


def key_of(node: ua.NodeId) -> NodeKey:
    """A node as a key, whichever of the encodings of a number it came in."""
    identifier = node.Identifier
    return node.NamespaceIndex, f"{type(identifier).__name__}:{identifier!r}"


class Batches:
    """Sends many small questions as few requests. A server that finds a request too large is asked for half from then on."""

    def __init__(self, connection: Connection, facts: ServerFacts) -> None:
        self._connection, self.facts = connection, facts
        self.browse_size = _BROWSE_BATCH
        self.read_size = min(_READ_BATCH, facts.nodes_per_read) if facts.nodes_per_read > 0 else _READ_BATCH
        self._asked_limit = False
        self.types: object | None = None  # what `described` has learnt of the data types of this session

    async def browse(
        self, nodes: Sequence[ua.NodeId], *, inverse: bool = False, reference: int, classes: int = 0
    ) -> list[Answer]:
        """What each node refers to by references of this kind, forward or inverse."""
        if not self._asked_limit:
            self._asked_limit = True
            (limit,) = await self._connection.read_values([_LIMIT])
            if isinstance(limit, int) and limit > 0:
                self.browse_size = min(self.browse_size, limit)
        direction = ua.BrowseDirection.Inverse if inverse else ua.BrowseDirection.Forward
        asked = [
            ua.BrowseDescription(
                NodeId=node,
                BrowseDirection=direction,
                ReferenceTypeId=ua.NodeId(reference),
                IncludeSubtypes=True,
                NodeClassMask=classes,
                ResultMask=int(_FIELDS),
            )
            for node in nodes
        ]
        made: list[Answer] = []
        alone: list[int] = []
        start = 0
        while start < len(asked):
            size = self.browse_size
            part = asked[start : start + size]
            try:
                results = await self._browse(part)
            except ua.UaStatusCodeError as error:
                if error.code in _SMALLER and size > 1:
                    self.browse_size = size // 2
                    continue
                raise
            for result in results:
                if result.StatusCode.value == ua.StatusCodes.BadNoContinuationPoints:
                    alone.append(len(made))
                made.append(await self._followed(result))
            start += len(part)
        for position in alone:  # the server keeps fewer continuation points than we asked nodes at once
            (result,) = await self._browse([asked[position]])
            made[position] = await self._followed(result)
        return made

    async def read(self, wanted: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
        """One attribute of each node."""
        asked = [ua.ReadValueId(NodeId=node, AttributeId=attribute) for node, attribute in wanted]

        async def part(some: Sequence[ua.ReadValueId]) -> list[ua.DataValue]:
            answers: list[ua.DataValue] = await self._connection.session.read(ua.ReadParameters(NodesToRead=list(some)))
            if len(answers) != len(some):
                raise ValueError(f"the server answers {len(answers)} of {len(some)} reads")
            return answers

        return await self._in_parts(asked, part)

    async def values(self, nodes: Sequence[ua.NodeId]) -> list[ua.DataValue]:
        """The values of nodes."""
        return await self.read([(node, ua.AttributeIds.Value) for node in nodes])

    async def _in_parts(self, asked: Sequence[T], send: Callable[[Sequence[T]], Awaitable[list[R]]]) -> list[R]:
        made: list[R] = []
        while len(made) < len(asked):
            part = asked[len(made) : len(made) + self.read_size]
            try:
                made += await send(part)
            except ua.UaStatusCodeError as error:
                if error.code not in _SMALLER or self.read_size == 1:
                    raise
                self.read_size = max(1, self.read_size // 2)
        return made

    async def _browse(self, asked: Sequence[ua.BrowseDescription]) -> list[ua.BrowseResult]:
        parameters = ua.BrowseParameters(RequestedMaxReferencesPerNode=_REFERENCES_PER_NODE, NodesToBrowse=list(asked))
        results: list[ua.BrowseResult] = await self._connection.session.browse(parameters)
        if len(results) != len(asked):
            raise ValueError(f"the server answers {len(results)} of {len(asked)} browse requests")
        return results

    async def _followed(self, result: ua.BrowseResult) -> Answer:
        """The references of one result and of its continuations."""
        answer = Answer()
        while True:
            if not result.StatusCode.is_good():
                answer.status = str(result.StatusCode.name)
                return answer
            answer.references += filter(None, (self._reference(one) for one in result.References or ()))
            point = result.ContinuationPoint
            if not point:
                return answer
            release = len(answer.references) >= MOST_REFERENCES
            parameters = ua.BrowseNextParameters(ReleaseContinuationPoints=release, ContinuationPoints=[point])
            results = await self._connection.session.browse_next(parameters)
            if release or not results:
                answer.status = "BadTooManyMatches" if release else "BadNoData"
                return answer
            if not results[0].References and results[0].ContinuationPoint:
                raise ValueError("the server continues a browse with nothing")
            result = results[0]

    def _reference(self, one: ua.ReferenceDescription) -> Reference | None:
        """None for a node on another server, or in a namespace that this one does not name."""
        if getattr(one.NodeId, "ServerIndex", 0):
            return None
        index = one.NodeId.NamespaceIndex
        uri = getattr(one.NodeId, "NamespaceUri", None)
        if uri:
            if uri not in self.facts.namespaces:
                return None
            index = self.facts.namespaces[uri]
        identifier = one.NodeId.Identifier
        node = (
            ua.NodeId(identifier, index, ua.NodeIdType.ByteString)
            if isinstance(identifier, bytes)
            else ua.NodeId(identifier, index)
        )
        kind = one.ReferenceTypeId
        return Reference(
            node,
            (int(one.BrowseName.NamespaceIndex), str(one.BrowseName.Name or "")),
            str(one.DisplayName.Text or "")[:200],
            one.NodeClass == ua.NodeClass.Variable,
            kind is not None and kind.NamespaceIndex == 0 and kind.Identifier == ua.ObjectIds.HasProperty,
        )


async def children(batches: Batches, nodes: Sequence[ua.NodeId]) -> list[Answer]:
    """Objects and variables below each node."""
    classes = int(ua.NodeClass.Object) | int(ua.NodeClass.Variable)
    return await batches.browse(nodes, reference=ua.ObjectIds.HierarchicalReferences, classes=classes)


async def parent_of(batches: Batches, node: ua.NodeId) -> tuple[tuple[int, str], ua.NodeId | None]:
    """The browse name of a node, and the node above it (None at the top)."""
    (name,) = await batches.read([(node, ua.AttributeIds.BrowseName)])
    answers = await batches.browse([node], inverse=True, reference=ua.ObjectIds.HierarchicalReferences)
    found = name.Value.Value if name.Value is not None else None
    own = (int(found.NamespaceIndex), str(found.Name or "")) if found is not None else (0, "")
    return own, answers[0].references[0].node if answers[0].references else None
