"""The seeded plant that the lake is measured on: 1,000 tags on 50 machines, as READING batches in the order they arrive.

Bytes per sample depend on the data more than on anything else, so the data is published here, with why it looks like this:

- **Machines.** 30 are polled every second (5 of them every 10 s) and 5 every 100 ms over Modbus or S7: all 20 tags of a machine are one request, so they share
  the gateway's time, in µs, and the poll is late by what a busy Linux box is (gamma, about 0.4 ms) and early or late by the wire (normal, 0.3 ms). 15 are OPC UA
  subscriptions: sampled every second, stamped by the PLC in whole ms (it jitters by 1 ms, all tags of a sampling group alike), published every 500 ms, and
  only values that changed are sent; their lag is the wait for the publishing and 1-5 ms of network.
- **Values.** What a transmitter or a converter puts out is quantised, and its noise is a step or two; only computed floats have noise in every bit.
  4 temperatures of 0.1 °C (a slow walk and 0.05 °C of noise), 3 analogue inputs of S7's 27,648 steps scaled to bar in float32 (noise of 2 steps), 2 power meters and
  a vibration velocity in float32 noise of full mantissa, 2 setpoints that somebody changes every ten minutes, an axis in 0.01 mm (a ramp for 40 % of
  its cycle, then it rests), a counter of
  pieces, an energy counter in Wh (int64), 4 booleans that stay for a minute or so, a state (enum: number and label); on every fifth machine the order in work
  (text) takes the place of a boolean.
- **Faults.** 0.3 % of the rows are bad for want of a sensor (no value) and 0.2 % uncertain (with a value), in runs of about 30 rows; every machine is away
  now and then for some seconds, which is one bad row per tag and then none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.kinds import Origin, make_batch
from schemas.tags import Tag, ValueType

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z"""
MACHINES = 50
NAMES = (
    "motor_temp", "oil_temp", "coolant_temp", "bearing_temp", "pressure", "flow", "level", "power", "current", "vibration",
    "speed_setpoint", "temp_setpoint", "position", "pieces", "energy", "running", "door_closed", "heater_on", "order", "state",
)  # fmt: skip
UNITS = (
    "Cel",
    "Cel",
    "Cel",
    "Cel",
    "bar",
    "m3/h",
    "mm",
    "kW",
    "A",
    "mm/s",
    "/min",
    "Cel",
    "mm",
    "1",
    "W.h",
    "1",
    "1",
    "1",
    "1",
    "1",
)
STATES = ("stopped", "starting", "running", "blocked", "starved", "alarm")
TAGS = MACHINES * len(NAMES)
SENSOR_FAILURE, UNCERTAIN, NO_COMMUNICATION = 0x808C0000, 0x408F0000, 0x80310000
COMMIT_US = 250_000
"""The spool's group commit: what arrives within it is one batch."""

Numbers = npt.NDArray[np.float64]


def tag_list() -> list[Tag]:
    """The tags, in order of their id."""
    tags = []
    for machine in range(MACHINES):
        asset = f"acme/osaka/line-{machine // 10 + 1}/machine-{machine:02d}"
        for name, unit in zip(NAMES, UNITS, strict=True):
            kind: ValueType = "integer" if name == "energy" else "text" if name == "order" and machine % 5 == 0 else "number"
            tags.append(
                Tag(f"{asset}/{name}", asset, name, f"plc-{machine:02d}", f"plc-{machine:02d}", name, kind, unit, id=len(tags))
            )
    return tags


def mix(seconds: float, *, stretch: float = 1.0, seed: int = 1, machines: range = range(MACHINES)) -> list[pa.RecordBatch]:
    """What 1,000 tags give in so many seconds; `stretch` makes every period that much longer. About 1,600 rows a second."""
    parts = [_machine(machine, seconds, stretch, np.random.default_rng([seed, machine])) for machine in machines]
    arrived = np.concatenate([part["arrived"] for part in parts])
    order = np.argsort(arrived, kind="stable")
    columns = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    arrived = columns.pop("arrived")
    cuts = np.flatnonzero(np.diff((arrived - arrived[0]) // int(COMMIT_US * stretch))) + 1
    has = {name: columns.pop(f"has_{name}") for name in ("value", "value_int")}
    made = make_batch(
        "telemetry",
        len(order),
        **{name: pa.array(columns[name], mask=~has[name]) for name in has},
        **{name: columns[name] for name in ("time", "lag", "tag", "quality")},
        text=pa.array(columns["text"], pa.string()),
        origin=int(Origin.LIVE),
    )
    return [made.slice(a, b - a) for a, b in pairwise([0, *cuts.tolist(), len(order)])]


def _machine(machine: int, seconds: float, stretch: float, rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
    """One machine's rows as flat columns, poll by poll, with `arrived` (µs) to order all machines by."""
    opcua, fast = machine >= 35, 30 <= machine < 35
    period = (0.1 if fast else 10.0 if machine < 5 else 1.0) * stretch
    n, tags = max(2, round(seconds / period)), len(NAMES)
    due = START_US + ((np.arange(n) + rng.random()) * period * 1e6).astype(np.int64)
    value, whole, text = np.full((n, tags), np.nan), np.zeros((n, tags), np.int64), np.full((n, tags), None, object)
    for tag, name in enumerate(NAMES):
        if name == "energy":
            whole[:, tag] = 10**9 * (machine + 1) + np.cumsum(rng.poisson(3, n))
        elif name == "order" and machine % 5 == 0:
            orders = _changes(n, 1800 / period, rng)
            text[:, tag] = np.array([f"PO-{4_500_000 + machine * 1000 + k}" for k in range(orders[-1] + 1)], object)[orders]
        else:
            value[:, tag] = _numbers(name, n, period, rng)
    codes = value[:, NAMES.index("state")].astype(int)
    text[:, NAMES.index("state")] = np.array(STATES, object)[codes]
    quality = np.zeros((n, tags), np.uint32)
    for code, share in ((SENSOR_FAILURE, 0.003), (UNCERTAIN, 0.002)):
        for _ in range(rng.poisson(share * n * tags / 30)):
            at = rng.integers(n)
            quality[at : at + 1 + rng.geometric(1 / 30), rng.integers(tags)] = code
    sent = np.ones((n, tags), bool)
    for _ in range(rng.poisson(seconds / 3600)):  # away
        at, long = rng.integers(n), 1 + int(rng.exponential(20) / period)
        quality[at], sent[at + 1 : at + long] = NO_COMMUNICATION, False
    bad = (quality & 0x80000000) != 0
    if opcua:
        due = due // 1000 * 1000 + (np.round(rng.normal(0, 1, n))).astype(np.int64) * 1000
        with np.errstate(invalid="ignore"):
            same = ((value[1:] == value[:-1]) | np.isnan(value[1:])) & (whole[1:] == whole[:-1]) & (text[1:] == text[:-1])
        sent[1:] &= ~(same & (quality[1:] == quality[:-1]))
        arrived = (due // 500_000 + 1) * 500_000 + rng.integers(1000, 5000, n)
    else:
        due = due + (rng.gamma(2, 200, n) + np.abs(rng.normal(0, 300, n))).astype(np.int64)
        arrived = due
    keep = sent.ravel()
    ids = np.arange(machine * tags, (machine + 1) * tags, dtype=np.int32)
    numeric = ~np.isnan(value) & ~bad
    integer = np.zeros((n, tags), bool)
    integer[:, NAMES.index("energy")] = True
    columns = {
        "arrived": np.repeat(arrived, tags),
        "time": np.repeat(due, tags),
        "lag": np.repeat(((arrived - due) // 1000).astype(np.int32), tags),
        "tag": np.tile(ids, n),
        "value": value.ravel(),
        "value_int": whole.ravel(),
        "text": np.where(bad, None, text).ravel(),
        "quality": quality.ravel(),
        "has_value": numeric.ravel(),
        "has_value_int": (integer & ~bad).ravel(),
    }
    return {name: column[keep] for name, column in columns.items()}


def _numbers(name: str, n: int, period: float, rng: np.random.Generator) -> Numbers:
    """`n` values of one tag, `period` seconds apart."""
    walk = np.cumsum(rng.normal(0, 1, n)) * np.sqrt(period)
    if name.endswith("_temp"):
        return np.round(rng.uniform(30, 80) + walk * 0.02 + rng.normal(0, 0.05, n), 1)
    if name in ("pressure", "flow", "level"):
        steps = np.clip(np.round(rng.uniform(5000, 20000) + walk * 5 + rng.normal(0, 2, n)), 0, 27648)
        return (steps.astype(np.float32) * np.float32(rng.choice([10, 16, 250]) / 27648)).astype(np.float64)
    if name in ("power", "current", "vibration"):
        noisy: Numbers = (rng.uniform(2, 40) * (1 + rng.normal(0, 0.02, n))).astype(np.float32).astype(np.float64)
        return noisy
    if name.endswith("_setpoint"):
        return np.round(rng.uniform(20, 200, n), 0)[_changes(n, 600 / period, rng)]
    if name == "position":
        cycle = np.arange(n) * period / rng.uniform(6, 20) + rng.random()
        return np.round(np.clip(cycle % 1 / 0.4, 0, 1) * rng.uniform(100, 1200), 2)
    if name == "pieces":
        return np.cumsum(rng.random(n) < min(1.0, period / 12)).astype(np.float64)
    if name == "state":
        return rng.choice(len(STATES), size=n, p=[0.1, 0.05, 0.6, 0.1, 0.1, 0.05])[_changes(n, 90 / period, rng)].astype(
            np.float64
        )
    return (_changes(n, rng.uniform(20, 300) / period, rng) % 2).astype(np.float64)


def _changes(n: int, mean: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """How often something has changed that changes every `mean` rows on average."""
    counted: npt.NDArray[np.int64] = np.cumsum(rng.random(n) < min(1.0, 1 / max(mean, 1e-9)))
    return counted - counted[0]


def rows_of(batches: list[pa.RecordBatch], most: int) -> Iterator[list[pa.RecordBatch]]:
    """The batches in groups of `most` rows, cut as delivery cuts them."""
    group: list[pa.RecordBatch] = []
    room = most
    for batch in batches:
        while batch.num_rows:
            group.append(batch.slice(0, room))
            room -= group[-1].num_rows
            batch = batch.slice(group[-1].num_rows)
            if not room:
                yield group
                group, room = [], most
    if group:
        yield group
