"""A week before a dead device: memory, tasks and descriptors of the seventh day are those of the first, and the log has one line.

In the suite a day has five minutes, which are some hundred attempts; `make fuzz` takes real days (GENBA_DAY_S=86400), and hours. The back-off is
the gateway's own, the sockets are real, and time is virtual.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import uatcp_to_binary

from adapters.base import Adapter, SimulatorContext
from adapters.simulation import Scenario, Signals
from tests.adapters.modbus.test_tls import server
from tests.authority import Authority
from tests.conformance.adapter import bind
from tests.fuzz import opcua_targets, s7_targets
from tests.simulation.loop import closed_port, in_virtual_time
from tests.simulation.outage import PLUGINS, TAGS, Mark, Outage, outage

DAYS = 7
DAY_S = float(os.environ.get("GENBA_DAY_S", "300"))
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SCHEMES = {"modbus": "tcp", "rtu": "rtu+tcp", "s7": "s7", "opcua": "opc.tcp"}
BACK_OFF_S = 3.0
TIMEOUT_S = 2.0


def kind_of(protocol: str) -> str:
    return "modbus" if protocol == "rtu" else protocol


def endpoint(protocol: str, port: int) -> str:
    return f"{SCHEMES[protocol]}://127.0.0.1:{port}" + ("/plant" if protocol == "opcua" else "")


def flat(marks: list[Mark]) -> None:
    """From the second day on (the first fills caches) nothing grows by as much as one small object every other attempt."""
    first, last = marks[1], marks[-1]
    attempts = last.attempts - first.attempts
    assert attempts > 15 * (DAYS - 2), marks
    assert last.blocks - first.blocks < max(300, attempts / 2), marks
    assert last.objects - first.objects < max(50, attempts / 4), marks
    assert last.descriptors <= first.descriptors + 2, marks
    assert last.tasks <= first.tasks + 2, marks


def told_once(found: Outage, tags: int = 20) -> None:
    """A bad row for each tag, one event, each line in the log once, however many attempts there were."""
    assert found.rows["telemetry"] == tags
    assert found.rows["event"] == 1
    assert set(found.log.values()) == {1}, found.log
    assert len(found.log) <= 2, found.log
    assert found.longest_s <= BACK_OFF_S + 4 * TIMEOUT_S + 0.5  # three requests, and quiet on a line


def test_a_week_before_a_port_that_is_closed_then_the_device_is_back(tmp_path: Path) -> None:
    for protocol in SCHEMES:
        found = in_virtual_time(lambda protocol=protocol: refused_then_back(protocol, tmp_path / protocol))  # type: ignore[misc]
        flat(found.marks)
        assert found.longest_s <= BACK_OFF_S + 0.1


async def refused_then_back(protocol: str, directory: Path) -> Outage:
    port, kind = closed_port(), kind_of(protocol)
    found = outage(kind, endpoint(protocol, port), directory)
    await found.live(DAYS, DAY_S)
    told_once(found)
    if protocol == "rtu":
        return found
    config = PLUGINS[kind].config.model_validate(
        {"kind": kind, "endpoint": endpoint(protocol, port), "scan": "1s", "tags": TAGS[kind]}
    )
    plant = Signals(Scenario(), asyncio.get_running_loop().time)
    assert PLUGINS[kind].simulate is not None
    simulator = PLUGINS[kind].simulate(config, SimulatorContext("press", bind("press", config), plant))  # type: ignore[misc]
    began = asyncio.get_running_loop().time()
    async with found.running():
        await asyncio.sleep(DAY_S)
        await simulator.start("127.0.0.1", port)
        while found.collector.state != "up":  # noqa: ASYNC110 (in virtual time)
            await asyncio.sleep(0.1)
    ended = asyncio.get_running_loop().time()
    await simulator.aclose()
    assert ended - began - DAY_S < BACK_OFF_S + TIMEOUT_S + 1
    assert (found.events["adapter_down"], found.events["adapter_up"]) == (1, 1)
    assert [entry for entry in found.log if "device is connected" in entry]
    assert len(found.gaps) == 20, "the outage is a gap of every tag"
    assert len({(gap["time"], gap["end"], gap["cause"]) for gap in found.gaps}) == 1
    if protocol != "opcua":  # the simulated server shows the machine's time
        length_s = (found.gaps[0]["end"] - found.gaps[0]["time"]).total_seconds()
        assert length_s == pytest.approx(ended - 1000.0, abs=BACK_OFF_S + 2)
    return found


# A port that is open, and what may be behind it


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes what comes and says nothing."""
    while await reader.read(1000):
        pass


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what no protocol knows."""
    while await reader.read(1000):
        writer.write(bytes(range(255, 0, -3)))


FIRST_WORDS = {
    "modbus": bytes.fromhex("0001000000290103") + b"\x26",
    "rtu": bytes.fromhex("010328"),
    "s7": s7_targets.CONFIRM + s7_targets.SETUP,
    "opcua": b"".join(opcua_targets.conversation()[:3]),
}


def halfway(protocol: str) -> Handler:
    """Answers the beginning of what is right, then closes."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(FIRST_WORDS[protocol][: len(FIRST_WORDS[protocol]) * 2 // 3])
        await writer.drain()

    return half


def refusing(status: int) -> Handler:
    """An OPC UA server that shakes hands and then refuses the channel."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(opcua_targets.conversation()[0])
        await reader.read(4000)
        writer.write(uatcp_to_binary(ua.MessageType.Error, ua.ErrorMessage(ua.StatusCode(status), "no")))
        await reader.read(1000)

    return refuse


@asynccontextmanager
async def behind(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """The port of a server that treats every client like this; nothing is kept of those that have gone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.sleep(1)


# RTU is left out where the line is noise: that is what a line with another speed looks like, see below.
WAYS = [
    (protocol, manner)
    for protocol in SCHEMES
    for manner in ("silent", "nonsense", "halfway")
    if (protocol, manner) != ("rtu", "nonsense")
]


@pytest.mark.parametrize(("protocol", "manner"), WAYS)
def test_a_week_before_a_port_that_leads_nowhere(protocol: str, manner: str, tmp_path: Path) -> None:
    handlers: dict[str, Handler] = {"silent": silent, "nonsense": nonsense, "halfway": halfway(protocol)}

    async def week() -> Outage:
        async with behind(handlers[manner]) as port:
            found = outage(kind_of(protocol), endpoint(protocol, port), tmp_path)
            await found.live(DAYS, DAY_S * (2 if manner == "silent" else 1))  # an attempt takes longer
        return found

    found = in_virtual_time(week)
    flat(found.marks)
    assert found.events["adapter_up"] == 0, "nothing of this is a value"
    told_once(found)


def test_a_line_of_noise_is_bad_rows_and_nothing_else(tmp_path: Path) -> None:
    """Every poll, or every attempt, finds that nothing can be read; it is told once, and nothing is kept."""

    async def day() -> Outage:
        async with behind(nonsense) as port:
            found = outage("modbus", endpoint("rtu", port), tmp_path)
            async with found.running():
                for _ in range(DAYS):
                    await asyncio.sleep(DAY_S)
                    found.marks.append(found.mark())
        return found

    found = in_virtual_time(day)
    assert found.good == 0
    assert found.events["adapter_up"] <= 1, "it comes and goes"
    assert sum(found.log.values()) <= 3, found.log
    work = max(found.attempts, found.rows["telemetry"] / 20)
    assert work > DAY_S
    assert found.marks[-1].blocks - found.marks[1].blocks < max(300, work / 2), found.marks


@pytest.mark.parametrize("status", [ua.StatusCodes.BadTcpServerTooBusy, ua.StatusCodes.BadSecurityChecksFailed])
def test_a_week_before_a_server_that_refuses_the_secure_channel(status: int, tmp_path: Path) -> None:
    security = {"policy": "Basic256Sha256", "mode": "sign_and_encrypt"}

    async def week() -> Outage:
        async with behind(refusing(status)) as port:
            found = outage("opcua", endpoint("opcua", port), tmp_path, security=security)
            await found.live(
                DAYS, DAY_S * (2 if status == ua.StatusCodes.BadSecurityChecksFailed else 0.3)
            )  # a person must act: every 30 s
        return found

    found = in_virtual_time(week)
    flat(found.marks)
    assert found.rows["telemetry"] == 20
    assert sum(found.events.values()) == 1


@pytest.mark.parametrize("manner", ["untrusted", "hangs up"])
def test_a_week_of_handshakes_that_fail(manner: str, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    tls = server(theirs)

    async def week() -> Outage:
        async with behind(
            silent if manner == "untrusted" else halfway("modbus"), ssl=tls if manner == "untrusted" else None
        ) as port:
            found = outage("modbus", f"tls://127.0.0.1:{port}", tmp_path, ca=str(tmp_path / f"{ours.name}.pem"))
            await found.live(DAYS, DAY_S * (2 if manner == "untrusted" else 0.2))
        return found

    found = in_virtual_time(week)
    flat(found.marks)
    assert found.rows["telemetry"] == 20
    assert sum(found.events.values()) == 1


# Controls: an adapter that keeps something of each attempt


class Leaking:
    """Keeps what `leak` makes at each attempt."""

    def __init__(self, adapter: Adapter, leak: Callable[[], object]) -> None:
        self._adapter, self._leak, self._kept = adapter, leak, []  # type: ignore[var-annotated]
        self.batches = adapter.batches

    async def connect(self) -> None:
        self._kept.append(self._leak())
        await self._adapter.connect()

    async def aclose(self) -> None:
        for kept in self._kept:
            if isinstance(kept, socket.socket):
                kept.close()
            elif isinstance(kept, asyncio.Task):
                kept.cancel()
        await self._adapter.aclose()


@pytest.mark.parametrize(
    "leak",
    [
        lambda: str(os.urandom(8)),
        lambda: [os.urandom(1)],
        socket.socket,
        lambda: asyncio.create_task(asyncio.sleep(1e9)),
    ],
    ids=["text", "list", "socket", "task"],
)
def test_an_adapter_that_keeps_something_of_each_attempt_is_seen(leak: Callable[[], object], tmp_path: Path) -> None:
    async def week() -> Outage:
        found = outage("s7", endpoint("s7", closed_port()), tmp_path, wrap=lambda adapter: cast(Adapter, Leaking(adapter, leak)))
        await found.live(DAYS, 100.0)
        return found

    found = in_virtual_time(week)
    with pytest.raises(AssertionError):
        flat(found.marks)
