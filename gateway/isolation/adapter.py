"""An adapter that runs in a process of its own, behind the contract of every adapter: nobody who drives it can tell."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import pyarrow as pa

from adapters.base import AdapterConfig, AdapterContext
from gateway.handover import Entry, to_plain
from schemas.certificates import CertificateFact
from schemas.errors import NotConnected

from . import errors
from .batches import unpack
from .frames import Frame, Garbled, Say
from .process import ChildProcess, End

AHEAD: Final = 2
"""Batches that the child may have sent or be collecting beyond what was taken here; a full spool so stops its polls."""
UNASKED: Final = ("killed", "exited", "memory", "hung", "garbled")
"""Why a child may end that nobody told to."""
_LETTING_GO_S: Final = 1.0
_LEVELS: Final = {"debug", "info", "warning", "error", "critical"}


class _NoMore(Exception):
    """The adapter's batches ended without an error."""


class IsolatedAdapter:
    """Drives the child. The process is started by `connect`, lives over reconnects, and ends with `aclose`.

    A child that dies, hangs, takes too much memory or writes nonsense is NotConnected: the supervisor connects again, and that starts
    a new one. Why is logged once, until values have come again, and counted in `ends`.
    """

    def __init__(self, config: AdapterConfig, context: AdapterContext) -> None:
        self._config, self._context = config, context
        self._log = context.log.bind(adapter=context.name)
        self._child: ChildProcess | None = None
        self._inbox: deque[pa.RecordBatch | Exception] = deque()  # AHEAD batches and an end, at most
        self._arrived = asyncio.Event()
        self._told: End | None = None
        self._certificates: Sequence[CertificateFact] = ()
        self.ends: Counter[str] = Counter()
        """How often its process ended unasked, by reason."""

    @property
    def resident(self) -> int:
        """Bytes of memory that the child has; 0 while there is none."""
        return self._child.resident if self._child is not None and self._child.end is None else 0

    @property
    def pid(self) -> int:
        """Process id of the child; 0 while there is none."""
        return self._child.pid if self._child is not None and self._child.end is None else 0

    def certificates(self) -> Sequence[CertificateFact]:
        """As the adapter's own, a moment later; kept when its process ends."""
        return self._certificates

    async def connect(self) -> None:
        """As the adapter's own; a process is started first where there is none."""
        child = self._child
        if child is None or child.end is not None:
            child = await self._start()
        try:
            await child.ask(Frame(Say.CONNECT, b""))
        except asyncio.CancelledError:
            child.kill("closed", "")
            raise
        self._check(child)

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """What the adapter yields, in its order, and what it raises."""
        child = self._child
        if child is None:
            raise NotConnected(f"{self._config.endpoint} is not connected")
        self._check(child)
        self._inbox.clear()
        child.send(Frame(Say.READ, str(AHEAD).encode()))
        try:
            while True:
                while not self._inbox:
                    self._arrived.clear()
                    await self._arrived.wait()
                found = self._inbox.popleft()
                if isinstance(found, _NoMore):
                    return
                if isinstance(found, Exception):
                    raise found
                self._told = None
                yield found
                child.send(Frame(Say.CREDIT, b""))
        finally:
            await self._end_reading(child)

    async def aclose(self) -> None:
        """Let the adapter close its connection, and end its process; by force where it takes longer than the timeout."""
        child, self._child = self._child, None
        if child is not None:
            await child.close(min(_LETTING_GO_S, self._config.timeout.s))

    async def _end_reading(self, child: ChildProcess) -> None:
        if child.end is None:
            try:
                async with asyncio.timeout(min(_LETTING_GO_S, self._config.timeout.s)):
                    await child.ask(Frame(Say.STOP, b""))
            except TimeoutError:
                child.kill("hung", "did not stop reading")
        self._inbox.clear()

    async def _start(self) -> ChildProcess:
        config, context = self._config, self._context
        self._inbox.clear()  # how former attempts ended, which nobody reads who was never connected
        entry = Entry(
            context.name, config, context.tags, context.time_zone, context.base, context.directory,
            context.last_seen_us, dict(context.reached),
        )  # fmt: skip
        child = ChildProcess(
            memory_limit=int(config.memory_limit), on_frame=self._take, on_end=lambda: self._ended(child)
        )  # fmt: skip
        try:
            await child.start()
            self._child = child
            payload = await asyncio.to_thread(_setup, entry)  # 10,000 tags are a tenth of a second
            await child.ask(Frame(Say.SETUP, payload))
        except OSError as error:
            child.kill("closed", "")
            raise NotConnected(f"the process of {context.name} cannot be started: {error.strerror or error}") from error
        except BaseException:
            await child.close(0)
            raise
        self._check(child)
        return child

    def _take(self, frame: Frame) -> None:
        match frame.say:
            case Say.BATCH | Say.ENDED if len(self._inbox) > AHEAD:
                raise Garbled("more batches than it was asked for")
            case Say.BATCH:
                self._put(unpack(frame))
            case Say.ENDED:
                self._put(errors.from_json(frame.payload) or _NoMore())
            case Say.LOG:
                self._record(frame.payload)
            case Say.CERTIFICATES:
                try:
                    self._certificates = tuple(CertificateFact(**fact) for fact in json.loads(frame.payload))
                except (ValueError, TypeError) as error:
                    raise Garbled(f"not certificates: {error}") from error

    def _put(self, found: pa.RecordBatch | Exception) -> None:
        self._inbox.append(found)
        self._arrived.set()

    def _record(self, payload: bytes) -> None:
        """A log record of the child, on our log with its fields."""
        try:
            record = json.loads(payload)
            level, event = record.pop("level"), record.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Garbled(f"not a log record: {error}") from error
        log = getattr(self._context.log, level) if level in _LEVELS else self._context.log.warning
        log(str(event), **{str(name): value for name, value in record.items()})

    def _ended(self, child: ChildProcess) -> None:
        end = child.end
        if end not in (None, "closed"):
            self.ends[str(end)] += 1
            if self._told != end:
                self._told = end
                said = {"printed": child.stderr} if child.stderr else {}
                self._log.warning(
                    "the process of the adapter ended",
                    reason=end,
                    error=child.why,
                    pid=child.pid,
                    times=self.ends[str(end)],
                    **said,
                )
        if self._child is child or self._child is None:
            self._put(self._loss(child))

    def _check(self, child: ChildProcess) -> None:
        """Raises where the process is gone."""
        if child.end is not None:
            raise self._loss(child)

    def _loss(self, child: ChildProcess) -> Exception:
        why = child.why or "was closed"
        if child.end == "memory":
            why += f"; memory_limit is {self._config.memory_limit}"
        return NotConnected(f"{self._config.endpoint}: the process of the adapter {why}")


def _setup(entry: Entry) -> bytes:
    return json.dumps(to_plain(entry, secrets=True) | {"memory_limit": int(entry.config.memory_limit)}).encode()
