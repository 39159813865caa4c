"""A running gateway does what `genba spool` and `genba alert` ask: a Unix socket in the spool directory, one JSON object a line each way.

Only who may write to the spool directory and is the gateway's user (or root) can connect. Read-only commands do not need it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import structlog

from schemas.errors import ConfigError, GenbaError
from schemas.kinds import KINDS, Kind

from .dead_letters import redeliver
from .spool import deeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spool import Spool

_NAME: Final = "control"
_DEADLINE_S: Final = 30.0
_LINE_BYTES: Final = 1 << 16
_REPLY_BYTES: Final = 1 << 20
Request = Mapping[str, str | int | None]
More = Mapping[str, Callable[[Request], Awaitable[deeds.Answer]]]
"""What else is answered, by the word in `do`."""


async def do(spool: Spool, request: Request, *, configured: Collection[str] = ()) -> deeds.Answer:
    """Do what a request says: `{"do": "resend" | "redeliver" | "drop" | "forget", "kind": …, "sink": …}` and what each takes. Raises ConfigError."""
    sink, kind = str(request.get("sink") or ""), request.get("kind", "")
    if request.get("do") not in ("forget", "redeliver") and kind not in KINDS:
        raise ConfigError(f"no kind of data is called {kind!r}", hint=f"there are {', '.join(KINDS)}")
    numbers = {key: int(value) for key, value in request.items() if isinstance(value, int)}
    match request.get("do"):
        case "resend":
            return await deeds.resend(spool, cast(Kind, kind), sink, **numbers)
        case "drop":
            return await deeds.drop(spool, cast(Kind, kind), sink, **numbers)
        case "forget":
            return await deeds.forget(spool, sink, configured=configured)
        case "redeliver":
            return await redeliver(spool, sink or None, **numbers)
        case other:
            raise ConfigError(f"this gateway does not know how to {other!r}", hint="run the same version of genba as the gateway")


@asynccontextmanager
async def serving(
    spool: Spool, *, configured: Collection[str], log: structlog.stdlib.BoundLogger, more: More | None = None
) -> AsyncIterator[None]:
    """Answer requests while the block runs. A directory that takes no socket is said once and is no reason not to run."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                request = json.loads(await reader.readline())
                reply = await _reply(spool, request, configured, log, more or {})
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            return  # whoever asked is gone, or is not genba
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    try:
        listening, place = await asyncio.to_thread(_listen, spool.directory)
    except OSError as error:
        log.warning("genba spool cannot change anything while this gateway runs", error=error.strerror or str(error))
        yield
        return
    server = await asyncio.start_unix_server(answer, sock=listening, limit=_LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        await asyncio.to_thread(_forget, spool.directory / _NAME)
        os.close(place)


async def _reply(
    spool: Spool, request: object, configured: Collection[str], log: structlog.stdlib.BoundLogger, more: More
) -> dict[str, object]:
    if not isinstance(request, dict):
        return {"ok": False, "error": "not a request"}
    other = more.get(str(request.get("do")))
    try:
        answer = await (do(spool, request, configured=configured) if other is None else other(request))
    except ConfigError as error:
        return {"ok": False, "error": error.message, "hint": error.hint}
    except (GenbaError, ValueError, TypeError) as error:
        return {"ok": False, "error": str(error)}
    if other is not None:
        return {"ok": True, "result": dict(answer)}
    log.info("a person changed the spool", **{f"asked_{key}": value for key, value in request.items()}, result=dict(answer))
    return {"ok": True, "result": dict(answer)}


def ask(directory: Path, request: Request) -> deeds.Answer | None:
    """What the gateway that runs on `directory` answers; None when none listens there. Blocking. Raises ConfigError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_DEADLINE_S)
        try:
            with _short(directory) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise ConfigError(
                f"the gateway on {directory} cannot be asked: {error.strerror}", hint="call genba as the user of the gateway"
            ) from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                reply = json.loads(stream.readline(_REPLY_BYTES))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the gateway on {directory} did not answer", hint="look into its log, then ask again") from error
    if not reply.get("ok"):
        raise ConfigError(str(reply.get("error")), hint=str(reply.get("hint", "")))
    return cast(deeds.Answer, reply["result"])


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """The socket's path in a few bytes: a Unix socket's name is 107 long at most, a spool's directory may be anything."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{_NAME}"
    finally:
        os.close(fd)


def _listen(directory: Path) -> tuple[socket.socket, int]:
    """A listening socket for this user alone, and the descriptor by which it is named, to be closed after it.

    The caller holds the spool's lock: what lies there is of a dead process.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _forget(directory / _NAME)
        listening.bind(f"/proc/self/fd/{place}/{_NAME}")
        os.chmod(directory / _NAME, 0o600)
        listening.listen(4)
        listening.setblocking(False)
    except OSError:
        listening.close()
        os.close(place)
        raise
    return listening, place


def _forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
