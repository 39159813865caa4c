"""What each model, and the recommended set of them, finds in a synthetic plant.

Protocol: the plant is generated, not recorded, with a seed that was not used while models and settings were made. Machines are
read every 10 s for five days: eight sensors and the ambient temperature, with noise of heavier tails than Gaussian (Student's t, 6 degrees of
freedom), values that hang on one another, heat that lags, load that varies, a day's course, two shifts or three, a short stop a day, another
recipe (set-points) every eight hours or so, 0.3 % bad rows and devices that cannot be reached for minutes. `mode` is `start`
for half an hour after each stop and change, then `run`; models look at `run` only. The first two days are for learning. In the three days behind
them each machine has two faults of twelve kinds (in standard deviations of the sensor's noise: spike of 15 for 30 s, step of 5 and fivefold noise
for 2 h, drift to 40 in 6 h, oscillation of 3 for 1 h, wear to 30 in 8 h; a frozen and a silent sensor for 1 h, a flow that
goes its own way within its range for 3 h, three odd cycles within the range, ten minutes 20 % beyond the range, two sensors swapped for
4 h). The set stands in docs/models.md ("A set to begin with"). Found is a fault when an alarm of its tag, or of its asset where a model knows no tags, comes while it lasts. Every other alarm is
false, but for those of a machine in the half hour behind a fault. The kinds and sizes of faults are ours: other plants have others,
and the set was made for this one. It was chosen on other seeds (101 to 103 with 12 machines, about a dozen variants: limits and delays of `multivariate`, ranges
with and without recipes and temperatures; `drift` of the scatter was written because nothing found the oscillation), looked at once on seed 201 with 50 machines,
and then on the seed that is printed. Seed 201 gave three of the means: each model tells of at most one alarm a day of a machine (`budget_per_asset: 1/day`), `multivariate` smooths anew behind a pause, and `drift` begins
anew behind a pause (`forget_after`). The alarm layer has no budget of the site and knows no floods here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from report import Figure

from edge_models.runtime import ModelSet
from gateway import catalogue
from gateway.jobs.backtest import Watch, compare
from gateway.jobs.labels import Label, Labels, resolved

from . import Measured
from ._plant import DAY, KINDS, STEP_US, T0, Plant, plant

NEEDS = ()
SEED = 20261128
GRACE_US = 1_800_000_000
Settings = Mapping[str, Mapping[str, Any]]
RUN = {"active_when": "mode == run", "warm_up": "48h"}
MEASURED = ["**/speed", "**/power", "**/*_temp", "**/pressure", "**/flow", "**/vibration", "**/force"]


CONTROLLED = ["**/pressure", "**/vibration"]


def by_recipe(name: str, tags: list[str], *, kind: str | None = None, **more: Any) -> dict[str, dict[str, Any]]:
    """An entry for each recipe: what is controlled has another level in each."""
    return {
        f"{name}-{n}": {
            "kind": kind or name,
            "tags": tags,
            "active_when": f"mode == run and recipe == {n}",
            "warm_up": "24h",
            **more,
        }
        for n in range(3)
    }


DAILY = {"budget_per_asset": "1/day"}
"""What is held back is in the list, and told when its turn comes if it still holds."""
RECOMMENDED: Settings = {
    **by_recipe(
        "ensemble",
        CONTROLLED,
        members={"forecast_residual": {}, "drift": {"threshold": 20}},
        alarm={"count": "2 of 3", **DAILY},
    ),
    **by_recipe("restless", CONTROLLED, kind="drift", of="scatter", threshold=20, alarm=DAILY),
    **by_recipe("envelope", [tag for tag in MEASURED if "temp" not in tag], alarm={"count": "2 of 3", **DAILY}),
    "stuck": {"tags": MEASURED, "active_when": "mode == run", "warm_up": "24h", "at_least": "10m", "alarm": DAILY},
    "multivariate": {
        "tags": [*MEASURED, "**/ambient"],
        **RUN,
        "every": "30s",
        "lateness": "60s",
        "limit": 0.9999,
        "alarm": {"on_delay": "4m", **DAILY},
    },
    "shape": {"tags": ["**/force"], **RUN, "window": 30, "history": 300, "alarm": DAILY},
}
BESIDE: Settings = {
    **by_recipe("forecast_residual", CONTROLLED, alarm={"count": "2 of 3"}),
    **by_recipe("drift", CONTROLLED, threshold=20),
    "with_regimes": {
        **RECOMMENDED["multivariate"],
        "kind": "multivariate",
        "tags": [*RECOMMENDED["multivariate"]["tags"], "**/recipe"],
        "regimes": ["recipe"],
    },
}
"""Not of the set: what the members of the ensemble say by themselves, and what `multivariate` does that waits in recipes it does not know."""


def watch(made: Plant, settings: Settings) -> tuple[Watch, float]:
    """Run these models, each an entry of its kind, over the plant. Also the CPU seconds that it took."""
    configs = {
        name: catalogue.plugin("models", entry.get("kind", name)).config.model_validate({"kind": name, **entry})
        for name, entry in settings.items()
    }
    models = ModelSet.build(configs, made.tags, lambda kind: catalogue.plugin("models", kind))
    seen = Watch(made.tags)
    began = time.process_time()
    for batch in made.batches():
        seen.take(models.update(batch, 0))
    return seen, time.process_time() - began


def kind_of(alarm: str) -> str:
    """The entry that an alarm `pressure.drift-2` came from, whatever the recipe."""
    return alarm.rsplit(".", 1)[-1].partition("-")[0]


def labels_of(made: Plant) -> dict[str, list[Label]]:
    """The faults by kind, as labels of the tags that they are about."""
    found: dict[str, list[Label]] = {kind: [] for kind in KINDS}
    for fault in made.faults:
        asset = made.tags[fault.asset].asset
        name = fault.names[0] if len(fault.names) == 1 else "*_temp"
        found[fault.kind].append(Label(f"{asset}/{name}", T0 + fault.start * STEP_US, T0 + fault.end * STEP_US))
    return found


def only(seen: Watch, made: Plant, kinds: Collection[str]) -> Watch:
    """The alarms of some kinds of model, without those that an asset raises within `GRACE_US` of a fault's end: it returns to normal."""
    mine = Watch(made.tags)
    mine.span = dict(seen.span)
    ends: dict[str, list[int]] = {}
    for fault in made.faults:
        ends.setdefault(made.tags[fault.asset].asset, []).append(T0 + fault.end * STEP_US)
    for number, alarm in seen.alarms.items():
        after = any(0 < alarm.raised_us - end <= GRACE_US for end in ends.get(alarm.asset, ()))
        if kind_of(alarm.alarm) in kinds and not after:
            mine.alarms[number] = replace(alarm)
    return mine


@dataclass(frozen=True)
class Found:
    """What a set of models found: share of the faults, false alarms an asset-day, median delay (minutes), and each kind's share."""

    share: float
    false: float
    delay_min: float
    of: Mapping[str, tuple[int, int]]


def found_by(seen: Watch, made: Plant, kinds: Collection[str]) -> Found:
    """See Found."""
    by_kind = labels_of(made)
    mine = only(seen, made, kinds)
    of = {}
    for kind, some in by_kind.items():
        one, _ = compare(mine, Labels(some), resolved(Labels(some), made.tags))
        of[kind] = one.found, one.labels
    everything = Labels([label for some in by_kind.values() for label in some])
    told, _ = compare(mine, everything, resolved(everything, made.tags))
    # Against the time behind the learning: before it nothing may raise an alarm for long.
    days = made.assets * (made.polls - made.learning) / DAY
    return Found((told.recall or 0.0), told.false / days, (told.delay_median_s or 0.0) / 60, of)


def run(data: Path, calibrate: Path, quick: bool) -> Measured:
    """See model_sets."""
    del data, calibrate
    made = plant(assets=6, days=4.0, seed=SEED) if quick else plant(seed=SEED)
    beside = {} if quick else BESIDE
    seen, seconds = watch(made, {**RECOMMENDED, **beside})
    kinds = list(dict.fromkeys(kind_of(name) for name in RECOMMENDED))
    each = {kind: found_by(seen, made, {kind}) for kind in dict.fromkeys(kind_of(name) for name in (*RECOMMENDED, *beside))}
    whole = found_by(seen, made, kinds)
    rows = sum(int(one.sum()) for one in made.sent.values())
    figures = [
        Figure("recommended set: faults found", 100 * whole.share, "%", "higher", 90.0),
        Figure("recommended set: false alarms", whole.false, "/asset-day", "lower", 0.1),
        Figure("recommended set: median delay", whole.delay_min, "min", "lower"),
        *(Figure(f"recommended set: {kind}", 100 * hits / max(of, 1), "%", "higher", baseline=f"{of} faults") for kind, (hits, of) in whole.of.items()),
    ]  # fmt: skip
    for kind, one in each.items():
        figures += [
            Figure(f"{kind}: faults found", 100 * one.share, "%", "higher"),
            Figure(f"{kind}: false alarms", one.false, "/asset-day", "lower"),
        ]
    weak = [f"{kind} ({hits} of {of})" for kind, (hits, of) in whole.of.items() if hits < of]
    notes = [
        f"The set is {', '.join(kinds)} (`restless` is `drift` of the scatter)."
        + (
            " Beside it: forecast_residual and drift, the members of the ensemble by themselves, and `with_regimes`, the multivariate of the "
            "set with `regimes: [recipe]`."
            if beside
            else ""
        ),
        f"{made.assets} machines, {len(made.tags)} tags, {rows} readings, {len(made.faults)} faults, seed {SEED}; {seconds:.0f} s of CPU.",
        *(
            f"`{kind}` finds {', '.join(f'{name} ({hits} of {of})' for name, (hits, of) in one.of.items() if hits) or 'none'}."
            for kind, one in each.items()
        ),
        f"Weak spots of the set: {', '.join(weak) or 'none'}.",
    ]
    return Measured(figures, notes)
