"""What a sink is: configuration base, the context it is built with, and the contract it keeps with delivery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pydantic import Field

from schemas.clock import Clock
from schemas.span import Command, SpoolSpan
from schemas.tags import TagDirectory
from schemas.values import Rate, Strict

if TYPE_CHECKING:  # Arrow, and the log with its console, are not needed to read a configuration
    import pyarrow as pa
    import structlog

    from schemas.kinds import Kind


class SinkConfig(Strict):
    """One entry below `sinks:`. Each sink adds its own options."""

    kind: str = Field(description="The service.")
    from_: Literal["tail", "oldest"] = Field(
        "tail", alias="from", description="Where a new sink begins: at the next row, or at the oldest that the spool holds."
    )
    max_rate: Rate | None = Field(
        None,
        description="Rows that are delivered at most, on average, so that a backlog leaves room on the line; alerts never wait for it.",
        examples=["2000/s"],
    )


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How delivery cuts a log into writes for one kind: at `max_rows` or `max_bytes`, or when its oldest row is `max_age_s` old."""

    max_rows: int = 1_000
    max_bytes: int = 1 << 20
    max_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What the gateway hands to a sink. `directory` is private to it and survives restarts.

    `base` is the directory of the YAML file: relative paths in the sink's options are relative to it.
    """

    name: str
    enterprise: str
    site: str
    gateway: str
    tags: TagDirectory
    clock: Clock
    directory: Path
    base: Path
    log: structlog.stdlib.BoundLogger
    time_zone: str = "UTC"


class Sink(Protocol):
    """Delivers rows to one service. One task owns it and has at most one `write` under way.

    Order: `connect`, then `write` any number of times, then `aclose`. A write that raises is repeated with the same span and
    the same rows after back-off, also after a crash: the sink makes that harmless as well as its service allows.
    """

    def policy(self, kind: Kind) -> BatchPolicy:
        """How delivery cuts this kind for this sink. Asked before every cut; a cut that is in flight keeps its rows."""
        ...

    async def connect(self) -> None:
        """Reach the service. Raises NotConnected or ConfigError."""
        ...

    async def write(self, batches: Sequence[pa.RecordBatch], span: SpoolSpan) -> None:
        """Deliver the rows of one span and return once they are durable there.

        `batches` are of the span's kind, in row order, each with its row number as last column (`seq`; `row` for SCORE and
        HEALTH). Rows that routing or a deadband filtered out are missing from them; all may be missing (then there is nothing to do).
        Raises NotConnected, Busy(wait_s) or Rejected(rows); rows not named in Rejected are then delivered.
        """
        ...

    def commands(self) -> AsyncIterator[Command]:
        """What the service asks of the gateway. A sink that takes none returns an iterator that ends at once."""
        ...

    async def lost(self) -> None:
        """Return when the connection that `connect` made is gone, so that an idle sink is connected again at once.

        A sink that holds no connection between writes waits for ever.
        """
        ...

    async def aclose(self) -> None:
        """Let go of everything. Idempotent, legal before `connect`."""
        ...


@runtime_checkable
class Holding(Protocol):
    """A sink that holds every row exactly once and can say which it has: what it is given once more is only what it has not."""

    async def holds(self, span: SpoolSpan) -> Sequence[tuple[int, int]]:
        """Spans (first, last) of its writes that touch rows of `span`, in row order. Raises NotConnected or ConfigError."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """A sink whose service keeps a document about the gateway: what it reports, and what is desired of it.

    What is desired comes as the command `desired` with the whole `document` (JSON) and its `version`: once after each connection that
    reaches the service, then on each change. Only a sink that was asked to (`report_bytes` > 0) does either.
    """

    @property
    def report_bytes(self) -> int:
        """Most bytes of JSON that what is desired and what is reported may have together; 0: nothing is reported."""
        ...

    async def report(self, state: Mapping[str, object]) -> None:
        """Make `state`, plain JSON, what the service has; costs nothing where it has it already. Called again and again, by one task.

        Raises NotConnected while the sink is not connected, ConfigError where a person must allow it first.
        """
        ...


@runtime_checkable
class Examined(Protocol):
    """A sink that `genba doctor` can ask what is wrong."""

    def examine(self) -> str:
        """Look whether the service would take rows, and say what was found in a few words. Blocking; legal instead of `connect`.

        Writes nothing there and does not take the place of a gateway that runs. Raises NotConnected and ConfigError.
        """
        ...
