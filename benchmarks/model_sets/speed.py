"""What the models cost: nanoseconds per tag and reading, kernels alone and end to end from an Arrow batch to scores and alerts.

10,000 tags of Gaussian noise, one poll of all tags a batch, made just before it is measured, every model warm, one thread; the
contestants take turns of ten polls and the median of their processor time counts (of the latencies the time that passed). *Kernels* are
the vector updates of the three models with the quality mask, without Arrow on either side. The baseline is river's
GaussianScorer, score and learn, one call per sample (where river is not installed, the same arithmetic in plain Python: the table
says which). `multivariate` has the same 10,000 tags in 1,000 assets of ten, each asset with a movement that its tags share, once a second.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from report import Figure, interleaved

from edge_models import drift, forecast_residual, limits, multivariate, stuck
from edge_models.runtime import ModelSet
from edge_models.slots import TagColumns, decode
from schemas.kinds import telemetry, with_seq
from schemas.plugin import Plugin
from schemas.tags import Limits, Tag

from . import Measured

NEEDS = ()
TAGS = 10_000
WARM = 120
IN_A_ROW = 10
PLUGINS: dict[str, Plugin[Any, Any]] = {
    "forecast_residual": forecast_residual.PLUGIN, "stuck": stuck.PLUGIN, "drift": drift.PLUGIN, "limits": limits.PLUGIN,
    "multivariate": multivariate.PLUGIN,
}  # fmt: skip
ASSET = 10
"""Tags of one asset, for models of assets."""
LEARNT = 500
"""Polls after which `multivariate` has learnt all assets."""
CHAIN = ("forecast_residual", "stuck", "drift")
BOUNDS = Limits(low=-100.0, high=100.0)


def plant(many: int, *, period_us: int = 100_000, limits: Limits | None = None) -> list[Tag]:
    """All tags there are, `many` to an asset."""
    return [
        Tag(path=f"a/b/m{i // many}/t{i % many}", asset=f"a/b/m{i // many}", name=f"t{i % many}", adapter="x", device="x", address=str(i),
            period_us=period_us, limits=limits, id=i)
        for i in range(TAGS)
    ]  # fmt: skip


def model_set(kinds: tuple[str, ...], tags: list[Tag], **options: str) -> ModelSet:
    """The models over all tags, the alarm layer behind them."""
    entry = {"tags": ["**"], "warm_up": "5s", **options}
    configs = {kind: PLUGINS[kind].config.model_validate({"kind": kind, **entry}) for kind in kinds}
    return ModelSet.build(configs, tags, PLUGINS.__getitem__)


def polls(count: int, first: int, *, spoil: float = 0.0, still: bool = False, switch: int = 0) -> Iterator[pa.RecordBatch]:
    """`count` batches from poll number `first` on; a share `spoil` of the rows is bad, with `still` half of the tags are constant.

    With `switch` the first of each so many tags says whether its asset runs: nine in ten do.
    """
    rng = np.random.default_rng(first)
    ids = np.arange(TAGS, dtype=np.int32)
    for k in range(first, first + count):
        quality = (
            np.where(rng.random(TAGS) < spoil, 0x80000000, 0).astype(np.uint32) if spoil else np.zeros(TAGS, dtype=np.uint32)
        )
        value = rng.normal(20, 1, TAGS)
        if still:
            value[::2] = 20.0
        if switch:
            switches = value[::switch]
            switches[:] = np.arange(len(switches)) < 0.9 * len(switches)
        yield with_seq(telemetry(time_us=(k + 1) * 100_000, tag=ids, value=value, quality=quality), k * TAGS)


def asset_polls(count: int, first: int) -> Iterator[pa.RecordBatch]:
    """The same for assets whose tags move together, a poll each second."""
    rng = np.random.default_rng(first)
    ids, quality = np.arange(TAGS, dtype=np.int32), np.zeros(TAGS, dtype=np.uint32)
    for k in range(first, first + count):
        value = 20.0 + np.repeat(rng.normal(0, 2, TAGS // ASSET), ASSET) + rng.normal(0, 1, TAGS)
        yield with_seq(telemetry(time_us=(k + 1) * 1_000_000, tag=ids, value=value, quality=quality), k * TAGS)


def updating(models: ModelSet, pending: Iterator[pa.RecordBatch]) -> Callable[[], float]:
    """ns per tag-sample of the next poll through the models and the alarm layer."""

    def measure() -> float:
        batch = next(pending)
        began = time.thread_time()
        models.update(batch, 0)
        return (time.thread_time() - began) / TAGS * 1e9

    return measure


def assets(rounds: int) -> Callable[[], float]:
    """A contestant: ns per tag-sample of one poll of all assets through `multivariate` and the alarm layer."""
    models = model_set(("multivariate",), plant(ASSET, period_us=1_000_000), warm_up="60s")
    for batch in asset_polls(LEARNT, 0):
        out = models.update(batch, 0)
    assert out.scores[0].column("score").null_count == 0, "not warm"
    pending = asset_polls(rounds, LEARNT)
    return updating(models, pending)


def idle(rounds: int) -> Callable[[], float]:
    """A contestant: the same for 50 assets of 200 tags behind `active_when`, of which five have never run."""
    many = max(2, TAGS // 50)
    models = model_set(CHAIN, plant(many), active_when="t0 == 1")
    for batch in polls(WARM, 0, switch=many):
        models.update(batch, 0)
    return updating(models, polls(rounds, WARM, switch=many))


def end_to_end(
    kinds: tuple[str, ...], rounds: int, *, spoil: float = 0.0, still: bool = False, limited: bool = False
) -> Callable[[], float]:
    """A contestant: ns per tag-sample of one poll through the models and the alarm layer."""
    models = model_set(kinds, plant(TAGS, limits=BOUNDS if limited else None))
    for batch in polls(WARM, 0, still=still):
        out = models.update(batch, 0)
    for scores in out.scores:
        # `stuck` says nothing about tags that have never changed.
        assert scores.column("score").null_count <= (TAGS // 2 if still else 0), "not warm"
    pending = polls(rounds, WARM, spoil=spoil, still=still)
    return updating(models, pending)


def kernels(kinds: tuple[str, ...], rounds: int) -> Callable[[], float]:
    """A contestant: the vector updates alone, with the quality mask, without Arrow on either side."""
    models = model_set(kinds, plant(TAGS))
    for batch in polls(WARM, 0):
        models.update(batch, 0)
    inner = [member.model for member in models._members]
    columns = TagColumns()
    for readings in (decode(batch, columns) for batch in polls(2, WARM)):  # plans are made and the short way is found
        for model in inner:
            model.take(readings)
    pending = polls(rounds, WARM + 2)

    def measure() -> float:
        readings = decode(next(pending), columns)
        gateway = readings.gateway_time()
        began = time.thread_time()
        with np.errstate(all="ignore"):
            for model in inner:
                if isinstance(model, stuck.Stuck):
                    assert model._pace is not None
                    apart = model._pace.stand_apart(readings, gateway, model.slots.plan(readings.tag), model._jump_us)
                    assert apart is not None
                    assert model._pace.take(readings, int(gateway[0]), apart) is not None
                else:
                    part = model.slots.plan(readings.tag).rounds[0]
                    assert model._good(readings, part) is None
                    model._whole(readings, part)
        return (time.thread_time() - began) / TAGS * 1e9

    return measure


def per_sample() -> tuple[str, Callable[[], float]]:
    """The baseline, ns per sample."""
    values = np.random.default_rng(0).normal(20, 1, 2_000).tolist()
    try:
        from river.anomaly import GaussianScorer
    except ImportError:
        state = [0.0, 0.0, 0.0]

        def score_one(value: float) -> float:
            n, mean, m2 = state
            n += 1.0
            delta = value - mean
            mean += delta / n
            m2 += delta * (value - mean)
            state[:] = n, mean, m2
            return math.erf(abs(delta) / math.sqrt(2 * m2 / n)) if m2 else 0.0

        name, step = "Gaussian score per sample in plain Python", score_one
    else:
        scorer = GaussianScorer()

        def river_one(value: float) -> float:
            found: float = scorer.score_one(None, value)
            scorer.learn_one(None, value)
            return found

        name, step = "river GaussianScorer per sample", river_one

    def measure() -> float:
        began = time.thread_time()
        for value in values:
            step(value)
        return (time.thread_time() - began) / len(values) * 1e9

    return name, measure


def in_a_row(measure: Callable[[], float]) -> Callable[[], float]:
    """A turn: the median of some measurements, so that no contestant pays for what the one before it left in the caches."""
    return lambda: statistics.median(measure() for _ in range(IN_A_ROW))


def worst_latency_ms(rounds: int) -> tuple[float, float]:
    """Median and p99 of one batch of 10,000 tags through the whole chain and the limits, in ms."""
    models = model_set(CHAIN, plant(TAGS, limits=BOUNDS))
    for batch in polls(WARM, 0):
        models.update(batch, 0)
    took = []
    for batch in polls(rounds, WARM):
        began = time.perf_counter()
        models.update(batch, 0)
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    return statistics.median(took), took[math.ceil(0.99 * rounds) - 1]


def burst_ns(rows_per_tag: int = 20) -> float:
    """A batch with several rows of each tag, as after an outage: ns per reading."""
    models = model_set(CHAIN, plant(TAGS))
    for batch in polls(WARM, 0):
        models.update(batch, 0)
    burst = pa.Table.from_batches(list(polls(rows_per_tag, WARM))).combine_chunks().to_batches()[0]
    began = time.thread_time()
    models.update(burst, 0)
    return (time.thread_time() - began) / burst.num_rows * 1e9


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See model_sets."""
    del data, calibrate
    rounds = 60 if quick else 600
    baseline, gaussian = per_sample()
    contestants = {
        "chain": end_to_end(CHAIN, rounds),
        "chain, 1 % bad": end_to_end(CHAIN, rounds, spoil=0.01),
        "chain, half still": end_to_end(CHAIN, rounds, still=True),
        "chain, one in ten idle": idle(rounds),
        "kernels": kernels(CHAIN, rounds),
        "baseline": gaussian,
        **{kind: end_to_end((kind,), rounds) for kind in CHAIN},
        "limits": end_to_end((), rounds, limited=True),
        "multivariate": assets(rounds),
    }
    found = interleaved({name: in_a_row(one) for name, one in contestants.items()}, rounds // IN_A_ROW)
    median_ms, p99_ms = worst_latency_ms(rounds)
    unit = "ns/tag-sample"
    return Measured(
        [
            Figure("default chain, Arrow batch to scores and alerts", found["chain"], unit, "lower", 50.0),
            Figure("the same, 1 % of the readings bad", found["chain, 1 % bad"], unit, "lower"),
            Figure("the same, half of the tags constant", found["chain, half still"], unit, "lower"),
            Figure("the same, one asset in ten idle by `active_when`", found["chain, one in ten idle"], unit, "lower"),
            Figure("default chain, kernels with quality mask", found["kernels"], unit, "lower", 15.0),
            Figure(
                "times as fast as the baseline, end to end", found["baseline"] / found["chain"], "x", "higher", 20.0, baseline
            ),
            Figure("times as fast as the baseline, kernels", found["baseline"] / found["kernels"], "x", "higher", 60.0, baseline),
            *[Figure(f"{kind} alone", found[kind], unit, "lower") for kind in (*CHAIN, "limits")],
            Figure(f"multivariate, assets of {ASSET} tags", found["multivariate"], unit, "lower", 30.0),
            Figure("20 rows of each tag in one batch", burst_ns(), unit, "lower"),
            Figure("added per batch of 10,000 tags, median", median_ms, "ms", "lower"),
            Figure("added per batch of 10,000 tags, p99", p99_ms, "ms", "lower", 5.0),
        ],
        [f"The machine has {os.cpu_count()} cores and had a load of {os.getloadavg()[0]:.1f} when this was printed."],
    )
