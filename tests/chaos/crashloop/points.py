"""The named points at which a gateway kills itself. Nothing of this is in the product: the functions at the point are wrapped in the child.

A point says what has happened by then and what has not. `arm` wraps what lies there; the n-th time that it is reached the process
is gone, by SIGKILL, with whatever other threads were doing.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

Reached = Callable[[], None]
When = Literal["before", "after"]
Fits = Callable[..., bool]
SEGMENT, LEDGER = ".seg", "/ledger"


@dataclass(frozen=True)
class Point:
    """One place. `wrap` puts a call of its argument there; a start reaches it `most` times, 0: as often as one waits.

    `birth`: reached only while the gateway has no durable state yet.
    """

    wrap: Callable[[Reached], None]
    most: int = 0
    birth: bool = False


def arm(name: str, nth: int, last_word: Callable[[str], None]) -> None:
    """Let this process kill itself when the point is reached for the `nth` time."""
    left = nth

    def reached() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            last_word(name)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # nothing more happens in this thread

    POINTS[name].wrap(reached)


def _target(path: str) -> tuple[Any, str]:
    """Owner and attribute of `package.module:Class.function`."""
    module, _, name = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, attribute = name.split(".")
    for one in outer:
        owner = getattr(owner, one)
    return owner, attribute


def _always(*_arguments: Any, **_options: Any) -> bool:
    return True


def _at(path: str, when: When, fits: Fits = _always) -> Callable[[Reached], None]:
    """Before or after a call for whose arguments `fits` holds. A coroutine function is wrapped as one."""

    def wrap(reached: Reached) -> None:
        owner, attribute = _target(path)
        inner = getattr(owner, attribute)

        @wraps(inner)
        def around(*arguments: Any, **options: Any) -> Any:
            mine = fits(*arguments, **options)
            if mine and when == "before":
                reached()
            result = inner(*arguments, **options)
            if mine and when == "after":
                reached()
            return result

        @wraps(inner)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            mine = fits(*arguments, **options)
            if mine and when == "before":
                reached()
            result = await inner(*arguments, **options)
            if mine and when == "after":
                reached()
            return result

        setattr(owner, attribute, awaited if inspect.iscoroutinefunction(inner) else around)

    return wrap


def _half(fits: Fits) -> Callable[[Reached], None]:
    """In the middle of a write of the spool's storage: the first half of the bytes is there."""

    def wrap(reached: Reached) -> None:
        owner, attribute = _target("gateway.spool.storage:DiskStorage.write")
        inner = getattr(owner, attribute)

        @wraps(inner)
        def torn(storage: Any, fd: int, buffers: Any, offset: int) -> Any:
            if fits(storage, fd, buffers, offset):
                whole = b"".join(buffers)
                inner(storage, fd, [whole[: len(whole) // 2]], offset)
                reached()
            return inner(storage, fd, buffers, offset)

        setattr(owner, attribute, torn)

    return wrap


def _half_sent(reached: Reached) -> None:
    """In the middle of an upload: the service has half of the body."""
    owner, attribute = _target("botocore.awsrequest:AWSConnection.send")
    inner = getattr(owner, attribute)

    @wraps(inner)
    def half(connection: Any, data: Any) -> Any:
        body = data if isinstance(data, bytes) else b""
        if b"PAR1" in body[:4] or b"PAR1" in body[-4:]:
            inner(connection, body[: len(body) // 2])
            reached()
            return inner(connection, body[len(body) // 2 :])
        return inner(connection, data)

    setattr(owner, attribute, half)


def _file(fd: int, end: str) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").endswith(end)


def _records(_storage: Any, fd: int, buffers: Any, _offset: int) -> bool:
    return len(buffers) > 1 and _file(fd, SEGMENT)


def _slot(_storage: Any, fd: int, *_: Any) -> bool:
    return _file(fd, LEDGER)


def _named(end: str, position: int = 1) -> Fits:
    """Whether the path at that position of the arguments ends so."""
    return lambda *arguments, **_options: str(arguments[position]).endswith(end)


def _of_log(_storage: Any, path: Path) -> bool:
    return any(path.glob(f"*{SEGMENT}"))


def _cutting(ledger: Any, **_options: Any) -> bool:
    return any(cursor.cut is not None for cursor in ledger._book.cursors.values())


_DISK = "gateway.spool.storage:DiskStorage"
_LOCAL = "cloud_sinks.parquet.store:LocalStore"
_BUCKET = "cloud_sinks.parquet.s3:S3Store"

POINTS: dict[str, Point] = {
    # The log
    "segment created, its header not written": Point(_at(f"{_DISK}.create", "after", _named(SEGMENT))),
    "segment has its header, its name is not flushed": Point(_at(f"{_DISK}.fsync_directory", "before", _of_log)),
    "half of a commit written": Point(_half(_records)),
    "commit written, not flushed": Point(_at("gateway.spool.log:write_all", "after", lambda _s, _fd, buffers, _at: len(buffers) > 1)),
    "commit flushed, not acknowledged": Point(_at("gateway.spool.log:Log.append", "after")),
    "one kind committed, the next not": Point(_at("gateway.spool.log:Log.append", "before")),
    "segment full, its footer not written": Point(_at("gateway.spool.log:close_segment", "before")),
    "segment closed, the next not begun": Point(_at("gateway.spool.log:close_segment", "after")),
    "ledger saved, segments not deleted": Point(_at("gateway.spool.log:Log.remove", "before", lambda _log, segments: bool(segments))),
    "one segment deleted, the others not": Point(_at(f"{_DISK}.unlink", "after", _named(SEGMENT))),
    # The ledger
    "half of a ledger slot written": Point(_half(_slot)),
    "ledger slot written, not flushed": Point(_at("gateway.spool.ledger_file:write_all", "after")),
    "between the two ledger slots": Point(_at("gateway.spool.ledger_file:LedgerFile.save", "after")),
    "sink registered": Point(_at("gateway.spool.ledger:Ledger.register", "after"), most=12),
    # A cut
    "cut chosen, not noted": Point(_at("gateway.spool.ledger:Ledger.begin_cut", "before")),
    "cut noted in memory, not on the disk": Point(_at("gateway.spool.ledger:Ledger._persist", "before", _cutting)),
    "cut noted, nothing written": Point(_at("gateway.spool.ledger:Ledger.begin_cut", "after")),
    "delivered, cursor not saved": Point(_at("gateway.spool.ledger:Ledger.acknowledge", "after")),
    # The lake on the disk
    "lake opened, leftovers removed": Point(_at(f"{_LOCAL}.open", "after"), most=1),
    "file written, not published": Point(_at(f"{_LOCAL}.publish", "before")),
    "file has its name, its folder is not flushed": Point(_at("cloud_sinks.parquet.store:_link", "after")),
    "file published, cursor behind": Point(_at(f"{_LOCAL}.publish", "after")),
    # The lake in the bucket
    "bucket opened, nothing uploaded": Point(_at(f"{_BUCKET}.open", "after"), most=1),
    "object made, not uploaded": Point(_at(f"{_BUCKET}.publish", "before")),
    "half of an object uploaded": Point(_half_sent),
    "object uploaded, cursor behind": Point(_at(f"{_BUCKET}.publish", "after")),
    # IoT Core
    "message sent, not acknowledged": Point(_at("cloud_sinks.iot_core.connection:Connection.send", "after")),
    "messages acknowledged, cursor behind": Point(_at("cloud_sinks.iot_core.sink:IotCoreSink.write", "after")),
    # The models
    "state of the models written, without its name": Point(_at("os:replace", "before", _named(".bin"))),
    "state of the models stored, not pinned": Point(_at("gateway.runner:_store", "after")),
    "alarm raised, not stored": Point(_at("gateway.pipeline:Pipeline.put", "before", lambda _p, kind, _batch: kind == "alert")),
    # A start
    "start: locked, nothing read": Point(_at("gateway.spool.opening:take_lock", "after"), most=1),
    "start: torn tail found, not cut": Point(_at("gateway.spool.recovery:_Loader._close", "before"), most=2),
    "start: tail cut, without a footer": Point(_at("gateway.spool.recovery:close_segment", "before"), most=2),
    "start: footer written, not flushed": Point(_at("gateway.spool.recovery:close_segment", "after"), most=2),
    "start: one log recovered, the next not": Point(_at("gateway.spool.opening:_open_log", "after"), most=7),
    "start: everything recovered, nothing runs": Point(_at("gateway.spool.spool:open_directory", "after"), most=1),
    "start: absences written, without their name": Point(_at(f"{_DISK}.rename", "before", _named("absences.json", 2)), most=1),
    "start: models not restored": Point(_at("gateway.runner:ModelRunner.restore", "before"), most=1),
    "start: models restored": Point(_at("gateway.runner:ModelRunner.restore", "after"), most=1),
    # The first start
    "first start: folders made, not flushed": Point(_at(f"{_DISK}.make_directory", "after"), most=1, birth=True),
    "first start: ledger made, not flushed": Point(_at(f"{_DISK}.create", "after", _named(LEDGER)), most=1, birth=True),
    "first start: name written, not in place": Point(_at(f"{_DISK}.rename", "before", _named("spool.json", 2)), most=1, birth=True),
    "first start: tags written, not in place": Point(_at(f"{_DISK}.rename", "before", _named("tags.jsonl", 2)), most=1, birth=True),
    "first start: tags in place, not flushed": Point(_at(f"{_DISK}.rename", "after", _named("tags.jsonl", 2)), most=1, birth=True),
}  # fmt: skip
