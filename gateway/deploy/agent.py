"""The shadow agent: carries out what is desired of a running gateway, or says why not, and reports how the gateway is.

Wishes are all or nothing. Those that were carried out last are kept beside the spool: a gateway that starts without its network
is as it was wished to be. What is wished counts over the YAML file, and without a wish the file counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adapters.base import Adapter
from gateway import logs
from gateway.config import Configuration, Diagnostic
from gateway.pipeline import build_models
from gateway.spool.storage import DiskStorage, read_file, write_file
from schemas.errors import Busy, ConfigError, NotConnected
from schemas.span import Command
from schemas.tags import Tag

from . import state
from .wishes import Wishes, as_errors, judge

if TYPE_CHECKING:
    from cloud_sinks.base import Reporter
    from gateway.pipeline import Pipeline

Replan = Callable[[str, Adapter, Sequence[Tag]], Awaitable[None]]
"""Stops an adapter by name and goes on with another one."""
_MARGIN: Final = 256
_FILE: Final = "shadow.json"
_REFUSED_S: Final = 60.0


class ShadowAgent:
    """The one of a gateway. `restore` before anything runs, then `run`; `desired` takes the command of that name at any time.

    A change of state is reported within `pace_s`, an answer to wishes at once, what changes all the time every `every_s`.
    Wishes that are right and could not be carried out are tried again every `retry_s`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sink: str,
        reporter: Reporter,
        replan: Replan,
        *,
        pace_s: float = 5.0,
        every_s: float = 300.0,
        retry_s: float = 60.0,
    ) -> None:
        self.sink = sink
        self._pipeline, self._reporter, self._replan = pipeline, reporter, replan
        self._pace_s, self._every_s, self._retry_s = pace_s, every_s, retry_s
        self._configuration = pipeline.configuration  # as the file says
        self._level = logs.level()
        self._path = pipeline.configuration.directory / pipeline.configuration.plant.spool.directory / _FILE
        self._wanted: Command | None = None
        self._woken = asyncio.Event()
        self._text = "{}"  # the wishes that were judged last; empty where nobody knows what is in force
        self._bytes = 0  # of what is desired
        self._in_force: Mapping[str, Any] = {}
        self._errors: list[dict[str, Any]] = []
        self._spool: state.State = {}
        self._spool_at = self._changed_at = -float("inf")
        self._reported: state.State = {}
        self._failed: str | None = None  # wishes that are right and could not be carried out
        self._again_at = 0.0
        self._refused = ""
        self._rest_until = 0.0

    async def restore(self) -> None:
        """Do what was wished before the gateway stopped. A file that cannot be read counts as none."""
        text = await asyncio.to_thread(_stored, self._path)
        if text is not None:
            await self._take(text)

    def desired(self, command: Command) -> None:
        """Take over the whole of what is desired; it replaces what has not been looked at yet."""
        self._wanted = command
        self._woken.set()

    async def run(self) -> None:
        """Carry out and report until cancelled."""
        while True:
            answered = False
            command, self._wanted = self._wanted, None
            self._woken.clear()
            if command is not None:
                answered = await self._take(str(command.arguments["document"]))
            elif self._failed is not None and asyncio.get_running_loop().time() >= self._again_at:
                answered = await self._take(self._failed)
            await self._report(answered)
            try:
                async with asyncio.timeout(1.0):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _take(self, text: str) -> bool:
        """Judge wishes, and carry them out whole or not at all. False where they are those that stand."""
        text, self._failed = _spelled(text), None
        if text == self._text:
            return False
        p, self._bytes = self._pipeline, len(text.encode())
        verdict = await asyncio.to_thread(judge, self._configuration, text)
        if verdict.wishes is None:
            await self._refuse(verdict.errors)
        else:
            try:
                await self._carry_out(verdict.wishes, verdict.configuration)
            except (ConfigError, OSError, Busy) as error:
                await self._refuse([Diagnostic("E018", f"cannot be carried out: {error}", file="desired")])
                self._failed, self._again_at, self._text = text, asyncio.get_running_loop().time() + self._retry_s, ""
                return True
            self._in_force, self._errors = json.loads(text), as_errors(verdict.warnings)
            p.log.info("what is desired is carried out", sink=self.sink, desired=text)
            await self._tell("shadow_applied", "info", f"carried out what is desired: {text}")
            try:
                await asyncio.to_thread(_store, self._path, text)
            except OSError as error:
                # In force now; a restart without network would not know it.
                p.log.warning("what is desired cannot be kept", sink=self.sink, error=error.strerror or str(error))
        self._text = text
        return True

    async def _refuse(self, errors: Sequence[Diagnostic]) -> None:
        """Say why; everything stays as it is."""
        p = self._pipeline
        told, self._errors = self._errors, as_errors(errors)
        if told and told == self._errors:
            return
        said = errors[0].render().partition("\n")[0] if errors else "it cannot be judged"
        p.log.warning("what is desired is refused", sink=self.sink, error=said, errors=len(errors))
        await self._tell("shadow_refused", "warning", f"what is desired is refused: {said}")

    async def _tell(self, event: str, severity: str, message: str) -> None:
        try:
            await self._pipeline.event(event, severity, message, source=self.sink)
        except Busy:
            return  # the disk takes nothing, which is an alarm of its own; the log has it

    async def _carry_out(self, wishes: Wishes, configuration: Configuration) -> None:
        """What can fail comes first. Raises ConfigError, OSError."""
        await self._rescan(configuration)
        logs.set_level(wishes.log_level or self._level)
        for delivery in self._pipeline.deliveries:
            wish = wishes.sinks.get(delivery.name)
            await delivery.pause(wish.paused if wish is not None else False)

    async def _rescan(self, configuration: Configuration) -> None:
        """Read the tags of other scan classes at their new times. They keep their ids, and so their rows their identity."""
        p = self._pipeline
        before = {tag.path: tag for tag in p.tags}
        tags = [replace(tag, id=before[tag.path].id) for tag in configuration.tags]
        changed = {tag.adapter for tag in tags if tag.period_us != before[tag.path].period_us}
        if not changed:
            return
        assert p.adapter_of is not None
        seen = {one.name: one.seen_us for one in p.collectors}
        adapters = {name: p.adapter_of(configuration, name, tags, seen[name]) for name in changed}
        models = await asyncio.to_thread(build_models, configuration, tags, p.log)  # some know how often their tags are read
        p.tags = await p.registry.resolve(tags, p.clock.now_us())
        if p.runner is not None:
            p.runner.replace(models)
        p.models = models
        for name, (adapter, mine) in adapters.items():
            await self._replan(name, adapter, mine)

    async def _report(self, answered: bool) -> None:
        loop, p = asyncio.get_running_loop(), self._pipeline
        now = loop.time()
        if answered or now - self._spool_at >= self._every_s:
            self._spool, self._spool_at = await asyncio.to_thread(state.spool, p), now
        room = self._reporter.report_bytes - self._bytes - _MARGIN
        whole = {**state.parts(p), "spool": self._spool, "errors": self._errors}
        fresh = state.fitted(whole, self._in_force, room)
        if fresh != self._reported and (answered or now - self._changed_at >= self._pace_s):
            self._reported, self._changed_at = fresh, now
        if now < self._rest_until:
            return
        try:
            await self._reporter.report(self._reported)
        except NotConnected:
            return  # the sink itself says so
        except Busy as busy:
            self._rest_until = now + busy.wait_s
            return
        except ConfigError as error:
            if str(error) != self._refused:
                p.log.warning("the shadow cannot be kept", sink=self.sink, error=str(error))
            self._refused, self._rest_until = str(error), now + _REFUSED_S
            return
        self._refused = ""


def agent_of(pipeline: Pipeline, replan: Replan) -> ShadowAgent | None:
    """The agent of a gateway with a sink that keeps a shadow; the configuration has one at most."""
    from cloud_sinks.base import Reporter

    for name, sink in pipeline.sinks.items():
        if isinstance(sink, Reporter) and sink.report_bytes:
            return ShadowAgent(pipeline, name, sink, replan)
    return None


def _spelled(text: str) -> str:
    """The same JSON in one spelling that YAML reads too."""
    return json.dumps(json.loads(text), ensure_ascii=False, sort_keys=True).encode("utf-8", "replace").decode()


def _stored(path: Path) -> str | None:
    try:
        return _spelled(read_file(DiskStorage(), path).decode())
    except (OSError, ValueError):
        return None


def _store(path: Path, text: str) -> None:
    write_file(DiskStorage(), path, text.encode())
