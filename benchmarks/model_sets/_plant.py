"""A synthetic plant with faults that are known: machines with regimes, set-points, noise, bad rows and twelve kinds of fault. Seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import quality as q
from schemas.kinds import make_batch, with_seq
from schemas.tags import Limits, Tag

Numbers = npt.NDArray[np.float64]
T0 = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC
STEP_US = 10_000_000
HOUR = 360  # polls
DAY = 24 * HOUR
CYCLE = 30  # polls of a cycle of `force`
NAMES = ("mode", "recipe", "ambient", "speed", "power", "motor_temp", "bearing_temp", "pressure", "flow", "vibration", "force")
UNITS = ("1", "1", "Cel", "{rev}/min", "kW", "Cel", "Cel", "bar", "m3/h", "mm/s", "kN")
MODES = {0: "stop", 1: "start", 2: "run"}
SETTLING = 180  # polls that a machine is in `start` after a stop or a change of recipe
# Standard deviation of the sensor noise of each tag; a fault is as large as a multiple of it.
NOISE = {
    "speed": 4.0,
    "power": 0.4,
    "motor_temp": 0.25,
    "bearing_temp": 0.25,
    "pressure": 0.04,
    "flow": 0.5,
    "vibration": 0.12,
    "force": 1.2,
    "ambient": 0.1,
}
SPEEDS = np.array([900.0, 1200.0, 1450.0])  # set-points of the three products
PRESSURES = np.array([5.0, 6.0, 6.8])


@dataclass(frozen=True)
class Fault:
    """What is wrong with one or two tags of an asset, from poll `start` to poll `end`."""

    kind: str
    asset: int
    names: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Plant:
    """float64[polls, assets] by name of tag, `sent` bool of the same shape: whether there is a row; `good`: whether it is one."""

    tags: list[Tag]
    values: Mapping[str, Numbers]
    sent: Mapping[str, npt.NDArray[np.bool_]]
    good: Mapping[str, npt.NDArray[np.bool_]]
    faults: list[Fault]
    learning: int
    """Polls before the first fault can begin."""

    @property
    def polls(self) -> int:
        """How many there are."""
        return len(self.values["mode"])

    @property
    def assets(self) -> int:
        """How many machines."""
        return self.values["mode"].shape[1]

    def batches(self, polls: int = 30) -> Iterator[pa.RecordBatch]:
        """TELEMETRY with `seq`: all tags of a poll in the order of `tags`, `polls` polls a batch."""
        seq, ids = 0, np.arange(len(self.tags), dtype=np.int32)
        for first in range(0, self.polls, polls):
            at = slice(first, min(first + polls, self.polls))
            value, sent, good = (
                np.concatenate([columns[name][at] for name in NAMES], axis=1).ravel()
                for columns in (self.values, self.sent, self.good)
            )
            n = at.stop - at.start
            time = np.repeat(T0 + np.arange(at.start, at.stop, dtype=np.int64) * STEP_US, len(ids))
            tag = np.tile(ids, n)
            batch = make_batch(
                "telemetry", int(sent.sum()), time=time[sent], lag=0, tag=tag[sent], origin=0, value=pa.array(value[sent], mask=~good[sent]),
                quality=np.where(good, q.GOOD, q.BAD_SENSOR_FAILURE).astype(np.uint32)[sent],
            )  # fmt: skip
            yield with_seq(batch, seq)
            seq += batch.num_rows


def tags_of(assets: int) -> list[Tag]:
    """Of each name the tags of all assets, then those of the next name."""
    return [
        Tag(
            path=f"acme/osaka/hall-{a // 10 + 1}/machine-{a:02}/{name}", asset=f"acme/osaka/hall-{a // 10 + 1}/machine-{a:02}", name=name,
            adapter="plc", device="plc", address="", id=n * assets + a, unit=UNITS[n], period_us=STEP_US,
            limits=Limits(high=6.5) if name == "vibration" else None, enum=MODES if name == "mode" else {},
        )
        for n, name in enumerate(NAMES)
        for a in range(assets)
    ]  # fmt: skip


def healthy(assets: int, polls: int, rng: np.random.Generator) -> dict[str, Numbers]:
    """What the sensors of machines show that nothing ails."""
    hour = np.arange(polls)[:, None] % DAY / HOUR
    nights = rng.random(assets) < 0.5  # half of the machines run around the clock, the others two shifts
    begin, finish = 6 + rng.uniform(-0.2, 0.2, assets), 22 + rng.uniform(-0.2, 0.2, assets)
    on = ~nights | ((hour >= begin) & (hour < finish))
    for a in range(assets):
        for at in rng.integers(0, polls, rng.poisson(polls / DAY)).tolist():  # a short stop a day
            on[at : at + int(rng.integers(30, 150)), a] = False
    recipe = np.zeros((polls, assets), dtype=np.intp)
    for a in range(assets):
        turns = np.cumsum(rng.uniform(0.5, 1.5, 3 * polls // DAY * 2 + 3) * DAY / 3).astype(int)
        turns = turns[turns < polls]  # about three changes of the set-points a day, one recipe after the other
        for number, (first, last) in enumerate(zip([0, *turns.tolist()], [*turns.tolist(), polls], strict=True)):
            recipe[first:last, a] = (number + a) % 3
    changed = np.zeros(on.shape, dtype=bool)
    changed[1:] = ~on[:-1] | (recipe[1:] != recipe[:-1])
    since = np.arange(polls)[:, None] - np.maximum.accumulate(np.where(changed, np.arange(polls)[:, None], 0), axis=0)
    mode = np.where(on, np.where(since >= SETTLING, 2.0, 1.0), 0.0)
    own = rng.uniform(0.95, 1.05, (len(NAMES), assets))  # no machine is quite like another
    speed = lagged(np.where(on, SPEEDS[recipe], 0.0), 0.3)
    load = 1.0 + 0.12 * lagged(rng.standard_normal((polls, assets)), 0.01) / 0.07  # material that varies over minutes
    power = 2.0 + speed / 1000 * 18 * load * own[2]
    ambient = 22 + 3 * np.sin(2 * np.pi * (hour - 9) / 24) + rng.uniform(-1, 1, assets)
    motor = ambient + lagged(power, 0.03) * 1.3 * own[3]
    bearing = ambient + 4 + lagged(speed, 0.03) / 50 * own[4]
    # A controlled value: it follows its set-point, another one for each recipe, and hangs a little on the load.
    pressure = lagged(np.where(on, PRESSURES[recipe], 4.0), 0.2) * own[5] - 0.1 * (load - 1)
    flow = speed / 12 * own[6] * (1 - 0.15 * (load - 1))
    vibration = 1.2 * own[7] + speed / 1450 * 1.5
    turn = np.cumsum(np.where(on, rng.normal(1.0, 0.02, (polls, assets)), 0.0), axis=0) / CYCLE * 2 * np.pi
    force = np.where(on, 60 + 20 * (np.sin(turn) + 0.4 * np.sin(2 * turn + 1)), 0.0) * own[8]
    values = dict(
        zip(
            NAMES,
            (mode, recipe.astype(float), ambient, speed, power, motor, bearing, pressure, flow, vibration, force),
            strict=True,
        )
    )
    for name, sigma in NOISE.items():
        noise = rng.standard_t(6, (polls, assets)) * np.sqrt(4 / 6) * sigma  # heavier tails than Gaussian
        values[name] = values[name] + noise
    return values


def lagged(x: Numbers, gain: float) -> Numbers:
    """First order, poll by poll."""
    out, state = np.empty_like(x), x[0].copy()
    for n, row in enumerate(x):
        state += gain * (row - state)
        out[n] = state
    return out


Change = Callable[[dict[str, Numbers], Fault, np.random.Generator], None]


def _add(shape: Callable[[Numbers], Numbers]) -> Change:
    """Add `shape` (of the share of the fault's time that is over) times the noise to the first tag."""

    def change(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
        del rng
        at = np.linspace(0, 1, fault.end - fault.start)
        values[fault.names[0]][fault.start : fault.end, fault.asset] += shape(at) * NOISE[fault.names[0]]

    return change


def _noise(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    name, n = fault.names[0], fault.end - fault.start
    values[name][fault.start : fault.end, fault.asset] += rng.normal(0, 4 * NOISE[name], n)


def _stuck(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    column = values[fault.names[0]][:, fault.asset]
    column[fault.start : fault.end] = column[fault.start]


def _nothing(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    """A dropout: what is not sent is not changed."""


def _uncoupled(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    """Wanders within its usual range, whatever the machine does."""
    n = fault.end - fault.start
    values[fault.names[0]][fault.start : fault.end, fault.asset] = np.clip(
        SPEEDS[1] / 12 + 12 * lagged(rng.standard_normal((n, 1)), 0.02)[:, 0] / 0.1, SPEEDS[0] / 12, SPEEDS[2] / 12
    ) + rng.normal(0, NOISE["flow"], n)


def _oscillation(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    n = fault.end - fault.start
    values[fault.names[0]][fault.start : fault.end, fault.asset] += (
        3 * NOISE[fault.names[0]] * np.sin(2 * np.pi * np.arange(n) / 12)
    )


def _odd(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    """Each cycle goes up and down three times, within the range."""
    n = fault.end - fault.start
    values["force"][fault.start : fault.end, fault.asset] = (
        60 + 15 * np.sin(np.arange(n) / CYCLE * 6 * np.pi) + rng.normal(0, NOISE["force"], n)
    )


def _beyond(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    """A fifth of its range above all that it has ever been."""
    column = values[fault.names[0]][:, fault.asset]
    before = column[: fault.start]
    column[fault.start : fault.end] = (
        before.max() + 0.2 * np.ptp(before) + rng.normal(0, NOISE[fault.names[0]], fault.end - fault.start)
    )


def _swapped(values: dict[str, Numbers], fault: Fault, rng: np.random.Generator) -> None:
    one, other = (values[name][fault.start : fault.end, fault.asset] for name in fault.names)
    one[:], other[:] = other.copy(), one.copy()


KINDS: Mapping[str, tuple[tuple[str, ...], int, Change]] = {
    "spike": (("pressure",), 3, _add(lambda at: 0 * at + 15)),
    "step": (("pressure",), 2 * HOUR, _add(lambda at: 0 * at + 5)),
    "slow drift": (("motor_temp",), 6 * HOUR, _add(lambda at: 40 * at)),
    "noise rise": (("pressure",), 2 * HOUR, _noise),
    "stuck": (("flow",), HOUR, _stuck),
    "dropout": (("power",), HOUR, _nothing),
    "broken correlation": (("flow",), 3 * HOUR, _uncoupled),
    "oscillation": (("pressure",), HOUR, _oscillation),
    "odd cycle": (("force",), 3 * CYCLE, _odd),
    "wear": (("vibration",), 8 * HOUR, _add(lambda at: 30 * np.expm1(3 * at) / np.expm1(3.0))),
    "out of range": (("bearing_temp",), 60, _beyond),
    "swapped sensors": (("motor_temp", "bearing_temp"), 4 * HOUR, _swapped),
}
"""Tags, length in polls, and what becomes of the values. Twelve kinds."""


def schedule(assets: int, polls: int, mode: Numbers, learning: int, rng: np.random.Generator) -> list[Fault]:
    """Two faults a machine, each in one half of the time behind `learning`, while it runs, kinds in turn."""
    kinds = [*KINDS]
    order = [kinds[(2 * a + half) % len(kinds)] for half in (0, 1) for a in rng.permutation(assets).tolist()]
    faults: list[Fault] = []
    half_length = (polls - learning) // 2
    for number, kind in enumerate(order):
        asset, half = number % assets, number // assets
        names, length, _ = KINDS[kind]
        first, last = learning + half * half_length + 60, learning + (half + 1) * half_length - length - HOUR
        starts = rng.integers(first, max(first + 1, last), 200)
        share = [(mode[at : at + length, asset] == 2).mean() * ((mode[at - 60 : at, asset] == 2).all()) for at in starts.tolist()]
        start = int(starts[int(np.argmax(np.array(share) >= 0.999) if max(share) >= 0.999 else np.argmax(share))])
        faults.append(Fault(kind, asset, names, start, start + length))
    return faults


def plant(assets: int = 50, days: float = 5.0, learning_days: float = 2.0, seed: int = 0) -> Plant:
    """All of it. The same seed gives the same plant."""
    rng = np.random.default_rng(seed)
    polls, learning = round(days * DAY), round(learning_days * DAY)
    values = healthy(assets, polls, rng)
    faults = schedule(assets, polls, values["mode"], learning, rng)
    shape = (polls, assets)
    good = {name: rng.random(shape) >= 0.003 for name in NAMES}
    sent = {name: np.ones(shape, dtype=bool) for name in NAMES}
    for name in ("mode", "recipe"):  # states are reported on change, and every ten minutes
        sent[name][1:] = (np.diff(values[name], axis=0) != 0) | (np.arange(1, polls)[:, None] % 60 == 0)
        good[name][:] = True
    for a in range(assets):  # a device that cannot be reached for some minutes, once in two days
        for at in rng.integers(0, polls, rng.poisson(0.5 * days)).tolist():
            for name in (*NOISE,):
                good[name][at : at + int(rng.integers(6, 30)), a] = False
    for fault in faults:
        KINDS[fault.kind][2](values, fault, rng)
        if fault.kind == "dropout":
            sent[fault.names[0]][fault.start : fault.end, fault.asset] = False
    return Plant(tags_of(assets), values, sent, good, faults, learning)
