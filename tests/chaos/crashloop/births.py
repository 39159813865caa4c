"""A process that has imported everything a gateway imports and forks a `genba run` for each life: a start is spared its imports.

`python -m tests.chaos.crashloop.births` reads orders from stdin, a JSON object a line, and answers each with a line when the child is there (its
process id) and a line when it has ended (its wait status). One life at a time. What the child does is `gateway.cli.main(["run", …])`: arguments,
configuration, signals, supervisor and exit code are those of the command. It differs in what `living` changes: what a person cannot
set and would take minutes (see `_hurry`), the witness, and one fault or one point at which it kills itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final

from . import faults, points
from .witness import Witness

_LATE: Final = ("gateway.cli.run", "gateway.logs", "gateway.service", "cloud_sinks.iot_core.connection", "pyarrow.parquet")
"""What commands and sinks import when they are first used."""
_SEGMENT_BYTES: Final = 6 << 10
_GRACE_S: Final = 0.15
_SNAPSHOT_EVERY_S: Final = 0.3


@dataclass(frozen=True)
class Order:
    """One life: the plant's file, where log and witness go, and at which point it ends itself, if at any, the how manieth time."""

    plant: str
    log: str
    witness: str
    point: str = ""
    nth: int = 1
    fault: str = ""


def warm_up(plant: Path) -> None:
    """Import what a gateway with this file imports, without starting a thread, and read once what every start reads of the installation."""
    import botocore.loaders

    from cloud_sinks.aws import Account, AwsConfig
    from gateway import catalogue, config, doctor

    for module in _LATE:
        importlib.import_module(module)
    configuration = config.load(plant)
    for group, entries in (("adapters", configuration.plant.adapters), ("sinks", configuration.plant.sinks)):
        for entry in entries.values():
            catalogue.plugin(group, entry.kind)  # type: ignore[arg-type]
    loader = botocore.loaders.JSONFileLoader
    loader.load_file = cache(loader.load_file)
    foreign = doctor.foreign_owners()
    doctor.foreign_owners = lambda: foreign
    Account(AwsConfig(endpoint="http://127.0.0.1:1"), Path(), "").client("s3")


def serve(plant: Path) -> None:
    """Until stdin ends."""
    warm_up(plant)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        assert threading.active_count() == 1, "a fork keeps one thread only"
        pid = os.fork()
        if not pid:
            _live(Order(**json.loads(line)))
        _say(pid)
        _say(os.waitpid(pid, 0)[1])


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _live(order: Order) -> None:
    """In the child; never returns."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(log, 1)
        os.dup2(log, 2)
        with living(order):
            from gateway.cli import main

            main(["run", order.plant, "--log-json"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - the driver reads it in the log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def living(order: Order) -> Iterator[None]:
    """This process is a gateway that is watched."""
    witness = Witness(Path(order.witness))
    _hurry()
    if order.fault:
        faults.FAULTS[order.fault]()
    if order.point:
        points.arm(order.point, order.nth, witness.died_at)
    _watch(witness)
    yield


def _hurry() -> None:
    """What takes seconds or minutes in a plant happens within a life: small segments, deletion soon after the start, frequent snapshots of the models."""
    from gateway import pipeline, runner
    from gateway.spool import Spool, opening

    opened = Spool.open.__func__  # type: ignore[attr-defined]

    @wraps(opened)
    async def soon(cls: type[Spool], *arguments: Any, **options: Any) -> Spool:
        return await opened(cls, *arguments, retention_grace_s=_GRACE_S, **options)  # type: ignore[no-any-return]

    Spool.open = classmethod(soon)  # type: ignore[assignment,method-assign]
    opening._size_for = lambda kind, size: _SEGMENT_BYTES  # less than a person may set

    class Often(runner.ModelRunner):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, snapshot_every_s=_SNAPSHOT_EVERY_S)

    pipeline.ModelRunner = Often  # type: ignore[misc]


def _watch(witness: Witness) -> None:
    """Note outside of the process what the spool calls durable, the moment it does."""
    from gateway.spool import Spool
    from schemas.kinds import KINDS

    opened, have = Spool.open.__func__, Spool._have  # type: ignore[attr-defined]

    @wraps(opened)
    async def watched(cls: type[Spool], *arguments: Any, **options: Any) -> Spool:
        spool: Spool = await opened(cls, *arguments, **options)
        for kind in KINDS:
            spool.tap(kind, lambda first, batch, kind=kind: witness.put(kind, first, batch))  # type: ignore[misc]
        return spool

    def told(self: Spool, kind: Any, row: int, now_us: int) -> None:
        have(self, kind, row, now_us)
        witness.durable(kind, self.durable(kind))

    Spool.open = classmethod(watched)  # type: ignore[assignment,method-assign]
    Spool._have = told  # type: ignore[method-assign]


def line_of(order: Order) -> bytes:
    """As `serve` reads it."""
    return json.dumps(asdict(order)).encode() + b"\n"


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
