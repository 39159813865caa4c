"""`genba alert in-service`: put alarms back into service."""

from __future__ import annotations

from ._place import change

command = change("in_service", "Put back into service what was taken out of it.")
