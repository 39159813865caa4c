"""The gateway: the only package that knows the others, and that nobody imports."""

import os
import sys

__version__ = "0.1.0"

if sys.platform == "linux":
    # Before pyarrow is there, which asks for it once. It gives freed pages back from whatever thread, which its default does not, and a lake file
    # of half a million rows peaks a tenth lower.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
