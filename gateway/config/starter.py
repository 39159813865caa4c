"""The configuration that `genba init` writes: one device, one alarm, one lake, and what else there is in comments."""

from __future__ import annotations

from importlib import resources

from .schema import MODELINE

_HERE = "gateway.config"


def starter() -> str:
    """The text of the file; it passes `genba check`."""
    text = resources.files(_HERE).joinpath("starter.yaml").read_text(encoding="utf-8")
    return f"{MODELINE}\n{text}"
