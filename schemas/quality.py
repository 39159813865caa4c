"""Quality codes: OPC UA StatusCode, uint32, from the wire to Parquet.

The two highest bits are the severity: 00 good, 01 uncertain, 10 bad (OPC 10000-4, 7.39). Names and numbers follow the OPC
Foundation's StatusCode.csv. Other protocols map their failures to the code that says the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

GOOD: Final = 0x0000_0000
UNCERTAIN: Final = 0x4000_0000
BAD: Final = 0x8000_0000
BAD_CONFIGURATION_ERROR: Final = 0x8089_0000
BAD_NOT_CONNECTED: Final = 0x808A_0000
BAD_DEVICE_FAILURE: Final = 0x808B_0000
BAD_SENSOR_FAILURE: Final = 0x808C_0000
BAD_OUT_OF_SERVICE: Final = 0x808D_0000
BAD_NO_COMMUNICATION: Final = 0x8031_0000
BAD_WAITING_FOR_INITIAL_DATA: Final = 0x8032_0000
BAD_COMMUNICATION_ERROR: Final = 0x8005_0000
BAD_TIMEOUT: Final = 0x800A_0000
BAD_DECODING_ERROR: Final = 0x8007_0000
BAD_ENCODING_LIMITS_EXCEEDED: Final = 0x8008_0000
BAD_DATA_TYPE_ID_UNKNOWN: Final = 0x8011_0000
BAD_NODE_ID_UNKNOWN: Final = 0x8034_0000
BAD_INDEX_RANGE_NO_DATA: Final = 0x8037_0000
BAD_NOT_READABLE: Final = 0x803A_0000
BAD_OUT_OF_RANGE: Final = 0x803C_0000
BAD_NO_MATCH: Final = 0x806F_0000
BAD_TYPE_MISMATCH: Final = 0x8074_0000
BAD_NO_DATA: Final = 0x809B_0000
UNCERTAIN_LAST_USABLE_VALUE: Final = 0x4090_0000
UNCERTAIN_ENGINEERING_UNITS_EXCEEDED: Final = 0x4094_0000
OVERFLOW: Final = 0x0000_0480
"""Info bits of a good value behind which the server's queue dropped others (info type DataValue 0x400, overflow 0x80)."""

_NAMES: Final = {
    value: "".join(part.capitalize() for part in name.split("_"))
    for name, value in list(globals().items())
    if isinstance(value, int) and name.isupper() and name != "OVERFLOW"
}


def is_good(quality: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """True where the severity bits say good. quality uint32[n] -> bool[n]."""
    good: npt.NDArray[np.bool_] = (quality & np.uint32(0xC000_0000)) == 0
    return good


def is_bad(quality: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """True where the severity bits say bad. quality uint32[n] -> bool[n]."""
    bad: npt.NDArray[np.bool_] = quality >= np.uint32(BAD)
    return bad


def name(quality: int) -> str:
    """The standard name, `BadTimeout`; a code without one here shows its severity and number, `Bad 0x80ab0000`."""
    base = quality & 0xFFFF_0000
    found = _NAMES.get(base)
    if found is None:
        found = f"{('Good', 'Uncertain', 'Bad', 'Bad')[base >> 30]} 0x{base:08x}"
    return f"{found} (overflow)" if quality & OVERFLOW == OVERFLOW else found
