"""One TCP connection to a Modbus device: requests out, checked data bytes in, every exchange with a deadline.

pymodbus builds and parses the frames. What it leaves open is closed here: an answer belongs to its request by transaction id, a
late one is dropped, a closed connection fails the request under way at once, and nothing is used that has not the unit, the
function code and the number of bytes that were asked for. Retries and reconnects are the caller's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
)
from pymodbus.transaction import TransactionManager

from schemas.errors import NotConnected

from .config import ModbusConfig
from .exchange import NoAnswer, Refused, WrongAnswer
from .plan import Span
from .tls import reason_of

_HEADER: Final = 7  # MBAP: transaction, protocol, length, unit
_LONGEST: Final = 254  # unit and a PDU of 253 bytes (MODBUS Messaging on TCP/IP Implementation Guide V1.0b, 3.1.3)


class _Raw:
    """Keeps the data bytes of an answer as they are, for numpy; the library would make a Python object of each register."""

    raw = b""

    def decode(self, data: bytes) -> None:
        """Byte count and data. Raises ValueError where they disagree."""
        if not data or data[0] != len(data) - 1:
            raise ValueError("byte count and data disagree")
        self.raw = data[1:]

    def __str__(self) -> str:  # the library formats every answer for a log that is off
        return type(self).__name__


class _Coils(_Raw, ReadCoilsResponse):  # type: ignore[misc]  # pymodbus is untyped here
    pass


class _DiscreteInputs(_Raw, ReadDiscreteInputsResponse):  # type: ignore[misc]
    pass


class _HoldingRegisters(_Raw, ReadHoldingRegistersResponse):  # type: ignore[misc]
    pass


class _InputRegisters(_Raw, ReadInputRegistersResponse):  # type: ignore[misc]
    pass


_REQUESTS: Final = {
    1: ReadCoilsRequest,
    2: ReadDiscreteInputsRequest,
    3: ReadHoldingRegistersRequest,
    4: ReadInputRegistersRequest,
}


class _Transactions(TransactionManager):  # type: ignore[misc]
    """The library's transaction manager with answers matched by transaction id and a connection loss that is felt at once."""

    def __init__(self, client: AsyncModbusTcpClient) -> None:
        super().__init__(client.comm_params, client.ctx.framer, 0, False, None, None, None)
        self._pending: dict[int, asyncio.Future[ModbusPDU]] = {}
        self._received = b""
        self.loss = ""
        """Why the connection is gone; empty while it stands."""
        self.on_loss: Callable[[], None] | None = None

    async def connect(self) -> bool:
        """As the library's, but the reason of a failure is raised (OSError, TimeoutError) instead of logged."""
        async with asyncio.timeout(self.comm_params.timeout_connect):
            self.transport, _ = await self.call_create()
        return True

    async def execute(self, no_response_expected: bool, request: ModbusPDU) -> ModbusPDU:
        """Send and wait for the answer. Raises NoAnswer, WrongAnswer or NotConnected."""
        if self.transport is None:
            raise NotConnected(self.loss or "the connection is closed")
        tid = request.transaction_id = self.getNextTID()
        answer = self._pending[tid] = self.loop.create_future()
        deadline = self.loop.call_later(self.comm_params.timeout_connect, _expire, answer)
        try:
            self.transport.write(self.framer.buildFrame(request))
            return await answer
        finally:
            deadline.cancel()
            del self._pending[tid]  # what comes later under this number belongs to nobody

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames. A stream that is not Modbus ends the connection: there is no way back into step."""
        buffer = self._received + data if self._received else data
        at = 0
        while len(buffer) - at > _HEADER:
            length = int.from_bytes(buffer[at + 4 : at + 6], "big")
            if length == 2 and buffer[at + _HEADER] & 0x80:
                length = 3  # devices that forget to count the exception code
            if buffer[at + 2 : at + 4] != b"\0\0" or not 3 <= length <= _LONGEST:
                self._end("the other side does not speak Modbus TCP")
                return
            if len(buffer) - at < 6 + length:
                break
            self._frame(buffer[at : at + 6 + length])
            at += 6 + length
        self._received = buffer[at:]

    def callback_disconnected(self, exc: Exception | None) -> None:
        """The connection is gone: so is every answer that was waited for."""
        super().callback_disconnected(exc)
        why = reason_of(exc) if isinstance(exc, ssl.SSLError) else exc or "closed by the other side"
        self.loss = self.loss or f"connection lost: {why}"
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(NotConnected(self.loss))
        if self.on_loss is not None:
            self.on_loss()

    def _end(self, why: str) -> None:
        self._received, self.loss = b"", why
        self.transport.abort()

    def _frame(self, frame: bytes) -> None:
        answer = self._pending.get(int.from_bytes(frame[:2], "big"))
        if answer is None or answer.done():
            return  # late: its request has been given up
        pdu = None
        if frame[_HEADER] & 0x7F in _REQUESTS:
            with suppress(ModbusException):  # the library has no better word for it than ours below
                _, pdu = self.framer.handleFrame(frame, 0, 0)
        if pdu is None:
            answer.set_exception(WrongAnswer(f"not an answer to a read request: {frame[_HEADER:].hex(' ')[:60]}"))
        else:
            answer.set_result(pdu)


def _expire(answer: asyncio.Future[ModbusPDU]) -> None:
    if not answer.done():
        answer.set_exception(NoAnswer("no answer in time"))


class TcpConnection:
    """An open TCP connection; see `exchange.Connection`."""

    def __init__(self, client: AsyncModbusTcpClient, transactions: _Transactions) -> None:
        self._client, self._transactions = client, transactions

    async def read(self, span: Span) -> bytes:
        """Ask and check the answer."""
        request = _REQUESTS[span.function](address=span.start, count=span.length, dev_id=span.unit)
        response = await self._transactions.execute(False, request)
        if response.dev_id != span.unit:
            raise WrongAnswer(f"unit {span.unit} was asked and unit {response.dev_id} answered")
        if response.function_code == span.function | 0x80:
            raise Refused(response.exception_code)
        if response.function_code != span.function:
            raise WrongAnswer(f"function code {span.function} was asked and {response.function_code} answered")
        raw: bytes = response.raw
        if len(raw) != span.answer_bytes:
            raise WrongAnswer(f"{span.answer_bytes} bytes were asked and {len(raw)} answered")
        return raw

    @property
    def loss(self) -> str:
        """Why the connection is gone; empty while it stands."""
        return str(self._transactions.loss)

    def on_loss(self, callback: Callable[[], None] | None) -> None:
        """Call this when the connection is lost, instead of what was named before."""
        self._transactions.on_loss = callback

    async def aclose(self) -> None:
        """Close the socket."""
        self._transactions.on_loss = None
        self._transactions.loss = self._transactions.loss or "the connection is closed"
        self._client.close()
        await asyncio.sleep(0)  # the transport lets go of its socket on the loop's next turn


async def open_tcp(config: ModbusConfig, tls: ssl.SSLContext | None = None) -> TcpConnection:
    """Connect within the timeout, with TLS where a context is given. Raises OSError (SSLError is one) or TimeoutError."""
    client = AsyncModbusTcpClient(config.host, port=config.port, timeout=config.timeout.s, retries=0, reconnect_delay=0)
    for answer in (_Coils, _DiscreteInputs, _HoldingRegisters, _InputRegisters):
        client.register(answer)
    transactions = client.ctx = _Transactions(client)
    if tls is not None:  # the library's own TLS client leaves out the header that the standard keeps
        transactions.call_create = partial(
            transactions.loop.create_connection,
            transactions.handle_new_connection,
            config.host,
            config.port,
            ssl=tls,
            server_hostname=config.server_name or config.host,
            ssl_shutdown_timeout=1.0,
        )
    await client.connect()
    return TcpConnection(client, transactions)
