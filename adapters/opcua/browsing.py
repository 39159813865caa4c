"""The options of `genba browse opcua`. Imports no protocol library."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from .access import OpcuaAccess

OBJECTS: Final = "/Objects"
Pin = Literal["auto", "node", "path"]


class BrowseOptions(OpcuaAccess):
    """What to walk, and how its variables are named and pinned."""

    root: str = Field(OBJECTS, description="Where to begin: a node id or a browse path.")
    match: list[str] = Field(
        default_factory=list,
        description="Take only variables whose path below the root fits: `**/motor_*`; `*` within one name, `**` any number of names",
    )
    pin: Pin = Field(
        "auto",
        description="Address to write: `node` (node id with namespace URI), `path` (browse path with namespace URIs), or `auto`: the node "
        "id where it is a name, the path where it is a number, since servers hand out numbers anew",
    )
    flat: bool = Field(False, description="Write no assets: the folders become part of the names")
    properties: bool = Field(False, description="Take properties of nodes too")
    standard: bool = Field(False, description="Take what the standard defines on every server too, as the Server object")
    values: bool = Field(False, description="Read each value once and show it")
    max_nodes: int = Field(100_000, ge=1, le=5_000_000, description="Nodes to look at before giving up")
    depth: int = Field(32, ge=1, le=100, description="Levels below the root to go down")


SCOPE: Final = ("root", "match", "properties", "standard", "max_nodes", "depth")
"""The options that decide what a walk can find."""
