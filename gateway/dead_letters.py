"""Rows that a sink refused for good: Arrow files in the dead-letter directory, the reason beside each; and the way back.

`SINK/KIND-EPOCH-FIRST-LAST.arrow` has the rows, `.json` the reason, and an empty `.again` says that a person wants them delivered.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError, Rejected
from schemas.kinds import KINDS
from schemas.span import SpoolSpan

from .router import total_rows

if TYPE_CHECKING:
    from .spool import Spool

DIRECTORY: Final = "dead-letters"
"""Below the directory of the spool."""
_AGAIN: Final = ".again"


def bury(directory: Path, batches: Sequence[pa.RecordBatch], span: SpoolSpan, rejected: Rejected) -> int:
    """Write the rejected rows as an Arrow file with the reason beside it, durable when this returns; returns their number.

    Blocking; the files are named after the span, so that burying twice leaves one grave.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if rejected.rows:
        wanted = pa.array(sorted(rejected.rows), pa.int64())
        batches = [batch.filter(pc.is_in(batch.column(batch.num_columns - 1), value_set=wanted)) for batch in batches]
        batches = [batch for batch in batches if batch.num_rows]
    rows = total_rows(batches)
    if not rows:
        return 0
    stem = f"{span.kind}-{span.epoch}-{span.first:014d}-{span.last:014d}"
    with pa.OSFile(str(directory / f"{stem}.arrow.part"), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    reason = {
        "sink": directory.name,
        "kind": span.kind,
        "first": span.first,
        "last": span.last,
        "rows": rows,
        "reason": rejected.reason,
        "whole": not rejected.rows,
    }
    (directory / f"{stem}.json").write_text(json.dumps(reason, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name in (f"{stem}.arrow.part", f"{stem}.json"):
        descriptor = os.open(directory / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    os.replace(directory / f"{stem}.arrow.part", directory / f"{stem}.arrow")
    _flush(directory)
    return rows


@dataclass(frozen=True, slots=True)
class Grave:
    """The dead letters of one write. `path` is the Arrow file."""

    path: Path

    @property
    def sink(self) -> str:
        """Who refused them."""
        return self.path.parent.name

    @property
    def kind(self) -> str:
        """Kind of data, as the name says."""
        return self.path.stem.partition("-")[0]

    def span(self, gateway: str) -> SpoolSpan:
        """The span of the write. Raises ValueError for a name that we did not give."""
        kind, epoch, first, last = self.path.stem.split("-")
        if kind not in KINDS:
            raise ValueError(f"no kind of data is called {kind!r}")
        return SpoolSpan(gateway, int(epoch), kind, int(first), int(last))

    def about(self) -> Mapping[str, Any]:
        """The reason, with the number of rows. Raises OSError and ValueError where it cannot be read. Blocking, as what follows."""
        found = json.loads(self.path.with_suffix(".json").read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a reason")
        return found

    def rows(self) -> list[pa.RecordBatch]:
        """The rows, each with its number. Raises OSError and ArrowException."""
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]

    def refused_as_a_whole(self) -> bool:
        """Whether the sink took nothing of that write. What cannot be read is not known to be so."""
        try:
            about = self.about()
            return bool(about.get("whole", about["rows"] == about["last"] + 1 - about["first"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def ask(self) -> None:
        """Note that the rows are to be delivered once more; durable when it returns, over restarts too."""
        self.path.with_suffix(_AGAIN).touch()
        _flush(self.path.parent)

    def asked(self) -> bool:
        """Whether they are to be delivered once more."""
        return self.path.with_suffix(_AGAIN).exists()

    def leave(self) -> None:
        """They stay dead letters."""
        self.path.with_suffix(_AGAIN).unlink(missing_ok=True)

    def open(self) -> None:
        """They have been delivered: nothing of them stays."""
        for suffix in (".arrow", _AGAIN, ".json"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)
        _flush(self.path.parent)


def graves(directory: Path, sink: str | None = None) -> list[Grave]:
    """All below the dead-letter directory, of one sink or all, by name: in row order for each sink and kind."""
    return [Grave(path) for path in sorted(directory.glob(f"{sink or '*'}/*.arrow"))]


def asked(directory: Path, sink: str) -> list[Grave]:
    """Those of a sink that are to be delivered once more. Blocking."""
    return [grave for grave in graves(directory, sink) if grave.asked()]


async def redeliver(
    spool: Spool, sink: str | None = None, *, since_us: int | None = None, until_us: int | None = None
) -> Mapping[str, str | int | None]:
    """Let dead letters be delivered once more, those refused in a time, after what waits; now, or after the next start.

    Raises ConfigError where there are none, and for a sink that is not known.
    """
    if sink is not None and sink not in spool.ledger.sinks:
        known = ", ".join(sorted(spool.ledger.sinks)) or "none"
        raise ConfigError(f"no sink {sink!r} is known", hint=f"known are: {known}")
    files, rows = await asyncio.to_thread(_ask, spool.directory / DIRECTORY, sink, spool.ledger.sinks, since_us, until_us)
    if not files:
        raise ConfigError("there are no dead letters of these", hint="genba spool dead-letters lists them")
    spool.redeliveries += 1
    spool.wake()
    return {"sink": sink, "files": files, "rows": rows}


def _ask(directory: Path, sink: str | None, known: frozenset[str], since_us: int | None, until_us: int | None) -> tuple[int, int]:
    files = rows = 0
    for grave in graves(directory, sink):
        refused_us = round(grave.path.stat().st_mtime * 1e6)
        if grave.sink not in known or not (since_us or 0) <= refused_us < (until_us if until_us is not None else 1 << 62):
            continue
        grave.ask()
        files += 1
        rows += sum(batch.num_rows for batch in grave.rows())
    return files, rows


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
