"""Why a PLC cannot be read: network, rack and slot, PUT/GET, protection, optimised access, length. Each with the way out.

What is asked of the PLC: connections, one byte of flags, and of each block that is named single bytes to find out how long it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from adapters.reach import reach
from schemas.errors import NotConnected
from schemas.plugin import Check

from .address import AREA_CODES, ELEMENTS, MAX_BYTE, Area
from .config import CPUS, S7Config
from .connection import Connection
from .examination import S7Examination, tag_of
from .wire import OK, Malformed, Span, parse_read, read_request, refusal

PUT_GET: Final = """In TIA Portal (S7-1200, S7-1500), for the CPU, not for a block:
1. Device configuration -> the CPU -> Properties -> Protection & Security -> Connection mechanisms:
   tick "Permit access with PUT/GET communication from remote partner".
2. Protection & Security -> Access level: at least "Read access" without a password.
3. Compile the hardware, download it to the device. The CPU stops for the download: agree on a time."""
OPTIMISED: Final = """In TIA Portal, for each data block that is read:
1. Project tree -> Program blocks -> right-click the block -> Properties -> Attributes:
   untick "Optimized block access". (An instance block takes this from its function block: untick it there.)
2. Compile; the column "Offset" now shows the addresses. Download the block: its values start anew, so agree on a time.
Or leave the block as it is and read it by name: the OPC UA server of the CPU (kind: opcua), or kind: s7plus, which is experimental."""
PROTECTION: Final = """The CPU asks for a password before anybody may read. In TIA Portal: the CPU -> Properties -> Protection & Security ->
Access level: at least "Read access" without a password; compile and download. In STEP 7: the CPU -> Object properties ->
Protection: level 1, or 2 (write protection)."""
_ABOUT_CPU: Final = """Where the CPU sits is in the device configuration: S7-300 rack 0 slot 2, S7-400 slot 2 to 4 (often 3), S7-1200 and 1500 slot 1.
If that is right, all connections of the CPU are taken: close other clients (panels, SCADA, engineering) and try again.
LOGO! and S7-200 want a TSAP instead: --tsap 02.00 (or 03.00, 10.00)."""
_REFUSED: Final = 0x03
_OUTSIDE: Final = 0x05
_NO_OBJECT: Final = 0x0A
_NOT_AVAILABLE: Final = 0x8104
_PASSWORD: Final = (0xD241, 0xD602)
_LONGEST: Final = MAX_BYTE + 1  # what an address of the protocol reaches

Ask = Callable[[Span], Awaitable[int]]
"""Reads a span and gives the return code of the PLC."""
Block = tuple[Area, int]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How one try to connect ended. `connection` is there when it stands; `reached` is how far it came otherwise."""

    connection: Connection | None
    reached: Literal["transport", "foreign", "setup", "all"]
    message: str = ""


async def examine(options: S7Examination) -> AsyncGenerator[Check, None]:
    """One check after the other, ending where nothing more can be found out."""
    config = options.config
    network = await reach(config.host, config.port, timeout_s=config.timeout.s)
    yield network
    if network.result == "failure":
        return
    attempt = await _attempt(config, config.tsaps)
    if attempt.connection is None:
        yield await _why_refused(config, attempt)
        return
    connection = attempt.connection
    try:
        yield Check("rack and slot", "ok", f"{_cpu(config)} accepts an S7 connection")
        yield Check("PDU", "ok", f"{connection.pdu} bytes, {connection.window} requests at a time")
        async for check in _reading(connection, options):
            yield check
    except (NotConnected, Malformed) as error:
        yield Check(
            "connection",
            "failure",
            str(error),
            "the PLC drops the connection while it is read: look at its diagnostics buffer, and at the load of its communication",
        )
    finally:
        await connection.aclose()


async def _attempt(config: S7Config, tsaps: tuple[int, int]) -> _Attempt:
    connection = Connection(config.endpoint)
    try:
        async with asyncio.timeout(config.timeout.s):
            await asyncio.get_running_loop().create_connection(lambda: connection, config.host, config.port)
            await connection.greet(tsaps)
    except (NotConnected, OSError) as error:  # a TimeoutError is an OSError
        await connection.aclose()
        message = f"no answer within {config.timeout.s:g} s" if isinstance(error, TimeoutError) else str(error)
        stage: Literal["foreign", "setup", "transport"]
        stage = "foreign" if connection.foreign else "setup" if connection.accepted else "transport"
        return _Attempt(None, stage, message.removeprefix(f"{config.endpoint}: "))
    except BaseException:
        await connection.aclose()
        raise
    return _Attempt(connection, "all")


async def _why_refused(config: S7Config, attempt: _Attempt) -> Check:
    if attempt.reached == "foreign":
        return Check(
            "S7",
            "failure",
            attempt.message,
            f"port {config.port} belongs to something else: check host and port; S7 is on 102 unless a router maps it",
        )
    if attempt.reached == "setup":
        return Check(
            "S7",
            "failure",
            f"{_cpu(config)} accepts the transport connection and no S7 communication on it: {attempt.message}",
            "the slot may be that of a communication processor, or all S7 connections of the CPU are taken.\n" + _ABOUT_CPU,
        )
    for rack, slot, kind in _others(config):
        other = config.model_copy(update={"rack": rack, "slot": slot, "cpu": None, "tsap": None, "connection": kind})
        found = await _attempt(other, other.tsaps)
        if found.connection is None:
            continue
        await found.connection.aclose()
        refused = f"{_cpu(config)} is refused ({attempt.message}); {_cpu(other)} is accepted"
        if (rack, slot) == config.rack_slot and config.tsap is None:
            way_out = (
                f"write `connection: {kind}`, or free one of the `{config.connection}` connections: the CPU's connection "
                "resources say how many there are"
            )
        else:
            family = next((name for name, (*place, _) in CPUS.items() if place == [rack, slot]), None)
            either = f"`cpu: {family}`, or " if family and slot > 1 else ""
            way_out = f"write {either}`rack: {rack}` and `slot: {slot}`"
        return Check("rack and slot", "failure", refused, way_out)
    return Check(
        "rack and slot",
        "failure",
        f"{_cpu(config)} is refused, and so is every usual rack and slot: {attempt.message}",
        _ABOUT_CPU,
    )


def _others(config: S7Config) -> Iterator[tuple[int, int, Literal["pg", "op", "basic"]]]:
    """Rack, slot and connection type to try where the configured ones are refused."""
    tried = {config.tsaps[1]}
    kinds: tuple[Literal["pg", "op", "basic"], ...] = ("op", "basic", "pg")  # an S7-300 keeps one `pg` for the engineers: last
    places = dict.fromkeys([(rack, slot) for rack, slot, _ in CPUS.values()] + [(0, 0)])
    tries = [(*place, config.connection) for place in places] + [(*config.rack_slot, kind) for kind in kinds]
    for rack, slot, kind in tries:
        remote = config.model_copy(update={"rack": rack, "slot": slot, "tsap": None, "connection": kind}).tsaps[1]
        if remote not in tried:
            tried.add(remote)
            yield rack, slot, kind


async def _reading(connection: Connection, options: S7Examination) -> AsyncGenerator[Check, None]:
    async def ask(span: Span) -> int:
        (answer,) = await connection.exchange([read_request([span])], timeout_s=options.timeout.s)
        return parse_read(answer, [span.size])[0].code

    access = _access(await ask(Span(AREA_CODES["M"], 0, 0, 1)))
    yield access
    if access.result == "failure":
        return
    tags = [(written, tag_of(written)) for written in options.address]
    blocks: dict[Block, None] = dict.fromkeys(("DB", number) for number in options.db)
    blocks |= dict.fromkeys((tag.place.area, tag.place.db) for _, tag in tags)
    lengths: dict[Block, int] = {}
    for block in blocks:
        check, lengths[block] = await _block(ask, block)
        yield check
    for written, tag in tags:
        place = tag.place
        length, end = lengths[place.area, place.db], place.start + tag.data_type.size
        if length:  # otherwise the block itself was the matter
            yield _fits(written, _name((place.area, place.db)), length, end)
    if not blocks:
        yield Check("blocks", "ok", "none was named", "name what is to be read: --db 10, --address DB10.DBD4")


def _access(code: int) -> Check:
    if code in _PASSWORD:
        return Check("access", "failure", f"the protection level of the CPU forbids reading (error 0x{code:04X})", PROTECTION)
    if code in (_REFUSED, _NOT_AVAILABLE):
        return Check("access", "failure", f"the CPU does not let itself be read: PUT/GET is off (error 0x{code:02X})", PUT_GET)
    return Check("access", "ok", "the CPU lets itself be read (PUT/GET, protection level)")


async def _block(ask: Ask, block: Block) -> tuple[Check, int]:
    """What is the matter with a block or area, and how many bytes it has; 0 when it cannot be read at all."""
    name, unit = _name(block), 2 if block[0] in ELEMENTS else 1
    area = AREA_CODES[block[0]]
    code = await ask(Span(area, block[1], 0, unit))
    if code == OK:
        length = await _length(ask, Span(area, block[1], 0, unit))
        return Check(name, "ok", f"can be read, {length} bytes"), length
    if block[0] != "DB":
        return Check(
            name, "failure", f"{refusal(code).reason} (0x{code:02X})", "this CPU has no such area; S7-1200 have no T and C"
        ), 0
    if code == _OUTSIDE:
        return Check(name, "failure", "is there and has no addresses: optimised block access (or it is empty)", OPTIMISED), 0
    if code == _NO_OBJECT:
        there = f"{name} is not in the CPU, or it has optimised block access"
        return Check(name, "failure", there, f"check the number, and that the block was downloaded. If it was:\n{OPTIMISED}"), 0
    if code in _PASSWORD:
        return Check(name, "failure", f"the protection level forbids reading it (error 0x{code:04X})", PROTECTION), 0
    if code in (_REFUSED, _NOT_AVAILABLE):
        return Check(name, "failure", f"the CPU refuses access to this block (0x{code:02X})", f"{OPTIMISED}\n{PUT_GET}"), 0
    return Check(name, "failure", refusal(code).reason, "look at the diagnostics buffer of the CPU"), 0


async def _length(ask: Ask, first: Span) -> int:
    """Bytes of a block whose first byte can be read, found with at most 41 reads of one byte (of one timer or counter)."""
    unit, low = first.size, 0  # element `low` can be read, `high` cannot
    high = 1
    while high * unit < _LONGEST and await ask(first._replace(start=high * unit)) == OK:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if await ask(first._replace(start=middle * unit)) == OK:
            low = middle
        else:
            high = middle
    return high * unit


def _fits(written: str, block: str, length: int, end: int) -> Check:
    if end <= length:
        return Check(written, "ok", "can be read")
    return Check(
        written,
        "failure",
        f"{block} is too short: it has {length} bytes, and {end} are needed",
        "check the address (column Offset in TIA Portal), and that the CPU has the newest version of the block",
    )


def _name(block: Block) -> str:
    return f"DB{block[1]}" if block[0] == "DB" else block[0]


def _cpu(config: S7Config) -> str:
    remote = config.tsaps[1]
    tsap = f"TSAP {remote >> 8:02X}.{remote & 255:02X}"
    if config.tsap is not None:
        return tsap
    rack, slot = config.rack_slot
    return f"rack {rack}, slot {slot} ({config.connection}, {tsap})"
