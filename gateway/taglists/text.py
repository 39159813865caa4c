"""Bytes of an exported file as text: byte order marks, UTF-8, and the code pages of Windows in Japan and in the West."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError

LARGEST: Final = 64 * 2**20
"""Bytes of one file."""
_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_KANA: Final = re.compile(r"[\u3041-\u30fe]|[\uff66-\uff9f]{2}|[\u4e00-\u9fff]{2}")
_FOREIGN: Final = re.compile(r"[\ue000-\uf8ff]")


def read_bytes(path: Path) -> bytes:
    """The file. Raises ConfigError where it cannot be read or is larger than `LARGEST`."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"has more than {LARGEST >> 20} MiB", where=str(path), hint="export fewer tags at once")
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=str(path), hint=f"looked for {path.absolute()}") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


def decode(raw: bytes, path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text and the encoding that it was read in. Without `encoding`: a byte order mark, UTF-8, cp932 where that makes Japanese, cp1252.

    Raises ConfigError for an encoding that is not there or does not fit.
    """
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return _strict(raw[len(mark) :], name, path), name
    if encoding:
        return _strict(raw, encoding, path), encoding
    for name in ("utf-8", "cp932", "cp1252"):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if name != "cp932" or (_KANA.search(text) and not _FOREIGN.search(text)):
            return text, name
    return raw.decode("latin-1"), "latin-1"


def _strict(raw: bytes, encoding: str, path: Path) -> str:
    try:
        return raw.decode(encoding)
    except LookupError:
        raise ConfigError(f"no encoding is called {encoding}", hint="write utf-8, cp932, cp1252 or utf-16") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"line {line} is not {encoding} text", where=str(path), hint="name another one with --encoding"
        ) from None
