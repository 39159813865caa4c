"""Compaction past one machine: a plan is carried out where there is room, by a compactor of its own that sees the same lake.

Two compactors at once harm nothing (see `compaction`), so nothing more than the plan goes there and the outcome comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from cloud_sinks.aws import AwsConfig

from .compaction import Compactor, Done, Options, Outcome, Plan
from .shelf import shelf_of

OUTCOME: Final = pa.schema([("plan", pa.int64()), ("outcome", pa.string())])


class Unheard:
    """In place of a log, on a machine whose log nobody reads."""

    def warning(self, *_: object, **__: object) -> None:
        """Nothing."""


@dataclass(frozen=True)
class CarryOut:
    """(number of a plan, plan) -> one row OUTCOME. `aws` says how a bucket is reached; the files that it names must be there too."""

    location: str
    aws: AwsConfig
    base: Path
    kms_key: str | None
    options: Options

    def __call__(self, task: tuple[int, Plan]) -> Iterator[pa.RecordBatch]:
        """Raises what the shelf raises where the lake cannot be reached."""
        number, plan = task
        shelf = shelf_of(self.location, self.aws, log=Unheard(), base=self.base, kms_key=self.kms_key)  # type: ignore[arg-type]
        with closing(shelf):
            shelf.open()
            outcome = Compactor(shelf, self.options).carry_out(plan)
        yield pa.RecordBatch.from_arrays([pa.array([number]), pa.array([packed(outcome)])], schema=OUTCOME)


def packed(outcome: Outcome) -> str:
    """As JSON, without the plan."""
    done = outcome.done
    merge = None if done is None else [done.file, done.rows, done.bytes]
    return json.dumps([merge, list(outcome.problems), sorted(outcome.bad)])


def unpacked(text: str, plan: Plan) -> Outcome:
    """The inverse of `packed`."""
    merge, problems, bad = json.loads(text)
    return Outcome(None if merge is None else Done(plan, *merge), tuple(problems), frozenset(bad))
