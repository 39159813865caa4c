"""Runs a gateway as a process: signals, the metrics endpoint, and the loop that the commands share."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import start_http_server

from .clock import WallClock
from .commands import answers
from .config import Configuration
from .control import serving
from .memory import free_at_once, give_back_now_and_then
from .metrics import registry_for
from .pipeline import Pipeline, open_pipeline
from .supervisor import Supervisor

R = TypeVar("R")


@asynccontextmanager
async def running(
    configuration: Configuration,
    *,
    log: structlog.stdlib.BoundLogger,
    endpoints: Mapping[str, str] | None = None,
    grace_s: float = 10.0,
) -> AsyncIterator[tuple[Pipeline, asyncio.Event]]:
    """A running gateway: the pipeline and the event that stops it. Leaving the block stops it gracefully.

    The pipeline may be read after the block too: counters stand as they were at the end.
    """
    free_at_once()
    rng = random.Random()
    stop = asyncio.Event()
    pipeline = await open_pipeline(configuration, clock=WallClock(), log=log, rng=rng, endpoints=endpoints)
    supervisor = Supervisor(pipeline, rng=rng, grace_s=grace_s)
    with _metrics(pipeline):
        task = asyncio.create_task(supervisor.run(stop))
        ready = asyncio.create_task(supervisor.ready.wait())
        memory = asyncio.create_task(give_back_now_and_then())
        try:
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            async with serving(pipeline.spool, configured=pipeline.sinks, log=log, more=answers(pipeline)):
                yield pipeline, stop
        finally:
            ready.cancel()
            memory.cancel()
            stop.set()
            await task


@contextmanager
def _metrics(pipeline: Pipeline) -> Iterator[None]:
    """Serve /metrics where `status.listen` says. A busy port is said once and is no reason not to run."""
    listen = pipeline.configuration.plant.status.listen
    server: WSGIServer | None = None
    if listen:
        host, _, port = listen.rpartition(":")
        try:
            server, _thread = start_http_server(int(port), addr=host, registry=registry_for(pipeline))
            pipeline.log.info("metrics are served", listen=f"{host}:{server.server_port}")
        except OSError as error:
            pipeline.log.warning("metrics are not served", listen=listen, error=error.strerror or str(error))
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


async def until_stopped(work: Coroutine[None, None, R], stop: asyncio.Event) -> R | None:
    """Await `work` or `stop`, whichever comes first; the work is cancelled at the stop."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, stopping):
            future.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM set `stop`; call on the loop."""
    loop = asyncio.get_running_loop()

    def set_stop() -> None:
        stop.set()

    handler: Callable[[], None] = set_stop
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handler)
