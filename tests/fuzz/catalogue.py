"""Every target there is, by name. Importing this imports every protocol library."""

from __future__ import annotations

from tests.fuzz import modbus_targets, opcua_targets, s7_targets, s7plus_targets, text_targets
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (modbus_targets, opcua_targets, s7_targets, s7plus_targets, text_targets)
    for target in module.TARGETS
}  # fmt: skip
