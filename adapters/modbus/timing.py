"""How long frames take on a serial line, and what follows for planning. Pure.

Character times and silent intervals are those of MODBUS over Serial Line Specification and Implementation Guide V1.02, 2.5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .config import ModbusConfig, SerialConfig
from .exchange import Ask
from .plan import Span

_LONGEST_PDU: Final = 253
_REQUEST: Final = 5  # bytes of the PDU that asks for a span
_SILENT_CHARACTERS: Final = 3.5
_SHORTEST_SILENCE_S: Final = 0.00175  # above 19,200 baud the standard fixes it


@dataclass(frozen=True, slots=True)
class Timing:
    """One serial line: seconds per character, of the silence between frames, and that a device takes to answer."""

    character_s: float
    silence_s: float
    turnaround_s: float
    ascii: bool = False

    @property
    def max_gap(self) -> int:
        """Unused registers that are read along for less than a request of their own costs."""
        overhead_s = self.exchange_s(Span(1, 3, 0, 0))
        return int(overhead_s / self.character_s / (4 if self.ascii else 2))

    def answer_s(self, span: Span) -> float:
        """From the first bit of the request to the last one of the answer, without the time that the device takes."""
        return (self._characters(_REQUEST) + self._characters(2 + span.answer_bytes)) * self.character_s

    def longest_s(self, ask: Ask) -> float:
        """As `answer_s`, for whatever is asked; an answer whose length is not known before takes the time of the longest."""
        if isinstance(ask, Span):
            return self.answer_s(ask)
        return (self._characters(_REQUEST) + self._characters(_LONGEST_PDU)) * self.character_s

    def _characters(self, pdu: int) -> int:
        """Of a frame: RTU adds unit and CRC, ASCII writes two digits a byte and adds colon, unit, LRC and line end."""
        return 2 * pdu + 7 if self.ascii else pdu + 3

    def exchange_s(self, span: Span) -> float:
        """How long the line is taken by one read: both frames, both silences and the turnaround of the device."""
        return self.answer_s(span) + 2 * self.silence_s + self.turnaround_s


def timing_of(serial: SerialConfig, *, ascii_: bool = False) -> Timing:
    """The timing of a line; a character has a start bit, its data bits, the parity bit if any, and its stop bits."""
    bits = 1 + (serial.data_bits or (7 if ascii_ else 8)) + (serial.parity != "none") + serial.stop_bits
    character_s = bits / serial.baud
    silence_s = character_s if ascii_ else max(_SILENT_CHARACTERS * character_s, _SHORTEST_SILENCE_S)
    return Timing(character_s, silence_s, serial.turnaround.s, ascii_)


def line_of(config: ModbusConfig) -> Timing | None:
    """The timing of the serial line that a connection leads to; None where there is none."""
    return timing_of(config.line, ascii_=config.is_ascii) if config.is_line else None
