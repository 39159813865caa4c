"""`genba alert out-of-service`: take alarms out of service."""

from __future__ import annotations

from ._place import change

command = change(
    "out_of_service", "Take an alarm, or all of a tag or asset, out of service: nobody is told until it is put back."
)
