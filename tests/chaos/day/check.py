"""What was promised, held against what the stand-ins have. Each function returns complaints in words; none is well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from adapters.base import replay_mark
from cloud_sinks import lake
from schemas import quality as q

from . import recording as plant
from .stands import SINKS

ADAPTER = "day"
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_VALUES = ("time", "tag", "value", "value_int", "text", "samples", "quality", "lag")


@dataclass(frozen=True)
class Kill:
    """One kill -9: when, by the wall clock (µs), and what the gateway had said was durable, by kind."""

    time_us: int
    durable: Mapping[str, int]


def rows_once_each(name: str, where: Path, ends: Mapping[str, int], kills: Sequence[Kill]) -> list[str]:
    """Every row number below the end of its log is there once: by `scan`, and in the files as a plain glob sees them."""
    wrong = []
    for kind, sinks in SINKS.items():
        if name not in sinks:
            continue
        rows = numbers(where, kind)
        wrong += _complete(f"{name}: {kind}", rows, ends[kind])
        files = sorted(where.glob(f"{kind}/site=*/date=*/*.parquet"))
        plain = sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)
        if plain != ends[kind]:
            wrong.append(f"{name}: the files of {kind} hold {plain} rows, {ends[kind]} were acknowledged")
        for number, kill in enumerate(kills):
            told = kill.durable.get(kind, 0)
            if int(np.searchsorted(rows, told)) < told:
                wrong.append(f"{name}: kill {number}: {told} rows of {kind} were durable, some are not there")
    return wrong


def numbers(where: Path, kind: str) -> np.ndarray:
    """The row numbers of a kind in a lake, ascending, as often as they are there."""
    return np.sort(lake.scan(where, kind=kind).select("seq").collect()["seq"].to_numpy())  # type: ignore[arg-type]


def lost_and_twice(numbers: np.ndarray, end: int) -> tuple[int, int]:
    """How many of the rows below `end` are not among these numbers, and how many are there more than once."""
    unique = np.unique(numbers)
    return end - int(np.searchsorted(unique, end)), len(numbers) - len(unique)


def _complete(what: str, numbers: np.ndarray, end: int) -> list[str]:
    unique = np.unique(numbers)
    wrong = []
    if len(unique) != len(numbers):
        twice = len(numbers) - len(unique)
        wrong.append(f"{what}: {twice} rows are there twice")
    missing = np.setdiff1d(np.arange(end), unique)
    if len(missing):
        wrong.append(f"{what}: {len(missing)} of {end} rows are missing, the first {missing[0]}")
    if len(unique) and unique[-1] >= end:
        wrong.append(f"{what}: row {unique[-1]} was never acknowledged")
    return wrong


def values_are_the_recorded(name: str, where: Path, readings: pa.Table, events: pa.Table) -> list[str]:
    """What the recording holds is in the lake once each, exactly, and in its order; everything else comes from the live machine."""
    wrong = []
    frame = lake.scan(where).sort("seq").collect()
    replayed = frame.filter(pl.col("origin") == "replay").select(_VALUES)
    recorded = pl.DataFrame(pl.from_arrow(readings)).select(_VALUES)
    wrong += _same(f"{name}: readings", recorded, replayed)
    others = frame.filter(pl.col("origin") != "replay")
    foreign = others.filter(~pl.col("tag").str.starts_with("acme/osaka/live/"))
    if foreign.height:
        wrong.append(f"{name}: {foreign.height} rows that nobody read, the first: {foreign.row(0)}")
    false = others.filter(
        (pl.col("quality") == q.GOOD) & pl.col("tag").str.ends_with("/state") & ~pl.col("text").is_in(["idle", "run"])
    )
    if false.height:
        wrong.append(f"{name}: {false.height} values that the live machine never had")
    mark = replay_mark(ADAPTER)
    told = lake.scan(where, kind="event").sort("seq").collect().filter(pl.col("attributes").str.contains(mark, literal=True))
    columns = ["time", "asset", "source", "event", "severity", "message"]
    wrong += _same(f"{name}: events", pl.DataFrame(pl.from_arrow(events)).select(columns), told.select(columns))
    return wrong


def _same(what: str, expected: pl.DataFrame, found: pl.DataFrame) -> list[str]:
    if expected.height != found.height:
        return [f"{what}: {found.height} are there, {expected.height} were recorded"]
    for column in expected.columns:
        left, right = expected[column], found[column].cast(expected[column].dtype)
        if not left.equals(right, null_equal=True):
            at = next(k for k in range(len(left)) if left[k] is not right[k] and str(left[k]) != str(right[k]))
            return [f"{what}: {column} of row {at} is {right[at]!r}, recorded was {left[at]!r}"]
    return []


def lakes_agree(one: Path, other: Path) -> list[str]:
    """Both lakes hold the same rows."""
    wrong = []
    for kind in ("telemetry", "event", "alert", "gap"):
        left, right = (lake.scan(where, kind=kind).sort("seq").collect() for where in (one, other))  # type: ignore[arg-type]
        if not left.equals(right, null_equal=True):
            wrong.append(f"the lakes differ in {kind}")
    return wrong


def alarms_are_those_of_the_recording(where: Path, readings: pa.Table) -> list[str]:
    """Every time a temperature went beyond its limit it was raised once and cleared once, in the order of time."""
    wrong = []
    frame = pl.DataFrame(pl.from_arrow(readings)).filter(pl.col("tag").str.ends_with("/temp"))
    alerts = lake.scan(where, kind="alert").sort("seq").collect()
    ids = alerts.filter(pl.col("transition") == "raised")["id"].to_list()
    if len(ids) != len(set(ids)):
        wrong.append(f"{len(ids) - len(set(ids))} alarms were raised twice")
    for asset in plant.ASSETS:
        tag = plant.path_of(asset, "temp")
        rows = frame.filter((pl.col("tag") == tag) & (pl.col("quality") < q.BAD)).sort("time")  # an uncertain value counts
        expected = crossings(rows["time"].to_list(), rows["value"].to_list(), plant.LIMIT)
        mine = alerts.filter((pl.col("tag") == tag) & (pl.col("alarm") == "temp.high"))
        found = list(zip(mine["transition"], mine["time"], strict=True))
        if found != expected:
            at = next(
                (k for k, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
            )
            wrong.append(
                f"{tag}: {len(found)} transitions, {len(expected)} expected; number {at} is {found[at : at + 1]}, expected {expected[at : at + 1]}"
            )
    return wrong


def crossings(times: Sequence[Any], values: Sequence[float], limit: float) -> list[tuple[str, Any]]:
    """The transitions of an alarm with this limit and a hysteresis of 1, with their times."""
    beyond, found = False, []
    for time, value in zip(times, values, strict=True):
        if not beyond and value > limit:
            beyond = True
            found.append(("raised", time))
        elif beyond and value < limit - 1.0:
            beyond = False
            found.append(("cleared", time))
    return found


def gaps_cover_what_was_not_read(where: Path, kills: Sequence[Kill]) -> list[str]:
    """Between two readings of the live machine with a kill between them lie gap rows that name the whole time."""
    wrong = []
    rows = lake.scan(where, tags="**/live/level").sort("seq").collect()
    times = rows["time"].cast(pl.Int64).to_numpy()
    gaps = lake.scan(where, kind="gap", tags="**/live/level").sort("time").collect()
    spans = list(zip(*(gaps[name].cast(pl.Int64).to_list() for name in ("time", "end")), strict=True))
    for number, kill in enumerate(kills):
        after = int(np.searchsorted(times, kill.time_us))
        if not 0 < after < len(times):
            continue
        before_us, after_us = int(times[after - 1]), int(times[after])
        if not named(before_us, after_us, spans):
            near = [span for span in spans if span[1] > before_us - 10**7 and span[0] < after_us + 10**7]
            wrong.append(f"kill {number}: gap rows do not say that {before_us} to {after_us} was not read: {near}")
    return wrong


def named(before_us: int, after_us: int, spans: Iterable[tuple[int, int]], slack_us: int = 1_500_000) -> bool:
    """Whether spans (in order of their beginnings) reach from one reading to the next, but for `slack_us` at each end and between two.

    There may be two of them: a kill can take the reading that ended the first one, whose row is durable a moment earlier.
    """
    between = [span for span in spans if span[1] > before_us and span[0] < after_us]
    reached = before_us
    for start, end in between:
        if start > reached + slack_us:
            return False
        reached = max(reached, end)
    return bool(between) and reached >= after_us - slack_us


def stream_is_complete(name: str, rows: Iterable[tuple[str, str, int]], ends: Mapping[str, int]) -> list[str]:
    """`rows` are (kind, key, row number) as the service took them: each at least once, and the first ones of a key in order."""
    seen: dict[str, set[int]] = {kind: set() for kind, sinks in SINKS.items() if name in sinks}
    last: dict[tuple[str, str], int] = {}
    wrong = []
    for kind, key, number in rows:
        if kind not in seen:
            wrong.append(f"{name}: a row of {kind}, which does not go there")
            break
        if number in seen[kind]:
            continue
        seen[kind].add(number)
        if number < last.get((kind, key), -1):
            wrong.append(f"{name}: {kind} of {key}: row {number} came first behind row {last[kind, key]}")
        last[kind, key] = max(number, last.get((kind, key), -1))
    for kind, numbers in seen.items():
        wrong += _complete(f"{name}: {kind}", np.array(sorted(numbers), dtype=np.int64), ends[kind])
    return wrong[:8]


def lines_say_what_the_lake_says(lines: Iterable[Mapping[str, Any]], where: Path) -> list[str]:
    """The readings of the JSON stream are those of the lake."""
    frame = lake.scan(where).sort("seq").collect()
    tags, values, texts, qualities = (frame[name].to_list() for name in ("tag", "value", "text", "quality"))
    whole = frame["value_int"].to_list()
    wrong = 0
    for line in lines:
        if line["kind"] != "telemetry":
            continue
        at = line["row"]
        value = whole[at] if values[at] is None else values[at]
        wrong += (line["tag"], line.get("value"), line.get("text"), line["quality"]) != (
            tags[at],
            value,
            texts[at],
            qualities[at],
        )
    return [f"stream: {wrong} lines differ from the lake"] if wrong else []


def accounts_hold(accounts: Mapping[tuple[str, str], Any]) -> list[str]:
    """read = filtered + delivered + spooled + dropped + dead-lettered, and here nothing was dropped, or is left."""
    wrong = []
    for (kind, sink), a in accounts.items():
        if a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered:
            wrong.append(f"{sink}: the account of {kind} does not add up: {a}")
        if a.dropped or a.dead_lettered or a.spooled:
            wrong.append(f"{sink}: not all of {kind} was delivered: {a}")
    return wrong


def scrape_adds_up(text: str, durable_before: Mapping[str, int]) -> tuple[list[str], dict[str, int], int]:
    """One look at /metrics: complaints, durable rows by kind, rows that wait.

    Rows become durable while the answer is made: what became of them adds up to a number between two looks.
    """
    durable: dict[str, int] = {}
    sums: dict[tuple[str, str], int] = {}
    waiting = 0
    wrong = []
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        labels = dict(_LABEL.findall(rest))
        value = int(float(line.split()[-1])) if not line.startswith("#") else 0
        if name == "genba_durable_rows_total":
            durable[labels["kind"]] = value
        elif name in ("genba_sink_rows_total", "genba_spool_rows"):
            key = (labels["sink"], labels["kind"])
            sums[key] = sums.get(key, 0) + value
            waiting += value if name == "genba_spool_rows" else 0
            if labels.get("outcome") in ("dropped", "dead_lettered") and value:
                wrong.append(f"{key}: {value} rows {labels['outcome']}")
    for (sink, kind), total in sums.items():
        if total < durable[kind]:
            wrong.append(f"{sink}: {total} rows of {kind} accounted for, {durable[kind]} were durable before")
        if durable[kind] < durable_before.get(kind, 0):
            wrong.append(f"{kind}: {durable[kind]} rows are durable, and {durable_before[kind]} were before")
    return wrong, durable, waiting
