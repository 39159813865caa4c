"""How long frames take on a serial line, and what follows for planning. Pure.

Character times and silent intervals are those of MODBUS over Serial Line Specification and Implementation Guide V1.02, 2.5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .config import ModbusConfig, SerialConfig
from .plan import Span

_REQUEST_BYTES: Final = 8  # unit, function, start, count, checksum
_ANSWER_BYTES: Final = 5  # unit, function, byte count, checksum
_SILENT_CHARACTERS: Final = 3.5
_SHORTEST_SILENCE_S: Final = 0.00175  # above 19,200 baud the standard fixes it


@dataclass(frozen=True, slots=True)
class Timing:
    """One serial line: seconds per character, of the silence between frames, and that a device takes to answer."""

    character_s: float
    silence_s: float
    turnaround_s: float

    @property
    def max_gap(self) -> int:
        """Unused registers that are read along for less than a request of their own costs."""
        overhead_s = self.exchange_s(Span(1, 3, 0, 0))
        return int(overhead_s / self.character_s / 2)

    def answer_s(self, span: Span) -> float:
        """From the first bit of the request to the last one of the answer, without the time that the device takes."""
        return (_REQUEST_BYTES + _ANSWER_BYTES + span.answer_bytes) * self.character_s

    def exchange_s(self, span: Span) -> float:
        """How long the line is taken by one read: both frames, both silences and the turnaround of the device."""
        return self.answer_s(span) + 2 * self.silence_s + self.turnaround_s


def timing_of(serial: SerialConfig) -> Timing:
    """The timing of a line; a character has a start bit, eight data bits, the parity bit if any, and its stop bits."""
    bits = 1 + 8 + (serial.parity != "none") + serial.stop_bits
    character_s = bits / serial.baud
    return Timing(character_s, max(_SILENT_CHARACTERS * character_s, _SHORTEST_SILENCE_S), serial.turnaround.s)


def line_of(config: ModbusConfig) -> Timing | None:
    """The timing of the serial line that a connection leads to; None where there is none."""
    return timing_of(config.serial or SerialConfig()) if config.transport in ("rtu", "rtu+tcp") else None
