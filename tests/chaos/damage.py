"""Damage: a small segment and a ledger with every bit flipped, one by one, and cut off at every byte; each opened again.

`python -m tests.chaos.damage --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Final
from unittest.mock import patch

import structlog

from gateway.spool import format as f
from tests.gateway.spool.damage import flip_every_bit, flip_the_ledger, truncate_everywhere, truncate_the_footer
from tests.proof import Proof, command

WAYS: Final[dict[str, Callable[[], int]]] = {
    "bits of an open segment": partial(flip_every_bit, closed=False),
    "bits of a closed segment": partial(flip_every_bit, closed=True),
    "bits of the ledger": flip_the_ledger,
    "ends of a file": partial(truncate_everywhere, preallocated=False),
    "ends before zeros": partial(truncate_everywhere, preallocated=True),
    "ends of a footer": truncate_the_footer,
}


def _wrong(way: Callable[[], int], proof: Proof | None = None) -> str:
    """What is wrong after one of these damages; nothing where all is as it must be."""
    try:
        with structlog.testing.capture_logs():
            tried = way()
    except Exception as error:  # noqa: BLE001 - whatever damage leads to is what is looked for
        return f"{type(error).__name__}: {error}"[:300]
    if proof is not None:
        proof.figures["states"] += tried
    return ""


def run(seed: int, quick: bool) -> Proof:
    """All of them: there is nothing to draw, and the release tier is as short as the quick one."""
    del quick
    proof = Proof("damage", seed, {"states": 0})
    proof.wrong += [f"{name}: {found}" for name, way in WAYS.items() if (found := _wrong(way, proof))]
    with patch.object(f, "checksum", lambda data, before=0: 7):
        proof.controls["no CRC of the segments"] = _wrong(WAYS["bits of an open segment"])
    with patch("gateway.spool.ledger_file.checksum", lambda data, before=0: 7):
        proof.controls["no CRC of the ledger"] = _wrong(flip_the_ledger)
    return proof


if __name__ == "__main__":
    sys.exit(command("damage", run, __doc__))
