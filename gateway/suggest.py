"""Did-you-mean: the nearest of the words that would have been right."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word` (letter case, `-` and `_` do not count), or None when none is near."""
    from difflib import get_close_matches  # a mistake is rare, its import is not free

    plain: dict[str, str] = {}
    for candidate in candidates:
        plain.setdefault(_plain(candidate), candidate)
    found = get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`did you mean 'address'?`, or nothing when no candidate is near."""
    found = nearest(word, candidates)
    return f"did you mean {found!r}?" if found is not None else ""


def listed(words: Iterable[str], most: int = 12) -> str:
    """`a, b, c`, cut after `most` words."""
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")
