"""The OPC UA decoders as targets: a whole session from its first byte, the answers that asyncua decodes for us, and our own decoding."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import structlog
from asyncua import ua
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary, uatcp_to_binary, variant_to_binary

from adapters.opcua import OpcuaConfig
from adapters.opcua.address import parse
from adapters.opcua.channel import GuardedBuffer
from adapters.opcua.conditions import Conditions, Seen, decode_events
from adapters.opcua.connection import failures, open_connection, quiet_library
from adapters.opcua.decode import Changes, decode_history, decode_publish, decode_read
from adapters.opcua.guard import bounded
from adapters.opcua.outbox import Outbox
from adapters.opcua.resolve import ServerFacts, read_facts, resolve
from adapters.opcua.rows import Rows
from adapters.opcua.values import Field, Structure, Types, decode, pick
from adapters.opcua.wire import MalformedMessage
from schemas.errors import ConfigError, NotConnected
from tests.adapters.opcua.rig import bind, configure
from tests.adapters.opcua.test_decode import STRANGE, TEXTS, V, encode_item, items, publish
from tests.fuzz.harness import Target, Violation, chunks, dripping, pieces, whole
from tests.fuzz.wires import WireLoop, replying

WHEN = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
NOW_US = 1_767_225_600_000_000
CONFIG = configure(
    {
        "number": {"address": "ns=2;s=A", "type": "float64"}, "whole": {"address": "ns=2;s=B", "type": "int64"},
        "text": {"address": "ns=2;s=C", "type": "string"}, "any": "ns=2;s=D", "state": {"address": "ns=2;s=E", "type": "bool"},
        "when": {"address": "ns=2;s=F", "type": "datetime"}, "path": "/Objects/2:Plant/2:Temp",
    },
    timeout="500ms",
)  # fmt: skip


@cache
def _loop() -> WireLoop:
    quiet_library()
    return WireLoop()


@cache
def _rows() -> Rows:
    return Rows(bind(CONFIG))


async def _session(config: OpcuaConfig) -> None:
    connection = await open_connection(config, "fuzz", Path(), Path())
    try:
        async with failures(config.endpoint):
            facts = await read_facts(connection)
            found = await resolve(connection, facts, [parse("/Objects/2:Plant/2:Temp")], [0])
            if len(found.nodes) + len(found.refused) != 1:
                raise Violation(f"{found} for one path")
            async with asyncio.timeout(0.5):
                _taken(decode_publish(await connection.request(ua.PublishRequest(), patient=True)).changes)
    finally:
        await connection.aclose()


def session(data: bytes) -> None:
    """Hello, channel, session, facts, a browse path and a publish; the messages in `data` are the answers, one to each request."""
    payload, sizes = pieces(data)
    replies: list[list[bytes]] = []
    while payload and len(replies) < 12:
        size = struct.unpack_from("<I", payload, 4)[0] if len(payload) >= 8 else 0
        size = size if 8 <= size <= len(payload) else len(payload)
        replies.append(list(chunks(payload[:size], sizes)))
        payload = payload[size:]
    _loop().run(replying(replies), _session(CONFIG))


SERVICES = (
    ua.ReadResponse, ua.CreateSessionResponse, ua.GetEndpointsResponse, ua.CreateMonitoredItemsResponse, ua.TranslateBrowsePathsToNodeIdsResponse,
    ua.CreateSubscriptionResponse, ua.ActivateSessionResponse, ua.OpenSecureChannelResponse, ua.BrowseResponse, ua.HistoryReadResponse,
    ua.CallResponse, ua.ModifyMonitoredItemsResponse,
)  # fmt: skip


async def _translated(data: bytes) -> None:
    async with failures("opc.tcp://fuzz"):
        struct_from_binary(SERVICES[(data[0] if data else 0) % len(SERVICES)], bounded(GuardedBuffer(data[1:])))


def services(data: bytes) -> None:
    """The answers that asyncua decodes, from the buffer that our connection hands to it; its errors as our callers see them."""
    coroutine = _translated(data)
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close()


def _taken(changes: Changes | None) -> None:
    if changes is None:
        return
    for batch in (_rows().batch(changes, NOW_US), _rows().overflows(changes, NOW_US, "fuzz")):
        if batch is not None:
            batch.validate()


def publishes(data: bytes) -> None:
    """A publish response to rows."""
    found = decode_publish(data)
    if found.changes is not None and len(found.changes) * 5 > len(data):
        raise Violation(f"{len(found.changes)} changes in {len(data)} bytes")
    _taken(found.changes)


def reads(data: bytes) -> None:
    """A read response to rows."""
    _, found = decode_read(data)
    _taken(found)


def histories(data: bytes) -> None:
    """A history read response to rows, as backfill makes them."""
    _, found = decode_history(data)
    total = sum(len(node.changes) for node in found)
    if total > len(data):
        raise Violation(f"{total} values in {len(data)} bytes")
    for position, node in enumerate(found):
        node.changes.handle[:] = position % _rows().size
        _rows().prepare(node.changes)
        _taken(node.changes)


def events(data: bytes) -> None:
    """An event notification to rows."""
    found = decode_events(data)
    if len(found) * 8 > len(data):
        raise Violation(f"{len(found)} events in {len(data)} bytes")
    outbox = Outbox("fuzz", FixedClock(), structlog.get_logger())
    made = Conditions(
        cast(Any, None), ServerFacts({}), outbox, Seen(), notifiers=(), types=(), min_severity=1,
        about=lambda position: (position, "press"), asset=None, name="fuzz", clock=FixedClock(), log=structlog.get_logger(),
    )  # fmt: skip
    made.positions = {(2, "Press"): 3}
    made.take(found)
    if outbox.rows > 2 * len(found):
        raise Violation(f"{outbox.rows} rows of {len(found)} events")


class FixedClock:
    """It is always the same moment."""

    def now_us(self) -> int:
        return NOW_US


PARTS = configure(
    {
        "speed": {"address": "ns=2;s=S", "field": "speed"}, "inner": {"address": "ns=2;s=S", "field": "limits[1].high"},
        "third": {"address": "ns=2;s=S", "field": "matrix[2]"}, "name": {"address": "ns=2;s=S", "field": "name"},
        "element": {"address": "ns=2;s=A", "index": 1}, "far": {"address": "ns=2;s=A", "index": 900}, "list": {"address": "ns=2;s=L", "type": "array of string"},
    }
)  # fmt: skip
INNER, OUTER, UNION = (2, 10), (2, 20), (2, 30)
TYPES = Types(
    {
        INNER: Structure("inner", (Field("low", 11), Field("high", 11, optional=True), Field("deep", 22, OUTER, optional=True)), optional=True),
        OUTER: Structure(
            "outer",
            (Field("speed", 10), Field("name", 12), Field("limits", 22, INNER, 1), Field("matrix", 4, rank=2), Field("any", 24), Field("one", 22, UNION)),
        ),
        UNION: Structure("union", (Field("number", 8), Field("text", 21), Field("again", 22, UNION)), union=True),
    },
    {(2, 21): OUTER, (2, 11): INNER, (2, 31): UNION},
)  # fmt: skip


@cache
def _part_rows() -> Rows:
    made = Rows(bind(PARTS))
    made.types = TYPES
    return made


def structures(data: bytes) -> None:
    """A Variant with a structure or an array, taken apart and as a list, by definitions that refer to themselves."""
    found = decode_publish(publish(struct.pack("<i", 3) + b"".join(struct.pack("<IB", at, 1) + data for at in (0, 4, 6)))).changes
    assert found is not None
    batch = _part_rows().batch(found, NOW_US)
    if batch is not None:
        batch.validate()
        if batch.num_rows > 3 * 4:  # no variable has more parts
            raise Violation(f"{batch.num_rows} rows of three values")
    pick(decode(data, TYPES), ("limits", 0, "deep", "name"))


def addresses(data: bytes) -> None:
    """Whatever is an address has one spelling, and that reads as itself."""
    text = data.decode("utf-8", "replace")
    address = parse(text)
    if parse(str(address)) != address:
        raise Violation(f"{text!r} is {address} and that is {parse(str(address))}")


# Seeds


def _header(response: ua.UaBase) -> ua.UaBase:
    response.ResponseHeader.Timestamp = WHEN
    response.ResponseHeader.ServiceDiagnostics = ua.DiagnosticInfo(AdditionalInfo="fine")
    response.ResponseHeader.StringTable = ["one"]
    return response


def _value(value: object, kind: ua.VariantType) -> ua.DataValue:
    return ua.DataValue(ua.Variant(value, kind), SourceTimestamp=WHEN, ServerTimestamp=WHEN)


def _read(*values: ua.DataValue) -> ua.ReadResponse:
    response = _header(ua.ReadResponse())
    response.Results = list(values)
    return response


def _created() -> ua.CreateSessionResponse:
    response = _header(ua.CreateSessionResponse())
    response.Parameters.SessionId, response.Parameters.AuthenticationToken = ua.NodeId(3, 1), ua.NodeId(b"token", 1)
    response.Parameters.RevisedSessionTimeout = 60_000.0
    response.Parameters.ServerNonce = bytes(32)
    endpoint = ua.EndpointDescription(
        EndpointUrl="opc.tcp://127.0.0.1:4840/plant",
        SecurityMode=ua.MessageSecurityMode.None_,
        SecurityPolicyUri="http://opcfoundation.org/UA/SecurityPolicy#None",
        UserIdentityTokens=[ua.UserTokenPolicy(PolicyId="anonymous", TokenType=ua.UserTokenType.Anonymous)],
        TransportProfileUri="http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary",
    )
    response.Parameters.ServerEndpoints = [endpoint]
    return response


def _channel() -> ua.OpenSecureChannelResponse:
    response = _header(ua.OpenSecureChannelResponse())
    response.Parameters.ServerProtocolVersion = 0
    response.Parameters.SecurityToken = ua.ChannelSecurityToken(
        ChannelId=7, TokenId=13, CreatedAt=WHEN, RevisedLifetime=3_600_000
    )
    response.Parameters.ServerNonce = b""
    return response


def _facts() -> ua.ReadResponse:
    limit = _value(1000, V.UInt32)
    return _read(
        _value(["http://opcfoundation.org/UA/", "urn:server", "http://acme.example/plant"], V.String), limit, limit, limit
    )


def _translated_path() -> ua.TranslateBrowsePathsToNodeIdsResponse:
    response = _header(ua.TranslateBrowsePathsToNodeIdsResponse())
    target = ua.BrowsePathTarget(TargetId=ua.ExpandedNodeId("Temp", 2), RemainingPathIndex=0xFFFFFFFF)
    response.Results = [ua.BrowsePathResult(StatusCode=ua.StatusCode(0), Targets=[target])]
    return response


def _news() -> bytes:
    return publish(items(encode_item(ua.Variant(1.5, V.Double), 0, 134_170_600_000_000_000), encode_item(ua.Variant(7, V.Int64))))


def conversation() -> list[bytes]:
    """The server's side of a session, message by message."""
    channel = SecureConnection(SecurityPolicyNone(), TransportLimits(65535, 65535, 0, 0))
    acknowledge = uatcp_to_binary(ua.MessageType.Acknowledge, ua.Acknowledge(0, 65535, 65535, 0, 0))
    channel.security_token.ChannelId = 7
    opened = channel.message_to_binary(struct_to_binary(_channel()), message_type=ua.MessageType.SecureOpen, request_id=1)
    channel.security_token.TokenId = 13
    bodies = [struct_to_binary(_created()), struct_to_binary(_header(ua.ActivateSessionResponse())), struct_to_binary(_facts()),
              struct_to_binary(_translated_path()), _news()]  # fmt: skip
    answers = [channel.message_to_binary(body, request_id=number) for number, body in enumerate(bodies, 2)]
    return [acknowledge, opened, *answers]


def _session_seeds() -> list[bytes]:
    said = conversation()
    refused = uatcp_to_binary(ua.MessageType.Error, ua.ErrorMessage(ua.StatusCode(0x80820000), "busy"))
    return [
        whole(b"".join(said)),
        dripping(b"".join(said[:2])),
        whole(b"".join(said[:1]) + refused),
        whole(b"".join(said[:4])),
        b"\1\x40" + b"".join(said),
    ]


def _service_seeds() -> list[bytes]:
    full: Sequence[ua.UaBase] = [
        _read(*(ua.DataValue(value) for value in STRANGE), _value(1.5, V.Double)), _created(), _facts(), _translated_path(), _channel(),
        _header(ua.ActivateSessionResponse()),
    ]  # fmt: skip
    found = [bytes((SERVICES.index(type(response)),)) + struct_to_binary(response) for response in full]
    empty = [bytes((number,)) + struct_to_binary(_header(service())) for number, service in enumerate(SERVICES)]
    return found + empty


def _publish_seeds() -> list[bytes]:
    odd = [encode_item(value, 0, 1, 2, 3) for value in (*STRANGE, *(ua.Variant(v, k) for k, v in TEXTS.items()))]
    plain = [encode_item(ua.Variant(n, V.Int32), None, 5) for n in range(6)]
    return [
        publish(items(*odd)),
        publish(items(*plain), items(*odd[:2])),
        _news(),
        publish(),
        struct_to_binary(ua.PublishResponse()),
    ]


def _read_seeds() -> list[bytes]:
    return [struct_to_binary(_facts()), struct_to_binary(_read(*(ua.DataValue(value) for value in STRANGE))),
            struct_to_binary(_read(*(_value(n / 2, V.Double) for n in range(7))))]  # fmt: skip


def _history_seeds() -> list[bytes]:
    values = [_value(n / 2, V.Double) for n in range(5)] + [_value("text", V.String), ua.DataValue(ua.Variant([1, 2], V.Int64))]
    full = ua.HistoryReadResult(HistoryData=ua.HistoryData(DataValues=values), ContinuationPoint=b"more")
    none = ua.HistoryReadResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadNoContinuationPoints))
    return [struct_to_binary(_header(ua.HistoryReadResponse(Results=results))) for results in ([full], [full, none, full], [])]


def _event_seeds() -> list[bytes]:
    alarm = [
        ua.Variant(b"12345678", V.ByteString), ua.Variant(ua.NodeId(2915), V.NodeId), ua.Variant(ua.NodeId("Press", 2), V.NodeId),
        ua.Variant("Press", V.String), ua.Variant(WHEN, V.DateTime), ua.Variant(ua.LocalizedText("too hot"), V.LocalizedText), ua.Variant(700, V.UInt16),
        ua.Variant(ua.NodeId("Alarm", 2), V.NodeId), ua.Variant("Hot", V.String), ua.Variant(ua.NodeId(), V.NodeId), *[ua.Variant(True, V.Boolean)] * 3,
    ]  # fmt: skip
    refresh = [ua.Variant(None), ua.Variant(ua.NodeId(2787), V.NodeId)]
    lists = ([alarm], [refresh, alarm, alarm], [[ua.Variant(ua.NodeId(3035), V.NodeId)] * 2], [])
    return [
        struct_to_binary(
            ua.EventNotificationList(Events=[ua.EventFieldList(ClientHandle=1, EventFields=fields) for fields in some])
        )
        for some in lists
    ]


def _structure_seeds() -> list[bytes]:
    text = struct.pack("<i", 1) + b"A"
    inner = struct.pack("<Id", 1, 1.5) + struct.pack("<d", 2.5)
    matrix = struct.pack("<iii4h", 2, 2, 2, 1, 2, 3, 4)
    union = struct.pack("<Iq", 1, 7)
    outer = (
        struct.pack("<f", 1.0) + text + struct.pack("<i", 2) + inner[:4] + inner[4:] + inner + matrix + b"\x0b" + bytes(8) + union
    )
    typed = [(21, outer), (11, inner), (31, union), (31, struct.pack("<I", 3) + union)]
    objects = [
        b"\x01\x02" + struct.pack("<HB", identifier, 1) + struct.pack("<i", len(body)) + body for identifier, body in typed
    ]
    arrays = [ua.Variant([1, 2, 3], V.Int64), ua.Variant(["a", "b"], V.String), ua.Variant([[1, 2], [3, 4]], V.Int16), ua.Variant([1.5] * 20, V.Float),
              ua.Variant([ua.Variant(1), ua.Variant("x")], V.Variant)]  # fmt: skip
    return [
        *(b"\x16" + one for one in objects),
        b"\x96" + struct.pack("<i", len(objects)) + b"".join(objects),
        *(variant_to_binary(one) for one in arrays),
    ]


def _address_seeds() -> list[bytes]:
    texts = [
        "ns=2;s=Line.Temp",
        "nsu=http://acme.example/plant;i=7",
        "/Objects/2:Plant/2:Ro&:bot",
        "ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a",
        "b=YWJj",
    ]
    return [text.encode() for text in texts]


# A data value of one byte makes a row of 45 bytes in the arrays, and its batch about as much again.
TARGETS = [
    Target(
        "opcua-session",
        session,
        _session_seeds,
        errors=(NotConnected, ConfigError, MalformedMessage, TimeoutError),
        fixed_bytes=4 << 20,
    ),
    Target("opcua-services", services, _service_seeds, errors=(NotConnected, ConfigError), fixed_bytes=8 << 20),
    Target("opcua-publish", publishes, _publish_seeds, errors=(MalformedMessage,)),
    Target("opcua-read", reads, _read_seeds, errors=(MalformedMessage,)),
    Target("opcua-history", histories, _history_seeds, errors=(MalformedMessage,)),
    Target("opcua-events", events, _event_seeds, errors=(MalformedMessage,)),
    Target("opcua-structures", structures, _structure_seeds, errors=(MalformedMessage,)),
    Target("opcua-addresses", addresses, _address_seeds, errors=(ValueError,), longest=300),
]
