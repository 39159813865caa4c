"""One TCP or TLS connection to a Modbus device: a stream cut into frames. A closed connection fails the request under way at once."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from .config import ModbusConfig
from .mbap import HEADER, LONGEST, MbapConnection
from .tls import reason_of

_FOREIGN: Final = "the other side does not speak Modbus TCP"


class TcpConnection(MbapConnection, asyncio.Protocol):
    """An open TCP connection; see `exchange.Connection` and `exchange.ReadsAhead`."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        why = reason_of(exc) if isinstance(exc, ssl.SSLError) else exc or "closed by the other side"
        self._transport, self._received = None, b""
        self.lost(f"connection lost: {why}")

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames. A stream that is not Modbus ends the connection: there is no way back into step."""
        buffer = self._received + data if self._received else data
        at, end = 0, len(buffer)
        while end - at > HEADER:
            length = buffer[at + 4] << 8 | buffer[at + 5]
            if length == 2 and buffer[at + HEADER] & 0x80:
                length = 3  # devices that forget to count the exception code
            if buffer[at + 2] or buffer[at + 3] or not 3 <= length <= LONGEST:
                self._foreign()
                return
            size = 6 + length
            if end - at < size:
                break
            self.received(buffer[at : at + size])
            at += size
        self._received = buffer[at:]

    def _foreign(self) -> None:
        transport, self._transport, self._received = self._transport, None, b""
        self.lost(_FOREIGN)
        if transport is not None:
            transport.abort()

    def _write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def open_tcp(config: ModbusConfig, tls: ssl.SSLContext | None = None) -> TcpConnection:
    """Connect within the timeout, with TLS where a context is given. Raises OSError (SSLError is one) or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(config.timeout.s):
        if tls is None:
            _, connection = await loop.create_connection(lambda: TcpConnection(config.timeout.s), config.host, config.port)
        else:
            _, connection = await loop.create_connection(
                lambda: TcpConnection(config.timeout.s),
                config.host,
                config.port,
                ssl=tls,
                server_hostname=config.server_name or config.host,
                ssl_shutdown_timeout=1.0,
            )
    return connection
