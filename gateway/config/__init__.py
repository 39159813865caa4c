"""The YAML file of a plant: read with positions, checked as a whole without touching the network, given as one value.

Three phases: text to plain data (`document`, `secrets`, `merge`, `tagfile`), data to checked values (`validate`, `resolve`,
`cross`), and connecting, which is not done here. `load` is for whoever runs something, `examine` for whoever shows findings.
"""

from .diagnose import ConfigurationInvalid, Diagnostic
from .loading import Configuration, examine, load
from .plant import PlantConfig, RouteRule, SpoolConfig, StatusConfig

__all__ = [
    "Configuration",
    "ConfigurationInvalid",
    "Diagnostic",
    "PlantConfig",
    "RouteRule",
    "SpoolConfig",
    "StatusConfig",
    "examine",
    "load",
]
