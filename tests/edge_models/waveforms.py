"""Waveforms for tests: carried by the rows of a stream of numbers, or as a damaged bearing makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.kinds import TELEMETRY

Block = npt.NDArray[np.float32]
_VALUE, _WHOLE, _SAMPLES = (TELEMETRY.get_field_index(name) for name in ("value", "value_int", "samples"))


def carried(batch: pa.RecordBatch, length: int = 64, numbers: Sequence[int] = ()) -> pa.RecordBatch:
    """TELEMETRY whose rows bear, instead of a number, noise that is as strong as the number says; those of tags in `numbers` stay."""
    value = batch.column("value").to_numpy(zero_copy_only=False).astype(np.float64)
    whole = batch.column("value_int")
    if whole.null_count < len(whole):
        value = np.where(whole.is_valid().to_numpy(zero_copy_only=False), whole.fill_null(0).to_numpy(), value)
    stays = np.isin(batch.column("tag").to_numpy(), numbers)
    bears = (batch.column("value").is_valid() if whole.null_count == len(whole) else whole.is_valid()).to_numpy(
        zero_copy_only=False
    ) & ~stays
    time = batch.column("time").view(pa.int64()).to_numpy() // 1000 * 31 + batch.column("tag").to_numpy()
    kinds = np.random.default_rng(0).normal(0, 1, (97, length))
    with np.errstate(all="ignore"):
        noise = (kinds[time[bears] % 97] * value[bears, None]).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(bears * length)]).astype(np.int32)
    samples = pa.ListArray.from_arrays(pa.array(offsets, mask=np.append(~bears, False)), pa.array(noise.ravel()))
    batch = batch.set_column(_VALUE, TELEMETRY.field(_VALUE), pa.array(np.where(stays, value, np.nan), from_pandas=True))
    batch = batch.set_column(_WHOLE, TELEMETRY.field(_WHOLE), pa.nulls(len(value), pa.int64()))
    return batch.set_column(_SAMPLES, TELEMETRY.field(_SAMPLES), samples)


def bearing(
    hz: float,
    *,
    strength: float,
    seed: int,
    rate: float = 25_600,
    length: int = 16_384,
    imbalance: float = 1.0,
    shaft: float = 24.7,
) -> Block:
    """Noise of one, imbalance at the shaft's speed, and impulses `hz` times a second that make a resonance at 4 kHz ring.

    The impulses slip by one per cent, as those of real bearings do.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(length) / rate
    signal = rng.normal(0, 1, length) + imbalance * np.sin(2 * np.pi * (shaft * t + rng.random()))
    if strength:
        gaps = rng.normal(1.0, 0.01, int(hz * length / rate) + 2) / hz
        for start in np.cumsum(gaps) - gaps[0] * rng.random():
            after = t[t >= start] - start
            signal[t >= start] += strength * np.exp(-after * 1200) * np.sin(2 * np.pi * 4000 * after)
    return signal.astype(np.float32)
