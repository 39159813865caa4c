"""The models for selected tags, `shape` and `vibration`: what they cost, and what they find in synthetic signals.

Protocol: CPU time on one thread, after warm-up, default parameters, the contestants take turns and the median counts. `shape` has polls of
100 tags (a press cycle of 50 readings) and, as baseline, the same comparison done anew at each reading. `vibration` has one waveform a
batch with a bearing of four lines and three harmonics; its baseline is one real FFT of that waveform. Findings: seeds that were not used
while the models were made. Bearings: 25.6 kHz, 8192 samples, noise of standard deviation 1 and imbalance of amplitude 1; after 80
healthy waveforms impulses at the outer-ring frequency, with one per cent of slip, make a resonance at 4 kHz ring with the
named amplitude; found is a machine of which one of the next ten waveforms is abnormal. Shapes: a cycle of varying pace with noise
of a tenth of its amplitude; after 2000 readings one cycle goes up and down three times, within the range; found is a tag with an
abnormal reading within two windows. Abnormal is the default limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from report import Figure, interleaved

from edge_models import shape, vibration
from edge_models.base import ModelContext
from edge_models.waveform import bearing_orders
from schemas.kinds import kind_of, make_batch, telemetry, with_seq
from schemas.tags import Tag

from . import Measured

NEEDS = ()
TAGS, CYCLE, WINDOW = 100, 50, 50
RATE, LENGTH, SHAFT = 25_600, 8192, 24.7
ORDER = bearing_orders(9, 7.94, 39.04, 0.0)["BPFO"]
SECOND = 1_000_000
Numbers = npt.NDArray[np.float64]


def tag(number: int, **options: Any) -> Tag:
    """A tag read once a second."""
    return Tag(
        path=f"a/b/c/t{number}", asset="a/b/c", name=f"t{number}", adapter="x", device="x", address="", id=number, **options
    )


def cycles(readings: int, tags: int, seed: int) -> Numbers:
    """float64[readings,tags]."""
    rng = np.random.default_rng(seed)
    turn = np.cumsum(rng.normal(1.0, 0.05, (readings, tags)), axis=0) / CYCLE * 2 * np.pi + rng.uniform(0, 6, tags)
    return np.asarray(10 + np.sin(turn) + 0.4 * np.sin(2 * turn + 1) + rng.normal(0, 0.1, turn.shape))


def polls(value: Numbers, first: int) -> list[pa.RecordBatch]:
    """A batch a row, once a second."""
    n = value.shape[1]
    ids, good = np.arange(n, dtype=np.int32), np.zeros(n, np.uint32)
    return [
        with_seq(telemetry(time_us=(first + k) * SECOND, tag=ids, value=row, quality=good), (first + k) * n)
        for k, row in enumerate(value)
    ]


def shape_model(tags: int) -> shape.Shape:
    """With its default parameters."""
    config = shape.ShapeConfig.model_validate({"kind": "shape", "warm_up": "0s"})
    return shape.Shape(config, ModelContext("m", [tag(n) for n in range(tags)]))


def shape_cost(rounds: int) -> Callable[[], float]:
    """µs per tag-sample, over as many polls as lie between two comparisons."""
    model, every = shape_model(TAGS), max(1, WINDOW // 8)
    value = cycles(1200 + rounds * every, TAGS, 1)
    for batch in polls(value[:1200], 0):
        model.update(batch, 0)
    pending = iter(polls(value[1200:], 1200))

    def measure() -> float:
        batches = [next(pending) for _ in range(every)]
        began = time.thread_time()
        for batch in batches:
            model.update(batch, 0)
        return (time.thread_time() - began) / every / TAGS * 1e6

    return measure


def brute_force() -> float:
    """µs of one comparison with a history of 1000 readings, every stretch normalised anew."""
    value = cycles(1050, 1, 2)[:, 0]
    began = time.thread_time()
    stretches = np.lib.stride_tricks.sliding_window_view(value[:1000], WINDOW)
    known = (stretches - stretches.mean(axis=1, keepdims=True)) / stretches.std(axis=1, keepdims=True)
    mine = (value[1000:] - value[1000:].mean()) / value[1000:].std()
    np.sqrt(((known - mine) ** 2).sum(axis=1).min())
    return (time.thread_time() - began) * 1e6


def waveforms(count: int, seed: int, strength: float = 0.0) -> npt.NDArray[np.float32]:
    """float32[count,LENGTH] of one machine."""
    rng = np.random.default_rng(seed)
    t = np.arange(LENGTH) / RATE
    ring = np.exp(-t[:600] * 1200) * np.sin(2 * np.pi * 4000 * t[:600])
    made = rng.normal(0, 1, (count, LENGTH)) + np.sin(2 * np.pi * (SHAFT * t + rng.random((count, 1))))
    for one in made if strength else ():
        gaps = rng.normal(1.0, 0.01, int(ORDER * SHAFT * LENGTH / RATE) + 2) / (ORDER * SHAFT)
        for start in ((np.cumsum(gaps) - gaps[0] * rng.random()) * RATE).astype(int).tolist():
            one[start : start + 600] += strength * ring[: max(0, min(600, LENGTH - start))]
    return made.astype(np.float32)


def waves(blocks: npt.NDArray[np.float32], first: int) -> pa.RecordBatch:
    """A waveform a minute of one tag."""
    n = len(blocks)
    samples = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * blocks.shape[1]), pa.array(blocks.ravel()))
    batch = make_batch(
        "telemetry", n, time=(first + np.arange(n)) * 60 * SECOND, tag=np.zeros(n, np.int32), samples=samples, lag=0, origin=0,
        quality=np.zeros(n, np.uint32),
    )  # fmt: skip
    return with_seq(batch, first)


def vibration_model() -> vibration.Vibration:
    """With its default parameters and a bearing."""
    geometry = {"balls": 9, "ball_diameter": 7.94, "pitch_diameter": 39.04}
    options = {"kind": "vibration", "warm_up": "0s", "sample_rate": RATE, "rpm": SHAFT * 60, "bearing": geometry}
    wave = tag(0, value_type="samples", unit="m/s2")
    return vibration.Vibration(vibration.VibrationConfig.model_validate(options), ModelContext("m", [wave]))


def abnormal(model: Any, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """bool[n] of its score rows."""
    found = next(one for one in model.update(batch, 0) if kind_of(one) == "score")
    score = found.column("score").to_numpy(zero_copy_only=False)
    return np.asarray(score >= found.column("limit").to_numpy())


def vibration_cost(rounds: int) -> Callable[[], float]:
    """µs a waveform."""
    model, blocks = vibration_model(), waveforms(60 + rounds, 3)
    model.update(waves(blocks[:60], 0), 0)
    pending = iter([waves(blocks[k : k + 1], k) for k in range(60, 60 + rounds)])

    def measure() -> float:
        batch = next(pending)
        began = time.thread_time()
        model.update(batch, 0)
        return (time.thread_time() - began) * 1e6

    return measure


def one_fft() -> float:
    """µs of one real FFT of such a waveform."""
    block = np.random.default_rng(4).normal(0, 1, LENGTH)
    began = time.thread_time()
    np.fft.rfft(block)
    return (time.thread_time() - began) * 1e6


def bearings(machines: int, healthy: int) -> list[Figure]:
    """Share of the damaged machines that are found, and what healthy ones raise."""
    strengths = (1.0, 2.0, 4.0)
    found, false = dict.fromkeys(strengths, 0), 0
    for machine in range(machines):
        taught = vibration_model()
        taught.update(waves(waveforms(80, 50_000 + machine), 0), 0)
        state = taught.snapshot()
        false += int(abnormal(taught, waves(waveforms(healthy, 60_000 + machine), 80)).sum())
        for strength in strengths:
            model = vibration_model()
            model.restore(state)
            found[strength] += bool(abnormal(model, waves(waveforms(10, 70_000 + machine, strength), 80)).any())
    told = [
        Figure(f"bearings found, impulses {strength:g} times the noise", 100 * hits / machines, "%", "higher")
        for strength, hits in found.items()
    ]
    return [*told, Figure(f"false alarms in {machines * healthy} healthy waveforms", false, "", "lower")]


def shapes(tags: int) -> list[Figure]:
    """Share of the odd cycles that are found, and what the cycles before them raise."""
    n = 2000 + 2 * WINDOW
    value = cycles(n, tags, 80_000)
    odd = 10 + 0.7 * np.sin(np.arange(CYCLE) / CYCLE * 6 * np.pi)
    value[2000 : 2000 + CYCLE] = odd[:, None] + np.random.default_rng(80_001).normal(0, 0.1, (CYCLE, tags))
    model = shape_model(tags)
    told = np.stack([abnormal(model, batch) for batch in polls(value, 0)])
    return [
        Figure("odd cycles found", 100 * float(told[2000:].any(axis=0).mean()), "%", "higher"),
        Figure(f"false alarms in {2000 * tags} readings of repeating cycles", int(told[:2000].sum()), "", "lower"),
    ]


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See model_sets."""
    del data, calibrate
    rounds = 30 if quick else 200
    found = interleaved(
        {"shape": shape_cost(rounds), "brute": brute_force, "vibration": vibration_cost(rounds), "fft": one_fft}, rounds
    )
    every = max(1, WINDOW // 8)
    return Measured(
        [
            Figure("shape, 100 tags a poll", found["shape"], "us/tag-sample", "lower"),
            Figure(
                "times as cheap as comparing anew at each reading", found["brute"] / found["shape"], "x", "higher",
                baseline=f"brute force over the same history; {every} readings share a comparison in `shape`",
            ),
            Figure("vibration, a waveform of 8192 samples with a bearing", found["vibration"], "us", "lower"),
            Figure("the same in FFTs of the waveform", found["vibration"] / found["fft"], "x", "lower", baseline="one numpy rfft"),
            *shapes(30 if quick else 100),
            *bearings(*((6, 50) if quick else (24, 150))),
        ]
    )  # fmt: skip
