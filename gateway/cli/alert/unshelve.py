"""`genba alert unshelve`: take back what was shelved."""

from __future__ import annotations

from ._place import change

command = change("unshelve", "Take back what was shelved, before its time is over.")
