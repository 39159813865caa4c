"""Draws the picture of each model in docs/models.md: a seeded example, what the model makes of it, and its alarms.

`python docs/pictures.py` writes docs/pictures/KIND.png; `--check` says which are missing. Needs matplotlib (the extra `plot`), and for models in files the extras `onnx` and `train`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edge_models import inference
from edge_models.runtime import ModelSet
from edge_models.train.graphs import Graph
from edge_models.train.remaining_life import Recipe, train
from schemas.kinds import make_batch, with_seq
from schemas.tags import Limits, Tag

FOLDER = Path(__file__).parent / "pictures"
S = 1_000_000
T0 = 1_767_225_600 * S
Numbers = npt.NDArray[np.float64]


@dataclass
class Example:
    """A stream of one asset: tags as rows of `value`, NaN where nothing comes; the fault lies in rows `fault`."""

    value: Numbers  # [tags, rows]
    fault: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: int = 0  # the tag that is drawn
    first: int = 0  # the row at which the picture begins
    limits: Limits | None = None
    unit: str = "Cel"
    period: int = S  # of the rows of `value`, µs
    waveforms: bool = False  # `value` is [rows, samples] of one tag
    file: Callable[[], bytes] | None = None  # the model's file, where it lies in one


def noise(rows: int, seed: int = 1) -> Numbers:
    """A measured value that holds its level."""
    return np.asarray(60 + np.random.default_rng(seed).normal(0, 1, rows))


def loads(rows: int, seed: int = 1) -> Numbers:
    """Five tags that two loads move together."""
    rng = np.random.default_rng(seed)
    load = np.zeros((rows, 2))
    for row in range(1, rows):
        load[row] = 0.95 * load[row - 1] + rng.normal(0, 1, 2)
    mix = np.array([[2.0, 0.1], [1.5, -0.4], [0.2, 1.8], [-1.2, 0.6], [0.7, 0.7]])
    return np.asarray(50 + mix @ load.T + rng.normal(0, 0.2, (5, rows)))


def cycles(rows: int, seed: int = 1) -> Numbers:
    """Strokes of a press."""
    rng = np.random.default_rng(seed)
    turn = np.cumsum(rng.normal(1.0, 0.05, rows)) / 50 * 2 * np.pi
    return np.asarray(10 + np.sin(turn) + 0.4 * np.sin(2 * turn + 1) + rng.normal(0, 0.05, rows))


def lives(count: int, seed: int) -> list[Numbers]:
    """Machines, each of them two tags from its first row to its failure, that wear ever faster."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rows = int(rng.integers(150, 350))
        wear = np.exp(-np.arange(rows)[::-1] / 50)
        found.append(rng.normal(50, 1, 2) + np.outer(wear, [6.0, -4.0]) + rng.normal(0, 0.3, (rows, 2)))
    return found


def redundant() -> bytes:
    """A graph that says how far two sensors of the same are apart, over ten rows."""
    graph = Graph()
    apart = graph.add("MatMul", "rows", graph.constant([[1.0], [-1.0]]))
    mean = graph.add("MatMul", graph.constant(np.full((1, 10), 0.1)), apart)
    graph.add("Flatten", graph.add("Abs", mean), name="distance", axis=1)
    return graph.bytes({"rows": [10, 2]}, {"distance": 1}, {"genba.features": '["t0", "t1"]', "genba.window": "10"})


def fleet() -> bytes:
    """The recipe over forty machines."""
    return train(Recipe(window=30, cap=150, trees=100, edges=(30.0, 60.0, 100.0)), lives(40, 1), ["t0", "t1"])


def examples() -> dict[str, Example]:
    """By kind of model."""
    found: dict[str, Example] = {}
    ramp = np.concatenate([np.zeros(1000), np.linspace(0, 12, 200), np.linspace(12, 0, 200), np.zeros(200)])
    found["limits"] = Example(
        noise(1600)[None] + ramp, (1000, 1400), first=800, limits=Limits(high=68, high_high=75, hysteresis=1)
    )
    rule = {"rules": {"rises": {"tag": "t0", "rate_above": 0.1, "over": "60s"}}}
    slope = np.concatenate([np.zeros(1000), np.linspace(0, 30, 150), np.full(450, 30.0)])
    found["rules"] = Example(noise(1600)[None] * 0.2 + 48 + slope, (1000, 1150), rule, first=800)
    step = noise(1600)[None].copy()
    step[:, 1200:1400] += 7
    found["forecast_residual"] = Example(step, (1200, 1400), first=900)
    wide = noise(1600)[None] + 6 * np.sin(np.arange(1600) / 60)
    wide[:, 1300:1340] += 11
    found["envelope"] = Example(wide, (1300, 1340), {"warm_up": "15m"}, first=700)
    creep = noise(2400)[None] + np.concatenate([np.zeros(1200), np.linspace(0, 4, 1200)])
    found["drift"] = Example(creep, (1200, 2400), first=900)
    stuck = noise(2400)[None].copy()
    stuck[:, 1300:2000] = stuck[0, 1300]
    found["stuck"] = Example(stuck, (1300, 2000), first=900)
    both = noise(1600, 2)[None].copy()
    both[:, 1200:1400] += 4
    both[:, 1000] += 5
    found["ensemble"] = Example(both, (1200, 1400), {"warm_up": "10m"}, first=900)
    together = loads(3200)
    together[1, 2600:2900] += 4
    found["multivariate"] = Example(together, (2600, 2900), {"warm_up": "30m"}, shown=1, first=2200)
    course = cycles(4000)
    course[3400:3450] = 10 + 0.7 * np.sin(np.arange(50) / 50 * 6 * np.pi)
    found["shape"] = Example(course[None], (3400, 3450), {"warm_up": "30m"}, first=3100)
    day = cycles(4000, 3)
    day[3500:3560] = 10.2
    found["novelty"] = Example(day[None], (3500, 3560), {"warm_up": "40m", "limit": 0.997}, first=3100)
    wear = 40 + 30 * (np.arange(4000) / 4000) ** 2 + np.random.default_rng(1).normal(0, 0.5, 4000)
    trend = {"window": "15m", "within": "10m", "warm_up": "0s"}
    found["trend_to_limit"] = Example(wear[None], (3200, 4000), trend, limits=Limits(high=66))
    quarter = np.arange(28 * 96)  # of an hour; 2026-01-01 is a Thursday
    worked = ((quarter // 96 + 3) % 7 < 5) & (quarter % 96 >= 24) & (quarter % 96 < 88)
    worked[2480:2512] = True  # left on over a night
    power = np.where(worked, 95, 20) + np.random.default_rng(1).normal(0, 3, len(quarter))
    shifts = {"early": "mon-fri 06:00-14:00", "late": "mon-fri 14:00-22:00"}
    found["seasonal"] = Example(
        power[None], (2488, 2512), {"shifts": shifts, "slot": "1h"}, first=1920, unit="kW", period=900 * S
    )
    demand = np.where(worked, 95, 20) + np.random.default_rng(3).normal(0, 3, len(quarter))
    demand[2480:2512] = np.random.default_rng(4).normal(20, 3, 32)
    demand[2540:2576] += np.minimum(np.arange(36), 18)  # a furnace more than usual
    ahead = {"cycle": "7d", "horizon": "1h", "peak": 108}
    found["forecast"] = Example(demand[None], (2540, 2576), ahead, first=2300, limits=Limits(high=108), unit="kW", period=900 * S)
    rng = np.random.default_rng(2)
    blocks = rng.normal(0, 1, (120, 4096))
    for block in range(90, 120):  # a rolling element strikes a damaged outer ring 88 times a second and lets the housing ring
        for strike in np.arange(rng.uniform(0, 290), 4096 - 200, 25_600 / 88.5):
            n = np.arange(200)
            blocks[block, int(strike) + n] += 5 * np.exp(-n / 30) * np.sin(2 * np.pi * 4000 / 25_600 * n)
    bearing = {"sample_rate": 25600, "rpm": 1482, "bearing": {"balls": 9, "ball_diameter": 7.94, "pitch_diameter": 39.04}}
    found["vibration"] = Example(blocks, (90, 120), {**bearing, "warm_up": "0s"}, first=40, unit="m/s2", waveforms=True)
    pair = np.stack([cycles(2000, 5), cycles(2000, 5)]) + np.random.default_rng(6).normal(0, 0.05, (2, 2000))
    pair[1, 1500:1700] += 0.3
    found["onnx"] = Example(pair, (1500, 1700), {"score": "calibrated"}, shown=1, first=1200, file=redundant)
    (life,) = lives(1, 11)
    found["remaining_life"] = Example(life.T, (len(life) - 20, len(life)), {"within": 20}, file=fleet)
    return found


def batches(example: Example) -> tuple[pa.RecordBatch, int]:
    """TELEMETRY of the whole example in row order, and how many tags it has."""
    if example.waveforms:
        rows = len(example.value)
        samples = pa.array(list(example.value.astype(np.float32)), pa.list_(pa.float32()))
        batch = make_batch(
            "telemetry", rows, time=T0 + np.arange(rows) * 60 * S, tag=np.zeros(rows, np.int32), samples=samples,
            quality=np.zeros(rows, np.uint32), lag=0, origin=0,
        )  # fmt: skip
        return with_seq(batch, 0), 1
    tags, rows = example.value.shape
    batch = make_batch(
        "telemetry", tags * rows, time=np.repeat(T0 + np.arange(rows) * example.period, tags), tag=np.tile(np.arange(tags, dtype=np.int32), rows),
        value=example.value.T.ravel(), quality=np.zeros(tags * rows, np.uint32), lag=0, origin=0,
    )  # fmt: skip
    return with_seq(batch, 0), tags


def draw(kind: str, example: Example, path: Path) -> None:
    """One picture: the value with the band in which it was expected, and the score; grey is the fault, red are alarms."""
    from matplotlib.figure import Figure

    batch, count = batches(example)
    period = 60 * S if example.waveforms else example.period
    tags = [
        Tag(path=f"acme/hall/press/t{n}", asset="acme/hall/press", name=f"t{n}", adapter="x", device="x", address="", id=n, unit=example.unit,
            period_us=period, limits=example.limits, value_type="samples" if example.waveforms else "number")
        for n in range(count)
    ]  # fmt: skip
    plugin = import_module(f"edge_models.{kind}").PLUGIN
    options = {"kind": kind, "tags": ["**"], **example.options}
    with TemporaryDirectory() as folder:
        if example.file is not None:
            (Path(folder) / "model.onnx").write_bytes(example.file())
            options["file"] = "model.onnx"
        configs = {} if kind == "limits" else {kind: plugin.config.model_validate(options)}

        def opened(file: str, limits: inference.Limits, where: str) -> inference.Executor:
            return inference.InProcess(inference.read_model(file, Path(folder), where), file, where)

        models = ModelSet.build(configs, tags, lambda _: plugin, open_model=opened)
    scores, alerts = [], []
    for at in range(0, batch.num_rows, count):
        out = models.update(batch.slice(at, count), T0 + at // count * period)
        scores += [row for one in out.scores for row in one.to_pylist() if row["model"] == kind]
        alerts += [row for one in out.alerts for row in one.to_pylist() if row["model"] == kind]
    mine = [row for row in scores if row["tag"] in (None, example.shown) and row["alarm"] not in ("zone_c", "zone_d", "waveform")]

    def number(row: Mapping[str, Any]) -> float:
        return float((row["time"].timestamp() * S - T0) / period)

    figure = Figure(figsize=(8, 3.2), dpi=80, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    value = np.sqrt((example.value**2).mean(axis=1)) if example.waveforms else example.value[example.shown]
    above.plot(np.arange(len(value)), value, lw=0.7, color="#1f4e79")
    banded = [row for row in mine if row["low"] is not None and row["high"] is not None and kind != "vibration"]
    if banded and kind not in ("trend_to_limit", "remaining_life"):
        above.fill_between([number(row) for row in banded], [row["low"] for row in banded], [row["high"] for row in banded],
                           color="#9dc3e6", alpha=0.5, lw=0)  # fmt: skip
    for limit in () if example.limits is None else (example.limits.high, example.limits.high_high):
        if limit is not None:
            above.axhline(limit, color="#b00000", lw=0.7, ls="--")
    known = [row for row in mine if row["score"] is not None]
    below.plot([number(row) for row in known], [row["score"] for row in known], lw=0.8, color="#555555", drawstyle="steps-post")
    below.set_ylim(-0.05, 1.05)
    for axes in (above, below):
        axes.axvspan(*example.fault, color="#dddddd", zorder=0)
        for row in alerts:
            if row["transition"] == "raised":
                axes.axvline(number(row), color="#c00000", lw=1.0)
        axes.set_xlim(example.first, len(value))
    above.set_ylabel("RMS" if example.waveforms else "value", fontsize=8)
    below.set_ylabel("score", fontsize=8)
    raised = [row for row in alerts if row["transition"] == "raised"]
    above.set_title(fill(raised[0]["problem"], 120) if raised else "no alarm", fontsize=8, loc="left")
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    """0 when all are there."""
    made = examples()
    if "--check" in sys.argv:
        missing = [kind for kind in made if not (FOLDER / f"{kind}.png").exists()]
        for kind in missing:
            sys.stderr.write(f"docs/pictures/{kind}.png is missing: python docs/pictures.py {kind}\n")
        return 1 if missing else 0
    FOLDER.mkdir(exist_ok=True)
    for kind in sys.argv[1:] or made:
        draw(kind, made[kind], FOLDER / f"{kind}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
