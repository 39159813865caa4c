"""Reconciles a lake with the ledger of a gateway's spool: every row that was acknowledged is there exactly once, or named.

The ledger is read before the lake and once more after it, so that a gateway may run meanwhile: what it had acknowledged before must be
there, and what is there must have been acknowledged, or be in flight, after. Only reads. Blocking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloud_sinks.parquet.audit import Audit, Counted, Finding, Span, audit
from cloud_sinks.parquet.shelf import Shelf
from gateway.spool.book import Book, Cursor
from gateway.spool.spans import Spans
from schemas.errors import ConfigError
from schemas.kinds import KINDS, Kind

_NAMED: Final = 1_000
"""At most so many spans are named for one finding; its `rows` counts all."""


@dataclass(frozen=True, slots=True)
class Reckoning:
    """One kind of data of the gateway: what the ledger says of rows `start` … `acked` - 1, and how many of them the lake holds."""

    kind: Kind
    sink: str
    gateway: str
    epoch: int
    start: int
    acked: int
    delivered: int
    filtered: int
    dropped: int
    dead_lettered: int
    found: int
    beyond: int  # rows in the lake that were acknowledged or in flight only since the ledger was first read

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Verdict:
    """What `verify` found. All is well when there is no finding of level problem."""

    location: str
    deep: bool
    files: int = 0
    rows: int = 0
    bytes: int = 0
    reckonings: list[Reckoning] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when all is well."""
        return not any(finding.level == "problem" for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """For programs; the keys are kept over versions."""
        return {
            "location": self.location, "deep": self.deep, "ok": self.ok, "files": self.files, "rows": self.rows, "bytes": self.bytes,
            "ledger": [one.as_json() for one in self.reckonings], "findings": [one.as_json() for one in self.findings],
        }  # fmt: skip


def verify(
    shelf: Shelf,
    location: str,
    *,
    look: Callable[[], Book] | None = None,
    sink: str | None = None,
    dead_letters: Path | None = None,
    kinds: Collection[Kind] = KINDS,
    deep: bool = False,
    now_us: int,
) -> Verdict:
    """Look at the lake, and compare it with the ledger that `look` reads, where one is given.

    `sink` is the lake's name in the ledger; the only one there, where it is not given. `dead_letters` is the folder of that sink's rejected
    rows. Raises ConfigError for a sink that the ledger does not know, and what the shelf raises where the lake cannot be reached.
    """
    verdict = Verdict(location, deep)
    before = look() if look is not None else None
    if before is not None:
        sink = sink_of(before, sink)
    found = audit(shelf, kinds=kinds, deep=deep, now_us=now_us)
    verdict.files, verdict.rows = len(found.files), sum(one.rows for one in found.files)
    verdict.bytes = sum(one.size for one in found.files)
    verdict.findings += found.findings
    if look is not None and before is not None and sink is not None:
        after = look()
        if (after.gateway, after.epoch) != (before.gateway, before.epoch):
            raise ConfigError("the spool was replaced by another one meanwhile", hint="run it again")
        for kind in kinds:
            cursor = before.cursors.get((kind, sink))
            if cursor is not None:
                _reckon(verdict, found, before, kind, sink, cursor, after.cursors.get((kind, sink), cursor), dead_letters)
    return verdict


def sink_of(book: Book, sink: str | None) -> str:
    """The lake's name in the ledger: as given, or the only one there. Raises ConfigError."""
    known = sorted({name for _, name in book.cursors})
    if sink is None and len(known) == 1:
        return known[0]
    if sink is None or sink not in known:
        which = "has no sink" if not known else f"knows {', '.join(known)}"
        problem = "it is not clear which sink this lake is" if sink is None else f"the ledger knows no sink {sink!r}"
        raise ConfigError(f"{problem}: the ledger {which}", hint="name the lake's with --sink")
    return sink


def _reckon(
    verdict: Verdict, found: Audit, book: Book, kind: Kind, sink: str, cursor: Cursor, now: Cursor, dead_letters: Path | None
) -> None:
    """One log. `cursor` is what the ledger said before the lake was looked at, `now` what it says after."""

    def tell(code: str, message: str, *, spans: Collection[Span] = (), rows: int = 0, level: str = "problem") -> None:
        named = tuple(spans)[:_NAMED]
        verdict.findings.append(
            Finding(code, "note" if level == "note" else "problem", message, "", kind, book.gateway, book.epoch, named, rows)
        )

    decided = cursor.acked - cursor.start
    accounted = cursor.delivered + cursor.filtered + cursor.dropped + cursor.dead_lettered
    if decided != accounted:
        tell(
            "unbalanced_ledger",
            f"the ledger says {decided:,} rows are decided and accounts for {accounted:,}",
            rows=abs(decided - accounted),
        )
    held: dict[Span, int] = {}
    early = beyond = inside = 0
    unknown: list[Span] = []
    for span, rows in _held(found.of_log(kind, book.gateway, book.epoch)).items():
        if span[1] < cursor.start:
            early += rows
        elif span[1] < cursor.acked:
            held[span] = rows
            inside += rows
        elif span[1] < now.acked or (now.cut is not None and span == (now.cut.first, now.cut.last)):
            beyond += rows
        else:
            unknown.append(span)
    verdict.reckonings.append(
        Reckoning(
            kind, sink, book.gateway, book.epoch, cursor.start, cursor.acked, cursor.delivered, cursor.filtered, cursor.dropped,
            cursor.dead_lettered, inside, beyond,
        )
    )  # fmt: skip
    if early:
        tell(
            "earlier_rows",
            f"{early:,} rows are from before the ledger's beginning; it cannot say whether they are complete",
            rows=early,
            level="note",
        )
    if unknown:
        rows = sum(last - first + 1 for first, last in unknown)
        tell(
            "unknown_rows",
            f"rows of {len(unknown):,} spans were never acknowledged and are not in flight: another spool wrote them",
            spans=unknown,
            rows=rows,
        )
    if inside > cursor.delivered:
        more = inside - cursor.delivered
        tell(
            "surplus_rows",
            f"{more:,} rows more than were delivered ({inside:,}, not {cursor.delivered:,}): doubled, or not this gateway's",
            rows=more,
        )
    if inside < cursor.delivered:
        missing = cursor.delivered - inside
        suspects, exact = _suspects(held, cursor, book, kind, _buried(dead_letters, kind, book.epoch))
        where = "" if exact else "one or several of "
        text = ", ".join(f"{first}-{last}" for first, last in suspects[:10]) + (" …" if len(suspects) > 10 else "")
        tell(
            "missing_rows",
            f"{missing:,} acknowledged rows are not in the lake; rows {where}{text or 'unknown'}",
            spans=suspects,
            rows=missing,
        )
    buried = _buried(dead_letters, kind, book.epoch)
    if dead_letters is not None and sum(buried.values()) < cursor.dead_lettered:
        gone = cursor.dead_lettered - sum(buried.values())
        tell(
            "dead_letters_gone",
            f"{gone:,} of {cursor.dead_lettered:,} rejected rows are not in {dead_letters}: taken away by somebody",
            rows=gone,
            level="note",
        )


def _held(files: Collection[Counted]) -> dict[Span, int]:
    """How many rows the lake holds of each span, over all dates, merged or not."""
    held: dict[Span, int] = {}
    for one in files:
        for source in one.sources if one.readable else ():
            span = (source.first, source.last)
            held[span] = held.get(span, 0) + source.rows
    return held


def _suspects(
    held: Mapping[Span, int], cursor: Cursor, book: Book, kind: Kind, buried: Mapping[Span, int]
) -> tuple[list[Span], bool]:
    """(spans in which rows may be missing, whether all of their rows are): no file answers for them, or fewer rows are there than they have.

    Where the route filtered rows or some were given up, the ledger counts them and does not say which: then the spans are suspects.
    """
    covered = Spans([(first, last + 1) for first, last in held])
    for first, end in book.gone.get(kind, Spans()):
        covered.add(first, end)
    for first, last in buried:
        covered.add(first, last + 1)
    holes = [(first, end - 1) for first, end in covered.missing_from(cursor.start, cursor.acked)]
    thin = sorted(span for span, rows in held.items() if rows < span[1] - span[0] + 1 and span not in buried)
    exact = not (cursor.filtered or cursor.dropped or cursor.dead_lettered or thin)
    return sorted(holes + thin), exact


def _buried(dead_letters: Path | None, kind: Kind, epoch: int) -> dict[Span, int]:
    """Spans with rejected rows, and how many."""
    found: dict[Span, int] = {}
    if dead_letters is None or not dead_letters.is_dir():
        return found
    for path in dead_letters.glob(f"{kind}-{epoch}-*.json"):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            found[int(about["first"]), int(about["last"])] = int(about["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
