"""The gateway's own troubles are alerts too: an unreachable device or sink, a filling spool or disk, a clock that is not set.

Looks at the running rooms once a second and tells the alarm layer which conditions hold; the alarm layer makes one message a
transition, like for any other alarm.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_models.alarm_book import GATEWAY
from schemas.errors import Busy
from schemas.kinds import make_batch
from schemas.tags import Severity

from .clock import ClockWatch, looks_unset

if TYPE_CHECKING:
    from .collector import Collector
    from .pipeline import Pipeline

_CALM_S: Final = 120.0  # a task that has not crashed for so long is well again


_NO_PROGRESS_S: Final = 120.0
_EXPIRY_WARNING_DAYS: Final = 30
_EXPIRY_CRITICAL_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Trouble:
    """One condition as it is now. `alarm` and `subject` identify it; the sentence is for the person who must act."""

    alarm: str
    subject: str
    active: bool
    severity: Severity
    problem: str
    action: str


class Troubles:
    """Watches one pipeline. `patience_s` is how long something may be away before anybody is told."""

    def __init__(self, pipeline: Pipeline, *, patience_s: float = 3.0, low_disk_bytes: int = 200_000_000) -> None:
        self._pipeline, self._patience_us, self._low_disk_bytes = pipeline, round(patience_s * 1e6), low_disk_bytes
        self._clock_watch = ClockWatch(pipeline.clock)
        self._stepped_until_s = 0.0
        self._step_s = 0.0
        self._over: set[str] = set()  # levels that were passed and have not come back far enough yet

    async def run(self) -> None:
        """Look every second until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(1.0)

    async def look(self) -> None:
        """Compare every condition with what it was and put the transitions into the spool."""
        p = self._pipeline
        now = p.clock.now_us()
        step = self._clock_watch.check(asyncio.get_running_loop().time())
        if step:
            self._stepped_until_s = asyncio.get_running_loop().time() + 60
            self._step_s = step
            p.log.warning("the wall clock was set", step_s=round(step, 3))
            await p.event("clock_stepped", "warning", f"the clock of the gateway was set by {step:+.1f} s")
        await self._tell_losses()
        free = await asyncio.to_thread(_free_bytes, p.spool.directory)
        conditions = list(self._conditions(now, free))
        for trouble in [*conditions, *self._forgotten(conditions)]:
            batch = p.alarms.condition(
                trouble.alarm,
                subject=trouble.subject,
                asset=p.asset,
                active=trouble.active,
                now=now,
                severity=trouble.severity,
                problem=trouble.problem,
                action=trouble.action,
            )
            if batch is not None:
                await p.put("alert", batch)

    async def _tell_losses(self) -> None:
        """Rows that are no more, given up for room or found damaged, become one gap row per sink that was still to have them."""
        p = self._pipeline
        losses = p.spool.take_losses()
        for loss in losses:
            sinks: dict[str | None, int] = dict(loss.sinks.items()) if loss.sinks else {None: loss.last - loss.first + 1}
            gap = make_batch(
                "gap",
                len(sinks),
                time=loss.time_us,
                end=loss.end_us,
                source="spool" if loss.kind == "telemetry" else f"spool.{loss.kind}",
                sink=list(sinks),
                cause=loss.cause,
                rows=list(sinks.values()),
            )
            await p.put("gap", gap)
            which = f"{loss.kind} rows {loss.first} to {loss.last}"
            if loss.cause == "downsampled":
                words = f"{which} are kept as windows (mean, least, greatest, count): the spool is full"
                await p.event("rows_downsampled", "warning", words, source="spool")
            else:
                await p.event("rows_lost", "critical", f"{which} are lost: {loss.cause}", source="spool")
        if losses:
            try:
                await p.spool.flush("gap")
            except Busy:
                return  # the rows wait in memory; should the process end first, the next one tells again
            p.spool.ledger.told(losses)

    def _conditions(self, now: int, free: int) -> Iterator[Trouble]:
        p = self._pipeline
        for collector in p.collectors:
            away = collector.state in ("down", "misconfigured") and abs(now - collector.since_us) >= self._patience_us
            if away or collector.state in ("up", "finished"):
                yield Trouble(
                    f"device_unreachable.{collector.name}", collector.name, away, "critical",
                    f"{collector.name} cannot be read: {collector.error}", f"Check power, cable and address of {collector.name}",
                )  # fmt: skip
            yield from _expiring(collector, now)
        for delivery in p.deliveries:
            away = delivery.state in ("down", "misconfigured") and abs(now - delivery.since_us) >= self._patience_us
            away = away and not delivery.paused  # somebody works on it
            if away or delivery.paused or delivery.state == "up":
                yield Trouble(
                    f"sink_unreachable.{delivery.name}", delivery.name, away, "warning",
                    f"nothing can be delivered to {delivery.name}, its rows wait in the spool: {delivery.error}",
                    f"Check the connection and settings of {delivery.name}",
                )  # fmt: skip
            stuck = delivery.state == "up" and delivery.overdue_s() > _NO_PROGRESS_S
            yield Trouble(
                f"sink_stuck.{delivery.name}", delivery.name, stuck, "warning",
                f"{delivery.name} is connected and has taken nothing for {delivery.overdue_s():.0f} s",
                f"Check whether {delivery.name} is overloaded or refuses what it gets",
            )  # fmt: skip
        used, budget = p.spool.bytes_used(), p.spool_budget
        yield Trouble(
            "spool_filling", "spool", self._above("spool", used, 0.8 * budget, 0.7 * budget), "critical",
            f"the spool holds {used / 1e9:.2f} GB of {budget / 1e9:.2f} GB", "Restore the connection of the sinks or raise spool.max_size",
        )  # fmt: skip
        yield Trouble(
            "disk_filling", "disk", self._above("disk", -free, -self._low_disk_bytes, -1.5 * self._low_disk_bytes), "critical",
            f"only {free / 1e6:.0f} MB are free where the spool is", "Free disk space on the gateway",
        )  # fmt: skip
        failure = p.spool.failure
        yield Trouble(
            "spool_failing", "spool", bool(failure), "critical",
            f"readings cannot be stored: {failure}", "Check the disk of the gateway",
        )  # fmt: skip
        steady_s = asyncio.get_running_loop().time()
        stepped = steady_s < self._stepped_until_s
        yield Trouble(
            "clock_unsynchronised", "clock", looks_unset(now) or stepped, "warning",
            f"the clock was set by {self._step_s:+.1f} s" if stepped else "the clock of the gateway has never been set",
            "Check the time server of the gateway",
        )  # fmt: skip
        if p.runner is not None:
            behind = p.runner.behind_rows
            yield Trouble(
                "models_behind", "models", self._above("models", behind, 1_000_000, 100_000), "warning",
                f"the models have {behind} readings still to see", "Give fewer tags to models or use a faster machine",
            )  # fmt: skip
            for name, why in p.runner.suspended.items():
                yield Trouble(
                    f"model_suspended.{name}", name, bool(why), "warning",
                    f"the model {name} is suspended, its rows have no score: {why}",
                    f"Give {name} a larger budget or memory limit, a smaller model, or take it out",
                )  # fmt: skip
        for name, crashes in list(p.crashes.items()):
            yield Trouble(
                f"task_crashing.{name.replace(' ', '_')}", name, steady_s - crashes.last_s < _CALM_S, "critical",
                f"{name} crashed and was restarted ({crashes.count} times since the start): {crashes.error}",
                "Report this bug with the log of the gateway",
            )  # fmt: skip

    def _forgotten(self, conditions: Sequence[Trouble]) -> Iterator[Trouble]:
        """Open alarms of the run before about what is not in the configuration any more: nobody else would ever clear them."""
        p = self._pipeline
        watched = {trouble.alarm for trouble in conditions}
        watched |= {f"device_unreachable.{collector.name}" for collector in p.collectors}
        watched |= {f"sink_unreachable.{delivery.name}" for delivery in p.deliveries}
        # Known again once the device is reached; an alarm of the run before is neither cleared nor raised anew meanwhile.
        away = [collector.name for collector in p.collectors if collector.state != "up"]
        watched |= {f"certificate_expiring.{name}.{owner}" for name in away for owner in ("own", "server")}
        for entry in p.alarms.active():
            if entry.model == GATEWAY and entry.active and entry.alarm not in watched:
                yield Trouble(entry.alarm, entry.subject, False, entry.severity, "", "")

    def _above(self, level: str, value: float, limit: float, back: float) -> bool:
        """True from `value` > `limit` on until it is below `back`: a level that wavers is one alarm."""
        if value > limit:
            self._over.add(level)
        elif value < back:
            self._over.discard(level)
        return level in self._over


def _expiring(collector: Collector, now: int) -> Iterator[Trouble]:
    """The certificates of one connection: a warning 30 days before they expire, critical 7 days before and from then on."""
    for fact in collector.certificates:
        left_days = (fact.expires_us - now) / 86_400e6
        whose = "the certificate of the gateway" if fact.owner == "own" else "the certificate of the server"
        when = f"expires in {max(0, int(left_days))} days" if left_days > 0 else "has expired"
        yield Trouble(
            f"certificate_expiring.{collector.name}.{fact.owner}", collector.name, left_days < _EXPIRY_WARNING_DAYS,
            "critical" if left_days < _EXPIRY_CRITICAL_DAYS else "warning",
            f"{whose} on {collector.name} {when} ({fact.subject}, {fact.fingerprint[:12]})", fact.action,
        )  # fmt: skip


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free
