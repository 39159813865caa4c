"""Requests as pymodbus encodes them, each once: a poll sends the same bytes again and again."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from .exchange import Ask, Identification
from .plan import Span

_READS: Final = {
    1: ReadCoilsRequest,
    2: ReadDiscreteInputsRequest,
    3: ReadHoldingRegistersRequest,
    4: ReadInputRegistersRequest,
}


@lru_cache(maxsize=8192)
def encoded(ask: Ask) -> bytes:
    """The PDU of a request: function code and data, without its framing."""
    request: ModbusPDU
    if isinstance(ask, Span):
        request = _READS[ask.function](address=ask.start, count=ask.length, dev_id=ask.unit)
    else:
        assert isinstance(ask, Identification)
        request = ReadDeviceInformationRequest(read_code=ask.level, object_id=ask.first, dev_id=ask.unit)
    data: bytes = request.encode()
    return bytes((ask.function,)) + data
