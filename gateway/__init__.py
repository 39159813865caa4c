"""The gateway: the only package that knows the others, and that nobody imports."""

import os
import platform

__version__ = "0.1.0"

# Before pyarrow is there, which asks for it once. Either gives freed pages back from whatever thread, which its default does not; with jemalloc a
# lake file of half a million rows peaks a tenth lower, but Arrow has it on this architecture only.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc" if platform.machine() == "x86_64" else "system")
