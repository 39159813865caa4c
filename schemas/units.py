"""Units: UCUM codes in storage, everyday spellings in and out.

`normalise` turns what people and devices write into the code that is stored; `display` turns a code into what people read.
`normalise(display(code)) == code` for every code, so nothing is lost on the way to a person and back.
Source: The Unified Code for Units of Measure 2.2, section 2 (grammar), case-sensitive.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from .unit_table import AMBIGUOUS, ATOMS, FOLDED, METRIC_ATOMS, PREFIXES, TABLE

_CHARACTERS: Final = str.maketrans(
    {"μ": "u", "Ω": "Ohm", "·": ".", "⋅": ".", "∙": ".", "×": ".", "−": "-", "∕": "/", "⁄": "/", "÷": "/"}
)
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_OPERAND: Final = r"(?:\{[^{}]*\}|\[[^\]]*\]|[^/.()\s{}\[\]])+"
_TOKEN: Final = re.compile(rf"{_OPERAND}|[/.()]|\s+")
_COMPONENT: Final = re.compile(
    r"(?P<unit>10[*^]|[^{}0-9]*?(?:\[[^\]]*\])?[^{}0-9]*?)(?P<exponent>[+-]?[0-9]+)?(?P<note>\{[!-z|~]*\})?"
)
_DECIMAL: Final = re.compile(r"(?:^|[/.( ])[0-9]+[.,][0-9]")  # UCUM would read 2.5 as 2 times 5
_FACTOR: Final = re.compile(r"[1-9][0-9]*(?:\{[!-z|~]*\})?")


def normalise(text: str) -> str:
    """The UCUM code of a unit as people or devices write it: `°C` -> `Cel`, `m³` -> `m3`, `rpm` -> `{rev}/min`.

    UCUM codes come back as they are. Raises ValueError for what is neither, with the nearest known spelling, and for `C` and
    `F` alone, which could be a temperature or an electrical unit.
    """
    return _normalise(text)


@lru_cache(maxsize=4096)
def _normalise(text: str) -> str:
    plain = _plain(text)
    if not plain:
        raise ValueError("the unit is empty; write 1 for a number without a unit")
    if plain in AMBIGUOUS:
        raise ValueError(f"ambiguous unit {text!r}: {AMBIGUOUS[plain]}")
    if _DECIMAL.search(plain):
        raise ValueError(f"a unit holds no decimal number: {text!r}; scale the value instead")
    code = _spelled(plain) or _composed(plain)
    if code is None:
        raise ValueError(f"unknown unit {text!r}{_suggestion(plain)}")
    return code


@lru_cache(maxsize=4096)
def display(code: str) -> str:
    """A UCUM code as people read it: `Cel` -> `°C`, `m3` -> `m³`, `um` -> `µm`, `{rev}/min` -> `rpm`.

    Where people have no spelling that leads back to the same code, the code itself.
    """
    text = _shown(code)
    try:
        return text if _normalise(text) == code else code
    except ValueError:
        return code


def is_code(text: str) -> bool:
    """True when `text` is a UCUM code of known atoms: `kW.h`, `m3/h`, `/min`, `W/(m2.K)`, `{pcs}`, `10*3/uL`."""
    tokens = _TOKEN.findall(text)
    if not tokens or "".join(tokens) != text:
        return False
    if tokens[0] == "/":
        tokens = tokens[1:]
    rest = _term(tokens)
    return rest is not None and not rest


def _term(tokens: list[str]) -> list[str] | None:
    """Reads `component (("." | "/") component)*`; what follows it, or None when it is no term."""
    rest = _component(tokens)
    while rest and rest[0] in ("/", "."):
        rest = _component(rest[1:])
    return rest


def _component(tokens: list[str]) -> list[str] | None:
    if not tokens:
        return None
    if tokens[0] == "(":
        rest = _term(tokens[1:])
        return rest[1:] if rest and rest[0] == ")" else None
    return tokens[1:] if _is_operand(tokens[0]) else None


def _is_operand(token: str) -> bool:
    """One unit with prefix, exponent and annotation; an annotation alone; or a whole number."""
    if _FACTOR.fullmatch(token):
        return True
    match = _COMPONENT.fullmatch(token)
    if match is None:
        return False
    unit = match["unit"]
    if not unit:
        return match["note"] is not None and match["exponent"] is None
    return _split_prefix(unit) is not None


def _split_prefix(unit: str) -> tuple[str, str] | None:
    """`mm` -> (`m`, `m`), `min` -> (``, `min`); None for no unit. A whole atom wins over prefix and atom."""
    if unit in ATOMS:
        return "", unit
    for prefix in PREFIXES:
        if unit.startswith(prefix) and unit[len(prefix) :] in METRIC_ATOMS:
            return prefix, unit[len(prefix) :]
    return None


def _plain(text: str) -> str:
    """One spelling for the many characters: compatibility forms (℃, ㎥, superscripts), signs of multiplication, `^`, blanks."""
    text = text.replace("º", "°").replace("˚", "°")  # before NFKC, which makes a letter o and a blank of them
    plain = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    plain = re.sub(r"(?<!10)(?:\*\*|\^)(?=[+-]?[0-9])", "", plain)
    plain = re.sub(r"(?<!10)\*", ".", plain)
    return " ".join(plain.split())


def _spelled(plain: str) -> str | None:
    """The code of a spelling of the table, in any letter case where that is safe."""
    return _SPELLINGS.get(plain) or _ANY_CASE.get(plain.casefold())


def _operand(token: str) -> str | None:
    """The code of one part of a compound unit: `kWh` -> `kW.h`, `ft2` -> `[ft_i]2`, and codes as they are."""
    if token in _SPELLINGS:
        return _SPELLINGS[token]
    base = token.rstrip("0123456789").rstrip("+-")
    spelled = _SPELLINGS.get(base)
    if spelled and base != token and _split_prefix(spelled) and token[len(base) :]:
        return spelled + token[len(base) :]
    if _is_operand(token):
        return token
    return _ANY_CASE.get(token.casefold())


def _composed(plain: str) -> str | None:
    """The code of a compound unit, part by part; blanks between two units multiply."""
    tokens = _TOKEN.findall(plain)
    if "".join(tokens) != plain:
        return None
    out: list[str] = []
    for position, token in enumerate(tokens):
        if token.isspace():
            beside = tokens[position - 1], tokens[position + 1]
            out.append("" if any(t in "/.()" for t in beside) else ".")
            continue
        if token in "/.()":
            out.append(token)
            continue
        code = _operand(token)
        if code is None:
            return None
        divided = bool(out) and "".join(out).endswith("/")
        out.append(f"({code})" if divided and code != token and ("/" in code or "." in code) else code)
    code = "".join(out)
    if code.startswith("1/"):
        code = code[1:]
    return code if is_code(code) else None


def _shown(code: str) -> str:
    """The spelling for people, not yet checked to lead back."""
    if code in TABLE:
        return TABLE[code][0]
    out = ["1"] if code.startswith("/") else []
    for part in re.split(r"(/)", code) if "(" not in code else [code]:
        if part in TABLE:
            out.append(TABLE[part][0])
        else:
            out.extend("·" if token == "." else _shown_operand(token) for token in _TOKEN.findall(part))
    return "".join(out)


def _shown_operand(token: str) -> str:
    if token in TABLE:
        return TABLE[token][0]
    match = _COMPONENT.fullmatch(token)
    found = _split_prefix(match["unit"]) if match else None
    if match is None or found is None or match["unit"] in ("10*", "10^"):
        return token
    prefix, atom = found
    name = TABLE[match["unit"]][0] if match["unit"] in TABLE else prefix.replace("u", "µ") + TABLE.get(atom, (atom,))[0]
    return name + (match["exponent"] or "").translate(_SUPERSCRIPT) + (match["note"] or "")


def _suggestion(plain: str) -> str:
    folded = {spelling.casefold(): code for spelling, code in _SPELLINGS.items()} | {code.casefold(): code for code in _COMMON}
    near = get_close_matches(plain.casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f", did you mean {display(folded[near[0]])!r}?"
    return "; units are UCUM codes such as mm/s, kPa or Cel, and 1 for a number without a unit"


_SPELLINGS: Final = {_plain(spelling): code for code, spellings in TABLE.items() for spelling in spellings}
_COMMON: Final = (
    "kPa",
    "MPa",
    "mbar",
    "bar",
    "mm/s",
    "m/s",
    "kW",
    "MW",
    "mA",
    "mV",
    "kV",
    "kHz",
    "MHz",
    "mS/cm",
    "mg/l",
    "kg/h",
    "t/h",
    "kJ",
)
_ANY_CASE: Final = {_plain(s).casefold(): code for code, s_ in TABLE.items() for s in s_ if _plain(s).casefold() in FOLDED} | {
    code.casefold(): code for code in (*_COMMON, "kg/h", "mm", "cm", "kW.h") if code.casefold() in FOLDED
}
