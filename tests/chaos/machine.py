"""State machine: hypothesis makes sequences of steps of spool, cursors and eviction, and compares them with plain lists.

`python -m tests.chaos.machine --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import sys

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.gateway.spool.test_machine import LyingMachine, SpoolMachine
from tests.proof import Proof, command


def _wrong(machine: type[SpoolMachine], seed: int, examples: int) -> str:
    """The first promise that is broken; nothing where all of the examples keep all."""
    given = settings(
        max_examples=examples, stateful_step_count=50, deadline=None, database=None, derandomize=False, report_multiple_bugs=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=given)
    except Exception as error:  # noqa: BLE001 - whatever is broken first is what is looked for
        inner = (
            error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        )  # of a failure that did not repeat, the first
        return f"{type(error).__name__}: {type(inner).__name__}: {inner}"[:300]
    return ""


def run(seed: int, quick: bool) -> Proof:
    """The examples, and the same on a drive that says flushed and has not."""
    proof = Proof("state machine", seed, {"states": 0})
    SpoolMachine.steps = 0
    found = _wrong(SpoolMachine, seed, 60 if quick else 2_000)
    proof.figures["states"] = SpoolMachine.steps
    proof.wrong += [found] if found else []
    proof.controls["a drive that does not flush"] = _wrong(LyingMachine, seed, 200)
    return proof


if __name__ == "__main__":
    sys.exit(command("state machine", run, __doc__))
