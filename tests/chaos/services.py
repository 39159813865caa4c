"""What a client may ask of a device: reading, and what a session needs. Everything else changes something there."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

READING: Final[Mapping[str, frozenset[int]]] = {
    "modbus": frozenset({1, 2, 3, 4, 43}),  # coils, discrete inputs, holding and input registers, device identification
    "rtu": frozenset({1, 2, 3, 4, 43}),
    "s7": frozenset({0x04, 0xF0}),  # read variable, set up communication
    # GetEndpoints, OpenSecureChannel, CloseSecureChannel, CreateSession, ActivateSession, CloseSession, Cancel, Browse, BrowseNext,
    # TranslateBrowsePaths, Read, HistoryRead, CreateMonitoredItems, ModifyMonitoredItems, SetMonitoringMode, DeleteMonitoredItems,
    # CreateSubscription, ModifySubscription, SetPublishingMode, Publish, Republish, TransferSubscriptions, DeleteSubscriptions
    "opcua": frozenset(
        {428, 446, 452, 461, 467, 473, 479, 527, 533, 554, 631, 664, 751, 763, 769, 781, 787, 793, 799, 826, 832, 841, 847}
    ),
}
"""Function codes, S7 functions, and the numbers of request types (OPC 10000-6, annex A), by protocol."""


def modbus(message: bytes) -> int:
    """The function code of an MBAP frame."""
    return message[7]


def rtu(message: bytes) -> int:
    """The function code of an RTU frame."""
    return message[1]


def s7(message: bytes) -> int | None:
    """The function of a job; None for the connection's own messages."""
    if message[5] != 0xF0:
        return None
    return message[17] if message[8] == 1 else 0x100 | message[8]


def opcua(message: bytes) -> int | None:
    """The request type of an unencrypted message; None for Hello and for the further chunks of a message."""
    if message[:3] == b"HEL":
        return None
    at = 24
    if message[:3] == b"OPN":
        at = 12
        for _ in range(3):  # policy, certificate, thumbprint
            at += 4 + max(0, struct.unpack_from("<i", message, at)[0])
        at += 8
    return int(struct.unpack_from("<H", message, at + 2)[0]) if message[at] == 1 else -1


OF: Final[Mapping[str, Callable[[bytes], int | None]]] = {"modbus": modbus, "rtu": rtu, "s7": s7, "opcua": opcua}
