"""What goes wrong around the gateway, drawn by a seed: one trouble after the other, several at a time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.cloud_sinks.aws_rig import Fault
from tests.cloud_sinks.kinesis.stub import Fault as StreamFault

from .stands import Stands

_BUCKET_FAULTS = (
    Fault("error", 503, "SlowDown"),
    Fault("error", 500, "InternalError"),
    Fault("error", 400, "ExpiredToken"),
    Fault("error", 412, "PreconditionFailed"),
    Fault("error", 409, "ConditionalRequestConflict"),
    Fault("reset"),
    Fault("reset after"),
)
_STREAM_FAULTS = (
    Fault("error", 400, "ProvisionedThroughputExceededException"),
    Fault("error", 500, "InternalFailure"),
    Fault("error", 400, "ExpiredTokenException"),
    Fault("reset"),
    Fault("reset after"),
)


class Weather:
    """Troubles until it is told to end. `seen` counts them."""

    def __init__(self, stands: Stands, rng: random.Random) -> None:
        self._stands, self._rng = stands, rng
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; then everything works again."""
        try:
            async with asyncio.TaskGroup() as group:
                for chain in (
                    (self.broker_away, self.broker_frozen, self.broker_swallows, self.broker_killed),
                    (self.stream_faults, self.stream_faults, self.stream_away),
                    (self.bucket_faults, self.bucket_faults, self.bucket_away, self.aws_frozen, self.aws_faults),
                    (self.disk_full, self.machine_away),
                ):
                    group.create_task(self._chain(chain))
        finally:
            self._stands.calm()

    async def _chain(self, troubles: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 1.5))
            trouble = self._rng.choice(troubles)
            self.seen[trouble.__name__.replace("_", " ")] += 1
            await trouble()

    def _a_while(self, most_s: float = 2.5) -> Awaitable[None]:
        return asyncio.sleep(self._rng.uniform(0.3, most_s))

    async def broker_away(self) -> None:
        proxy = self._stands.broker_proxy
        proxy.refuse = True
        proxy.cut_off()
        await self._a_while()
        proxy.refuse = False

    async def broker_frozen(self) -> None:
        self._stands.freeze(self._stands.broker)
        try:
            await self._a_while(4)
        finally:
            self._stands.thaw()

    async def broker_swallows(self) -> None:
        """What is sent there arrives nowhere, and nobody says so."""
        proxy = self._stands.broker_proxy
        proxy.up.swallow = True
        await self._a_while(4)
        proxy.up.clear()
        proxy.cut_off()

    async def broker_killed(self) -> None:
        await self._stands.restart_broker()

    async def stream_faults(self) -> None:
        kinds = ("partial", "partial", "throttled", "error", "reset", "taken, then reset")
        for _ in range(self._rng.randint(1, 8)):
            kind = self._rng.choice(kinds)
            entries = tuple(k for k in range(40) if self._rng.random() < 0.4)
            code = "InternalFailure" if kind == "error" else "ProvisionedThroughputExceededException"
            self._stands.stub.plan.append(StreamFault(kind, entries, code))  # type: ignore[arg-type]
        await self._a_while(1)

    async def stream_away(self) -> None:
        self._stands.stub.away = True
        await self._a_while()
        self._stands.stub.away = False

    async def bucket_faults(self) -> None:
        self._stands.bucket.plan += [self._rng.choice(_BUCKET_FAULTS) for _ in range(self._rng.randint(1, 5))]
        await self._a_while(1)

    async def bucket_away(self) -> None:
        self._stands.bucket.away = True
        await self._a_while()
        self._stands.bucket.away = False

    async def aws_frozen(self) -> None:
        """The service takes a request, does it when it has woken up, and nobody waits for its answer any more."""
        self._stands.freeze(self._stands.aws)
        try:
            await self._a_while(4)
        finally:
            self._stands.thaw()

    async def aws_faults(self) -> None:
        self._stands.stream.plan += [self._rng.choice(_STREAM_FAULTS) for _ in range(self._rng.randint(1, 5))]
        await self._a_while(1)

    async def disk_full(self) -> None:
        await asyncio.to_thread(self._stands.disk.fill)
        await self._a_while()
        self._stands.disk.free()

    async def machine_away(self) -> None:
        self._stands.machine.refuse = True
        self._stands.machine.cut_off()
        await self._a_while()
        self._stands.machine.refuse = False
