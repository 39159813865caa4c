"""What reading a configuration costs: `genba check` on the example in a process of its own, and 10,000 tags."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from report import Figure, parser, publish

ROOT = Path(__file__).resolve().parents[1]
HEAD = "enterprise: acme\nsite: osaka\ngateway: gw-1\nsinks: {lake: {kind: parquet, location: ./lake}}\n"
TAGS = 10_000


def cpu_of(*command: str) -> float:
    """CPU seconds, user and system, of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "KEPSERVER_PASSWORD": "x"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_of(action: Callable[[], object]) -> float:
    """CPU seconds of an action in this process."""
    began = time.process_time()
    action()
    return time.process_time() - began


def large_plant(folder: Path, *, as_csv: bool) -> Path:
    """A plant of 10,000 tags, in the YAML file itself or in a table."""
    if as_csv:
        rows = "".join(f"t{i},hr:{i * 2},float32,°C,90,110\n" for i in range(TAGS))
        (folder / "tags.csv").write_text("name,address,type,unit,high,high_high\n" + rows, encoding="utf-8")
        tags = " {file: tags.csv}\n"
    else:
        lines = (
            f'      t{i}: {{address: "hr:{i * 2}", type: float32, unit: °C, limits: {{high: 90, high_high: 110}}}}\n'
            for i in range(TAGS)
        )
        tags = "\n" + "".join(lines)
    path = folder / ("csv.yaml" if as_csv else "yaml.yaml")
    path.write_text(f"{HEAD}adapters:\n  a:\n    kind: modbus\n    endpoint: tcp://a\n    tags:{tags}", encoding="utf-8")
    return path


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__ or "").parse_args()
    rounds = 5 if options.quick else 15
    genba = [sys.executable, "-m", "gateway"]
    python = statistics.median(cpu_of(sys.executable, "-c", "pass") for _ in range(rounds))
    check = statistics.median(cpu_of(*genba, "check", str(ROOT / "examples" / "plant.yaml")) for _ in range(rounds))
    start = statistics.median(cpu_of(*genba, "--help") for _ in range(rounds))
    figures = [
        Figure("genba check examples/plant.yaml", check, "CPU s", "lower", 0.6, f"python -c pass, {python:.3f} s"),
        Figure("genba --help", start, "CPU s", "lower", 0.3, f"python -c pass, {python:.3f} s"),
    ]
    sys.path.insert(0, str(ROOT))
    from gateway.config import load

    with tempfile.TemporaryDirectory(prefix="genba-bench-") as name:
        for as_csv in (False, True):
            path = large_plant(Path(name), as_csv=as_csv)
            text = path.read_text(encoding="utf-8")
            ours = statistics.median(seconds_of(lambda path=path: load(path)) for _ in range(max(3, rounds // 3)))
            whole = statistics.median(cpu_of(*genba, "check", str(path)) for _ in range(max(3, rounds // 3)))
            baseline = (
                ""
                if as_csv
                else f"yaml.CSafeLoader alone, {seconds_of(lambda text=text: yaml.load(text, yaml.CSafeLoader)):.2f} s"
            )
            kind = "a CSV file" if as_csv else "one YAML file"
            figures.append(Figure(f"load 10,000 tags of {kind}", ours, "CPU s", "lower", 2.4, baseline))
            figures.append(Figure(f"genba check, 10,000 tags of {kind}", whole, "CPU s", "lower", 3.0))
    publish(figures, options)


if __name__ == "__main__":
    main()
