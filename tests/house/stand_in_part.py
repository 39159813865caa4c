"""A part of a proof that does as GENBA_STAND_IN says, for the tests of `make prove`."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.proof import Proof, command

WHAT = os.environ.get("GENBA_STAND_IN", "proven")


def run(seed: int, quick: bool) -> Proof:
    if WHAT == "hangs":  # and so does what it started, in a session of its own
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        time.sleep(600)
    if WHAT == "dies":
        os._exit(3)
    controls = {"proven": {"no CRC": "a bit"}, "misses": {"no CRC": ""}}.get(WHAT, {})
    figures = {"kills": 2, "lost": int(WHAT == "loses"), "rows_acknowledged": 1_500}
    return Proof("stand-in", seed, figures, controls=controls, measured={"nice": os.nice(0)})


if __name__ == "__main__":
    sys.exit(command("stand-in", run, __doc__))
