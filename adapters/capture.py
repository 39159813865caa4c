"""`capture:` keeps what a device and the gateway said to each other, in a file that can be decoded on another machine.

The file is a sequence of records, only ever appended to:

    magic "gnbc" · length u32 · CRC-32 u32 · what u8 · mark u8 · number u32 · time i64 (µs since 1970)   little endian, 26 bytes
    payload, `length` bytes; the CRC covers everything behind it

The first record is HEAD: JSON with the configuration entry and its tags, without secrets. What a crash tore at the end is left out by
the reader, all before it stands. `playback` reads it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from schemas.clock import Clock

from .polling import Schedule

HEADER: Final = struct.Struct("<4sIIBBIq")
MAGIC: Final = b"gnbc"
CRC_FROM: Final = 12  # the checksum covers the header from here on, and the payload
VERSION: Final = 1
_WAITING: Final = 8 * 2**20
"""Bytes that may wait for the disk."""
_SOON_S: Final = 0.25
_AT_ONCE: Final = 2**18  # bytes; a hand-over to the thread costs as much as twenty records


class What(IntEnum):
    """What a record is."""

    HEAD = 1
    OPENED = 2  # a connection stands; payload: JSON of what it agreed on
    POLL = 3  # the poll of scan class `number` begins
    REQUEST = 4  # to the device; `number` counts the exchanges of the file, `mark` is the protocol's
    ANSWER = 5  # from the device, to request `number`
    FAILED = 6  # instead of an answer; payload: JSON {"is": kind of failure, "why": text}
    CLOSED = 7  # the connection is gone; payload: why


class Record(NamedTuple):
    """One record."""

    what: int
    mark: int
    number: int
    time_us: int
    payload: bytes


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    what, mark, number, time_us, payload = record
    head = HEADER.pack(MAGIC, len(payload), 0, what, mark, number, time_us)
    checksum = zlib.crc32(payload, zlib.crc32(head[CRC_FROM:]))
    return head[:8] + checksum.to_bytes(4, "little") + head[CRC_FROM:] + payload


class Recorder:
    """Writes one file, with `head` (JSON) at its beginning: new at each start of the gateway, the former one is kept as FILE.1. Full, it stops, and says so.

    Methods are called on the loop and only append to memory; a thread of the loop's pool writes, in order. What goes wrong costs the
    capture, never the reading.
    """

    def __init__(self, file: Path, head: bytes, *, max_bytes: int, clock: Clock, log: structlog.stdlib.BoundLogger) -> None:
        self._file, self._clock, self._log, self._max_bytes = file, clock, log, max_bytes
        self._head = head
        self._waiting: list[bytes] = []
        self._size = self._backlog = 0
        self._exchanges = 0
        self._begun = self._over = False
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1

    async def opened(self, directory: Path, **facts: object) -> None:
        """A connection stands. What is remembered of refused addresses in `directory` goes along: it decides what is asked for."""
        refused = await asyncio.to_thread(_text_of, directory / "refused.json")
        self._put(What.OPENED, json.dumps(facts | {"refused": refused}).encode())

    def poll(self, number: int) -> None:
        """Scan class `number` is polled now."""
        self._put(What.POLL, b"", number=number)

    def request(self, body: bytes, *, mark: int = 0) -> int:
        """A request goes out; returns the number for `answer` or `failed`. `body` never holds a secret."""
        self._exchanges += 1
        self._put(What.REQUEST, body, mark=mark, number=self._exchanges)
        return self._exchanges

    def answer(self, number: int, body: bytes, *, mark: int = 0) -> None:
        """The answer came."""
        self._put(What.ANSWER, body, mark=mark, number=number)

    def failed(self, number: int, kind: str, why: str) -> None:
        """It did not, or what came was none."""
        self._put(What.FAILED, json.dumps({"is": kind, "why": why}).encode(), number=number)

    def closed(self, why: str) -> None:
        """The connection is gone."""
        self._put(What.CLOSED, why.encode())

    def _put(self, what: What, payload: bytes, *, mark: int = 0, number: int = 0) -> None:
        if self._over:
            return
        now = self._clock.now_us()
        data = encode(Record(what, mark, number, now, payload))
        if not self._begun:
            self._begun = True
            data = encode(Record(What.HEAD, 0, VERSION, now, self._head)) + data
        if self._size + len(data) > self._max_bytes:
            self._end("the capture is full and has ended", max_bytes=self._max_bytes)
            return
        if self._backlog > _WAITING:
            self._end("the capture has ended: the disk is too slow for it")
            return
        self._size += len(data)
        self._backlog += len(data)
        self._waiting.append(data)
        if self._backlog >= _AT_ONCE or what == What.CLOSED:
            self._write_next()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_S, self._write_next)

    def _write_next(self) -> None:
        """Hand over to the thread what waits, unless it is at work: then it is asked again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._waiting:
            return
        data, self._waiting = b"".join(self._waiting), []
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, data)
        self._writing.add_done_callback(lambda done: self._written(done, len(data)))

    def _written(self, done: asyncio.Future[None], size: int) -> None:
        self._writing = None
        self._backlog -= size
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._waiting = []
            why = error.strerror if isinstance(error, OSError) and error.filename is None else None
            self._end("the capture has ended: it cannot be written", error=why or str(error))
        elif self._waiting:
            self._write_next()

    def _write(self, data: bytes) -> None:
        if self._descriptor < 0:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._set_aside()
            self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
            _lock(self._descriptor)  # which `_set_aside` of another process sees
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _set_aside(self) -> None:
        """Keep the former capture. Raises OSError where the file is something else, or another process still writes it."""
        try:
            former = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if os.read(former, len(MAGIC)) not in (MAGIC, b""):
                raise OSError(errno.EEXIST, "what stands there is no capture, and is not touched")
            if not _lock(former):
                raise OSError(errno.EBUSY, "another genba writes it (a running gateway, or genba test)")
            self._file.replace(self._file.with_name(self._file.name + ".1"))
        finally:
            os.close(former)

    def _end(self, event: str, **fields: object) -> None:
        if not self._over:
            self._over = True
            self._log.warning(event, file=str(self._file), **fields)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class RecordedSchedule(Schedule):
    """A schedule whose slots are told to the recorder."""

    def __init__(self, periods_us: Sequence[int], recorder: Recorder) -> None:
        super().__init__(periods_us)
        self._recorder = recorder

    async def next(self) -> int:
        """As the schedule's own."""
        number = await super().next()
        self._recorder.poll(number)
        return number


def _lock(descriptor: int) -> bool:
    """Until it is closed; False where another process has it. A file system that knows no locks gives them to everybody."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
