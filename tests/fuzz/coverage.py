"""Coverage-guided fuzzing of every target with atheris: `python -m tests.fuzz.coverage [--seconds N] [--seed N] [NAME ...]`.

Each target runs in a process of its own for N seconds, as many at once as there are processors. What breaks one is printed with the
bytes that did it; log and corpus, from which the next run starts, are below `build/fuzz/NAME` (or `--into`). Exit code 1 when
one broke.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["adapters", "schemas", "gateway.config", "gateway.taglists", "cloud_sinks.commands", "edge_models.alarm_book", "asyncua.ua.ua_binary", "asyncua.common",
             "asyncua.client.ua_client", "pymodbus.framer"],
    enable_loader_override=False,
):  # fmt: skip
    from tests.fuzz.catalogue import TARGETS
    from tests.fuzz.harness import Target, judge

ROOT = Path(__file__).parents[2]


def fuzz(target: Target, seconds: int, folder: Path, seed: int) -> None:
    """Never returns: libFuzzer ends the process, with 0 when nothing was found."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(example)
    arguments = [
        "fuzz", str(corpus), f"-max_total_time={seconds}", f"-max_len={target.longest}", f"-artifact_prefix={folder}/",
        "-rss_limit_mb=2048", "-timeout=30", "-verbosity=0", "-print_final_stats=1", f"-seed={seed}",
    ]  # fmt: skip
    atheris.Setup(arguments, lambda data: judge(target, data))
    atheris.Fuzz()


def start(target: Target, seconds: int, into: Path, seed: int) -> tuple[int, Path]:
    """The process that fuzzes a target, and the file with what it said."""
    folder = into / target.name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    pid = os.fork()
    if pid == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            fuzz(target, seconds, folder, seed)
        finally:
            os._exit(1)
    return pid, log


def main() -> int:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.coverage", description="Coverage-guided fuzzing of every decoder.")
    parser.add_argument("--seconds", type=int, default=5, help="for each target")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "build" / "fuzz", help="directory for corpus, log and what broke a target"
    )
    parser.add_argument("--seed", type=int, default=0, help="0, the default, for other inputs each time")
    parser.add_argument("names", nargs="*", choices=[*TARGETS, []], metavar="NAME", help=f"of {', '.join(TARGETS)}")
    options = parser.parse_args()
    waiting = [TARGETS[name] for name in options.names or TARGETS]
    running: dict[int, tuple[Target, Path]] = {}
    broken = []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            target = waiting.pop(0)
            pid, log = start(target, options.seconds, options.into, options.seed)
            running[pid] = target, log
        pid, status = os.wait()
        target, log = running.pop(pid)
        said = log.read_text(errors="replace").splitlines()
        runs = next((line.rpartition(" ")[2] for line in said if "number_of_executed_units" in line), "?")
        found = [line for line in said if "Violation:" in line or "ERROR: libFuzzer" in line]
        sys.stdout.write(f"{target.name:20} {'broken' if status else 'ok':8} {runs:>9} inputs\n")
        if status:
            broken.append(target.name)
            sys.stdout.writelines(f"    {line}\n" for line in found or said[-10:])
        sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
