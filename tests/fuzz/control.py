"""The control of the coverage-guided search: `python -m tests.fuzz.control` fuzzes a decoder that is broken behind three magic bytes."""

from __future__ import annotations

import sys

import atheris

from tests.fuzz import coverage
from tests.fuzz.harness import Target


@atheris.instrument_func  # type: ignore[untyped-decorator]
def believing(data: bytes) -> None:
    """Allocates what the fourth byte says, in steps of 64 kB, behind `jz!`."""
    if len(data) < 4:
        return
    if data[0] == 0x6A:  # noqa: SIM102 (each condition is a step that the search can see)
        if data[1] == 0x7A:  # noqa: SIM102
            if data[2] == 0x21:  # noqa: SIM102
                if data[3] > 16:
                    bytearray(data[3] << 16)


if __name__ == "__main__":
    coverage.TARGETS.clear()
    coverage.TARGETS["control"] = Target("control", believing, lambda: [b"abcdef"], longest=16)
    sys.exit(coverage.main())
