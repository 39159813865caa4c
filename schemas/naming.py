"""Names of tags and assets from what devices and engineering tools call things: `MotorTemp (°C)` -> `motor_temp_c`."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_HUMP: Final = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[0-9])(?=[A-Z][^\W\d_A-Z])|(?<=[A-Z])(?=[A-Z][^\W\d_A-Z])")
_JOINTS: Final = re.compile(r"[\W_]+")
LONGEST: Final = 120
"""Characters of one name; what is longer is cut, and made unique afterwards by whoever writes it."""


def slug(text: str, joint: str = "_") -> str:
    """Lower-case words of letters and digits of any script, joined by `joint`; words in one (`MotorTemp`, `PLCTags`) are told apart.

    Empty when the text holds no letter and no digit. The same text always gives the same name, and a name gives itself.
    """
    plain = unicodedata.normalize("NFKC", text)
    words = [word for word in _JOINTS.split(_HUMP.sub(" ", plain)) if word]
    return joint.join(words).lower()[:LONGEST].rstrip(joint)


def tag_name(*parts: str) -> str:
    """The name of a tag: `Line 2`, `MotorTemp` -> `line_2_motor_temp`; `tag` where nothing is left."""
    return "_".join(name for name in map(slug, parts) if name)[:LONGEST].rstrip("_") or "tag"


def asset_path(*parts: str) -> str | None:
    """An asset path: `Plant A`, `Robot_3` -> `plant-a/robot-3`; None where nothing is left."""
    return "/".join(name for part in parts if (name := slug(part, "-"))) or None
