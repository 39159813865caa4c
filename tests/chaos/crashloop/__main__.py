"""The whole gateway, killed with SIGKILL at random moments and at named points, against simulated devices, two lakes and IoT Core's stand-in.

`python -m tests.chaos.crashloop --quick --seed 7 --json part.json`
"""

from __future__ import annotations

import sys

from tests.proof import command

from .loop import run

if __name__ == "__main__":
    sys.exit(command("crash loop", run, __doc__))
