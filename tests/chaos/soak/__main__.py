"""An hour of ten times the load of examples/plant.yaml, with troubles of every sink: memory, files and tasks do not grow, nothing is lost.

`python -m tests.chaos.soak --quick --seed 7 --json part.json`; `--minutes 15 --samples series.json` for a look of one's own.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tests.proof import Proof, command

from .run import QUICK, RELEASE, run


def main() -> int:
    """0 when it is a proof."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--minutes", type=float, help="instead of an hour; the first quarter is the warm-up")
    own.add_argument("--samples", type=Path, help="write the series of samples there, as JSON")
    given, _ = own.parse_known_args()

    def soak(seed: int, quick: bool) -> Proof:
        course = QUICK if quick else RELEASE
        if given.minutes is not None:
            course = replace(RELEASE, seconds=60 * given.minutes, warm_up_s=15 * given.minutes)
        return run(seed, course, given.samples)

    return command("soak", soak, __doc__, own)


if __name__ == "__main__":
    sys.exit(main())
