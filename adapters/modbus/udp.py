"""Modbus over UDP: the frames of Modbus TCP, one to a datagram. A lost datagram is a missing answer; nothing tells of a device that went
away but its silence, or its host that refuses the port."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, cast

from .config import ModbusConfig
from .exchange import NoAnswer, Refused, WrongAnswer
from .mbap import HEADER, LONGEST, MbapConnection
from .plan import Span

_GREETINGS: Final = 2  # a datagram may be lost


class UdpConnection(MbapConnection, asyncio.DatagramProtocol):
    """An open UDP socket; see `exchange.Connection`."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands; no device has been asked yet."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        self.lost(f"connection lost: {exc or 'the socket was closed'}")

    def error_received(self, exc: Exception) -> None:
        """The host of the device says that nobody listens there."""
        self.lost(f"connection lost: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}")

    def datagram_received(self, data: bytes, addr: object) -> None:
        """One frame, or something else, which is no answer. The socket takes datagrams of its device only."""
        length = int.from_bytes(data[4:6], "big") if len(data) > HEADER else 0
        if data[2:4] == b"\0\0" and 3 <= length <= LONGEST and len(data) == 6 + length:
            self.received(data)

    def _write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(frame)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def open_udp(config: ModbusConfig) -> UdpConnection:
    """A socket for this device alone, once it has answered a first request: nothing else tells whether it is there.

    Raises OSError, TimeoutError or NotConnected.
    """
    async with asyncio.timeout(config.timeout.s):
        _, connection = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: UdpConnection(config.timeout.s / _GREETINGS), remote_addr=(config.host, config.port)
        )
    try:
        await _greet(connection, config.options_of(next(iter(config.devices), "")).unit_id)
    except BaseException:
        await connection.aclose()
        raise
    connection.timeout_s = config.timeout.s
    return connection


async def _greet(connection: UdpConnection, unit: int) -> None:
    """Any answer will do, a refusal too. Raises TimeoutError, and NotConnected where the host refuses the port."""
    for _ in range(_GREETINGS):
        with suppress(NoAnswer):
            with suppress(Refused, WrongAnswer):
                await connection.read(Span(unit, 3, 0, 1))
            return
    raise TimeoutError
