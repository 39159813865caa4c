"""S7 by symbol: 1,000 REALs of one optimised block against the emulator of `s7commplus`, a process of its own on loopback.

Ours is a whole poll as the adapter does it, in its thread, to one Arrow batch. The baseline is the library's `read_symbolic_multi` of the same
variables on an event loop: bytes only. The two take turns, medians are compared; CPU is user and system time of this process. The emulator is
Python too and shares the machine, so wall time says little about a PLC.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the tests' simulated plant
sys.path.append(sys.path.pop(0))  # the classic library is called s7, and this folder must not hide it

from end_to_end import process
from report import Figure, parser, publish

TAGS = 1_000
PLANT = {f"t{n}": (f"Data.member_{n}", "real") for n in range(TAGS)}


async def serve() -> None:
    """The emulator, until this process ends."""
    from tests.adapters.s7plus import rig

    device = rig.make_simulator(rig.configure(PLANT))
    print(await device.start(), flush=True)
    await asyncio.Event().wait()


async def measure(endpoint: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one read of all variables, by contestant."""
    from s7commplus import AsyncClient

    from tests.adapters.s7plus import rig

    with tempfile.TemporaryDirectory(prefix="genba-bench-") as scratch:
        adapter = rig.make_adapter(rig.configure(PLANT), endpoint, Path(scratch))
        await adapter.connect()
    worker, session = adapter._worker, adapter._session
    assert worker is not None
    assert session is not None
    items = [(access[0], list(access[1:]), 0) for access in adapter._plans[0].items]
    client = AsyncClient()
    await client.connect("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))

    async def ours() -> object:
        return await adapter._poll(0, worker, session)

    async def library() -> object:
        return await client.read_symbolic_multi(items)

    contestants: dict[str, Callable[[], Awaitable[object]]] = {"ours": ours, "library": library}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds + 3):
        for name, call in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            await call()
            if number >= 3:
                seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    await client.disconnect()
    await adapter.aclose()
    return {
        name: (statistics.median(w for w, _ in found), statistics.median(c for _, c in found)) for name, found in seen.items()
    }


def main() -> None:
    if "--serve" in sys.argv:
        asyncio.run(serve())
        return
    options = parser(__doc__ or "").parse_args()
    if importlib.util.find_spec("s7commplus") is None:
        print("skipped: the extra s7plus is missing; install it with: pip install 'genba[s7plus]'")
        return
    with process(sys.executable, __file__, "--serve") as endpoint:
        found = asyncio.run(measure(endpoint, 15 if options.quick else 60))
    (wall, cpu), (library_wall, library_cpu) = found["ours"], found["library"]
    name, baseline = f"S7 by symbol, {TAGS:,} REALs", "read_symbolic_multi of s7commplus"
    publish(
        [
            Figure(f"{name}: CPU", cpu / library_cpu, "ratio", "lower", None, baseline),
            Figure(f"{name}: wall", wall / library_wall, "ratio", "lower", None, baseline),
            Figure(f"{name}: poll to batch, CPU", cpu / TAGS * 1e6, "us/value", "lower"),
            Figure(f"{name}: poll to batch, wall", wall * 1e3, "ms", "lower"),
        ],
        options,
    )


if __name__ == "__main__":
    main()
