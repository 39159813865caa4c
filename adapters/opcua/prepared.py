"""A request that is encoded once and sent many times: a cyclic read of 1,000 nodes costs more to encode than to decode."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary


@dataclass(slots=True)
class _Head:
    """What is encoded anew each time."""

    TypeId: ua.NodeId
    RequestHeader: ua.RequestHeader = field(default_factory=ua.RequestHeader)


class PreparedRead:
    """A read of the values of `nodes` with source and server times."""

    def __init__(self, nodes: list[ua.NodeId]) -> None:
        asked = [ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value) for node in nodes]
        request = ua.ReadRequest(Parameters=ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Both, NodesToRead=asked))
        self._head = _Head(request.TypeId)
        self._body: bytes = struct_to_binary(request.Parameters)

    @property
    def RequestHeader(self) -> ua.RequestHeader:
        """Filled in by the transport before each sending."""
        return self._head.RequestHeader

    def to_binary(self) -> bytes:
        """The message body."""
        head: bytes = struct_to_binary(self._head)
        return head + self._body
