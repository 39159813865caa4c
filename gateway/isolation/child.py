"""The process of an isolated adapter: `python -m gateway.isolation.child PARENT`, with commands on stdin and frames on stdout.

It does what `Frame`s say and nothing else: builds the adapter, drives `connect`, `batches` and `aclose`, forwards its log. It ends when
it is told to, when its stdin ends (the gateway is gone, whatever happened), and by the kernel's hand when the gateway dies first.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from contextlib import aclosing, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import structlog

from adapters.base import Adapter, AdapterContext, Certified
from gateway.building import build_here
from gateway.clock import WallClock
from gateway.handover import from_plain
from gateway.logs import quiet_libraries

from . import errors, memory, pipes
from .batches import pack
from .frames import BEAT_S, MAX_SETUP, Frame, Frames, Garbled, Say, encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pyarrow as pa

_LOG_BACKLOG: Final = 2**20  # bytes that wait in the pipe; log records beyond are dropped, and counted
_PARTING_S: Final = 1.0


class Child(asyncio.Protocol):
    """The conversation. One task at a time works: it connects, or it reads."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(MAX_SETUP)
        self._commands: asyncio.Queue[Frame | None] = asyncio.Queue()  # the gateway sends one and waits
        self._credit = asyncio.Semaphore(0)
        self._up: asyncio.WriteTransport | None = None
        self._adapter: Adapter | None = None
        self._work: asyncio.Task[None] | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._dropped_records = 0
        self._certified: Certified | None = None
        self._certificates = b"[]"
        self._patience_s = _PARTING_S

    async def run(self, down: BinaryIO, up: BinaryIO) -> None:
        """Until the gateway says CLOSE, or is gone."""
        await self._loop.connect_read_pipe(lambda: self, down)
        transport, _ = await self._loop.connect_write_pipe(asyncio.Protocol, up)
        self._up = transport
        try:
            while (command := await self._commands.get()) is not None and command.say != Say.CLOSE:
                match command.say:
                    case Say.SETUP:
                        self._answer(self._set_up(command.payload))
                    case Say.CONNECT:
                        self._work = asyncio.create_task(self._connect())
                    case Say.READ:
                        self._credit = asyncio.Semaphore(int(command.payload))
                        self._work = asyncio.create_task(self._read())
                    case Say.STOP:
                        await self._stop()
                        self._answer(None)
        finally:
            if self._beat is not None:
                self._beat.cancel()
            with suppress(Exception):
                async with asyncio.timeout(self._patience_s):
                    await self._stop()
                    if self._adapter is not None:
                        await self._adapter.aclose()

    def data_received(self, data: bytes) -> None:
        """Commands; one batch of credit more takes effect at once."""
        try:
            for frame in self._frames.feed(data):
                if frame.say == Say.CREDIT:
                    self._credit.release()
                else:
                    self._commands.put_nowait(frame)
        except Garbled:
            self.eof_received()

    def eof_received(self) -> None:
        """The gateway is gone."""
        self._commands.put_nowait(None)

    def _set_up(self, payload: bytes) -> Exception | None:
        try:
            plain = json.loads(payload)
            memory.limit(plain["memory_limit"])
            entry = from_plain(plain)
            del plain
            self._patience_s = min(_PARTING_S, entry.config.timeout.s / 2)
            log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
                None,
                processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, self._forward],
                wrapper_class=structlog.stdlib.BoundLogger,
            )
            context = AdapterContext(
                entry.name, entry.tags, WallClock(), entry.directory, log,
                time_zone=entry.time_zone, base=entry.base, last_seen_us=entry.last_seen_us, reached=entry.reached,
            )  # fmt: skip
            self._adapter = adapter = build_here(entry.config, context)
            self._certified = adapter if isinstance(adapter, Certified) else None
        except Exception as error:  # noqa: BLE001 (whatever it is, the gateway is told)
            return error
        gc.collect()
        gc.freeze()
        self._show_life()
        return None

    async def _connect(self) -> None:
        assert self._adapter is not None, "SETUP comes first"
        try:
            await self._adapter.connect()
        except Exception as error:  # noqa: BLE001
            self._answer(error)
        else:
            self._answer(None)

    async def _read(self) -> None:
        assert self._adapter is not None, "SETUP comes first"
        stream = cast("AsyncGenerator[pa.RecordBatch, None]", self._adapter.batches())
        try:
            async with aclosing(stream) as batches:
                while True:
                    await self._credit.acquire()  # not asked for a batch, the adapter does not poll
                    batch = await anext(batches, None)
                    if batch is None:
                        self._send(Frame(Say.ENDED, errors.to_json(None)))
                        return
                    self._send(pack(batch))
        except Exception as error:  # noqa: BLE001
            _exit_without_memory(error)
            self._send(Frame(Say.ENDED, errors.to_json(error)))

    async def _stop(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])

    def _answer(self, error: Exception | None) -> None:
        _exit_without_memory(error)
        self._send(Frame(Say.ANSWER, errors.to_json(error)))

    def _send(self, frame: Frame) -> None:
        if self._up is not None and not self._up.is_closing():
            self._up.write(encode(frame))

    def _show_life(self) -> None:
        if self._certified is not None:
            facts = json.dumps([asdict(fact) for fact in self._certified.certificates()]).encode()
            if facts != self._certificates:
                self._certificates = facts
                self._send(Frame(Say.CERTIFICATES, facts))
        self._send(Frame(Say.BEAT, memory.resident().to_bytes(8, "little")))
        self._beat = self._loop.call_later(BEAT_S, self._show_life)

    def _forward(self, _: object, __: str, record: structlog.typing.EventDict) -> Any:
        if self._up is not None and self._up.get_write_buffer_size() > _LOG_BACKLOG:
            self._dropped_records += 1
        else:
            dropped, self._dropped_records = self._dropped_records, 0
            more = {"dropped_records": dropped} if dropped else {}
            self._send(Frame(Say.LOG, json.dumps(dict(record) | more, default=str, ensure_ascii=False).encode()))
        raise structlog.DropEvent


def _exit_without_memory(error: BaseException | None) -> None:
    """Where an allocation failed there is no going on: say so with the exit status, which needs none."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            _exit_without_memory(one)
    elif isinstance(error, MemoryError):
        os._exit(memory.OUT_OF_MEMORY)


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop or a library's callback raised: bugs go to stderr, of which the gateway keeps the end."""
    _exit_without_memory(context.get("exception"))
    loop.default_exception_handler(context)


async def _main(down: BinaryIO, up: BinaryIO) -> None:
    asyncio.get_running_loop().set_exception_handler(_on_loop_error)
    await Child().run(down, up)


def main(parent: int) -> None:
    """Run until the gateway lets go or is gone; what libraries print goes to stderr."""
    down, up = pipes.taken(parent)
    logging.basicConfig(level=logging.ERROR)
    quiet_libraries()
    try:
        asyncio.run(_main(down, up))
    except MemoryError:
        os._exit(memory.OUT_OF_MEMORY)


if __name__ == "__main__":
    main(int(sys.argv[1]))
