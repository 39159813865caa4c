"""One file: its lines for people, with secrets masked, and reading it at all."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

MASK: Final = "*"
_BREAK: Final = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")  # what libyaml counts as the end of a line
_SECRET_WORD: Final = re.compile(
    r"passw|pasw|pwd|passphrase|secret|token|credential|apikey|(api|private|access|shared|secret)_key|psk|(^|_)(pass|pin)$"
)
_ASSIGNMENT: Final = re.compile(r"""^\s*(?:-\s+)*["']?(?P<key>[\w.-]+)["']?\s*:(?:\s|$)""")
_SECRETS: Final = ("password", "passphrase", "passwd", "secret", "token", "credential", "private_key", "api_key")


class Span(NamedTuple):
    """A place in a file: line and column from 0, length in characters on that line."""

    line: int
    column: int
    length: int = 1


class Source:
    """One file: its name for people, its text, and the parts of it that are never shown."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        self.name, self.path, self.text = name, path, text
        self._lines: list[str] | None = None
        self._hidden: list[tuple[tuple[int, int], tuple[int, int]]] = []

    @property
    def lines(self) -> list[str]:
        """The lines of the file without their ends."""
        if self._lines is None:
            self._lines = _BREAK.split(self.text)
        return self._lines

    def hide(self, begin: tuple[int, int], end: tuple[int, int]) -> None:
        """Never show the text from `begin` to before `end` (line, column)."""
        self._hidden.append((begin, end))

    def shown(self, number: int, *, guess: bool = False) -> str:
        """A line as people may see it, secrets masked in place.

        With `guess` the file is not YAML and nobody knows what is a secret: then the names of the keys decide.
        """
        if not 0 <= number < len(self.lines):
            return ""
        line = self.lines[number]
        for (first, begin), (last, end) in self._hidden:
            if first <= number <= last:
                line = _masked(line, begin if number == first else 0, end if number == last else len(line))
        comment = line.find(" #")
        if comment >= 0 and any(map(sounds_secret, re.findall(r"\w+", line[comment:]))):
            line = _masked(line, comment + 2, len(line))
        return self._guessed(number, line) if guess else line

    def _guessed(self, number: int, line: str) -> str:
        """The line, or all of it masked when it or what it continues could hold a secret: even a mistyped or torn key counts."""
        above = self.lines[max(0, number - 2) : number]
        words = re.findall(r"\w+", " ".join([*above, line])) + re.findall(r"\w+", "".join([*above, line.lstrip()]))
        key = self._key_above(number)
        if any(map(_resembles_secret, words)) or (key is not None and sounds_secret(key)):
            begin = len(line) - len(line.lstrip())
            return _masked(line, begin, len(line))
        return line

    def _key_above(self, number: int) -> str | None:
        """The key that a line without a key of its own continues: it may be the middle of a private key."""
        if _ASSIGNMENT.match(self.lines[number]):
            return None
        for line in reversed(self.lines[:number]):
            match = _ASSIGNMENT.match(line)
            if match:
                return match["key"]
        return None


@lru_cache(maxsize=4096)
def sounds_secret(key: str) -> bool:
    """Whether a key of this name probably holds a secret, for places whose type is not known (unknown keys, broken YAML)."""
    return _SECRET_WORD.search(key.casefold().replace("-", "_")) is not None


def _resembles_secret(word: str) -> bool:
    """Whether a word is, or could be a slip of a finger for, the name of a secret. Slow: only for lines that are shown."""
    from gateway.suggest import nearest

    return sounds_secret(word) or nearest(word, _SECRETS) is not None


class Unreadable(Exception):
    """A file that cannot be read: what is wrong with it, and the way out. Never leaves this package."""

    def __init__(self, problem: str, hint: str, *, missing: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.hint, self.missing = problem, hint, missing


def read(path: Path, name: str) -> Source:
    """A text file, UTF-8, a byte order mark passed over. Raises Unreadable."""
    try:
        return Source(name, path, path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise Unreadable("there is no such file", f"looked for {path.absolute()}", missing=True) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Unreadable(f"line {line} is not UTF-8 text", "save it as UTF-8 (in a spreadsheet: “CSV UTF-8”)") from None
    except IsADirectoryError:
        raise Unreadable("this is a directory", "name the file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the name is not usable"
        raise Unreadable(f"cannot be read: {reason}", "check the path and its permissions") from None


def _masked(line: str, begin: int, end: int) -> str:
    """The same line with stars in place, so that a caret under it still fits."""
    return line[:begin] + MASK * max(0, end - begin) + line[end:]
