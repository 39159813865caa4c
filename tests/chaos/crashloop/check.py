"""What was witnessed, held against what the lakes and the stand-in for IoT Core have in the end. Complaints in words; none is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from cloud_sinks import lake
from gateway.spool.view import View
from schemas import quality as q
from schemas.kinds import KINDS as ALL
from schemas.kinds import Kind
from tests.chaos.day import check as day

from .witness import Rows, Testimony
from .world import COUNTERS, LIMIT

KINDS: Final[tuple[Kind, ...]] = ("telemetry", "event", "alert", "gap")
SINKS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "telemetry": ("local", "s3", "iot"),
    "event": ("local", "s3", "iot"),
    "alert": ("local", "s3", "iot"),
    "gap": ("local", "s3"),
}
"""As the plant's file routes them; `iot` has the readings of one tag only."""


@dataclass
class Findings:
    """What is wrong with one gateway's data. `lost` and `duplicated` are rows, over all lakes."""

    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0


def spool(directory: Path, said: Testimony) -> tuple[list[str], dict[Kind, int]]:
    """A dead gateway's directory: nothing witnessed is undone, and every account holds. Also the ends of its logs."""
    view, wrong = View(directory), []
    ends = {kind: view.durable(kind) for kind in ALL}
    for kind, end in ends.items():
        if end < said.end(kind):
            wrong.append(f"spool: {said.end(kind)} rows of {kind} were acknowledged, and the log ends at {end}")
    for kind, sink in view.book.cursors:
        a, cursor = view.account(kind, sink), view.book.cursors[kind, sink]
        if a.read != a.filtered + a.delivered + a.spooled + a.dropped + a.dead_lettered or min(a.spooled, a.delivered) < 0:
            wrong.append(f"spool: the account of {kind} for {sink} does not add up: {a}")
        if a.dropped or a.dead_lettered:
            wrong.append(f"spool: {a.dropped} rows of {kind} were dropped for {sink}, {a.dead_lettered} dead-lettered")
        if cursor.acked > ends[kind] or (cursor.cut is not None and cursor.cut.last >= ends[kind]):
            wrong.append(f"spool: {sink} stands at {cursor} of {kind}, and the log ends at {ends[kind]}")
    return wrong, ends


def delivered(directory: Path) -> list[str]:
    """After a stop in good order every sink has had everything that goes to it."""
    view = View(directory)
    wanted = {(kind, sink) for kind in KINDS for sink in SINKS[kind]}
    known = {(kind, sink) for kind, sink in view.book.cursors if kind in KINDS}
    accounts = {key: view.account(*key) for key in sorted(known)}
    return day.accounts_hold(accounts) + [f"{sink} is not registered for {kind}" for kind, sink in sorted(wanted - known)]


def accounts_say_what_is_there(directory: Path, where: Path) -> list[str]:
    """Every sink's account counts the rows of the lake: delivered what went there, filtered what did not."""
    view, wrong = View(directory), []
    for kind in KINDS:
        rows = lake.scan(where, kind=kind).select(pl.len()).collect().item()
        beats = lake.scan(where, tags="**/beat").select(pl.len()).collect().item() if kind == "telemetry" else rows
        for sink in SINKS[kind]:
            a = view.account(kind, sink)
            goes = beats if sink == "iot" else rows
            if (a.delivered, a.filtered) != (goes, rows - goes):
                wrong.append(f"{sink}: {goes} of {rows} rows of {kind} are there, and its account is {a}")
    return wrong


def whole_lake(name: str, where: Path, said: Testimony, ends: Mapping[str, int], starts: int) -> Findings:
    """Every row below the end of its log once, by scan and by plain listing; each witnessed row with its time and value; in order."""
    found = Findings(day.rows_once_each(name, where, ends, ()))
    for kind in KINDS:
        columns = ["seq", "time", *(("tag", "value", "quality", "text") if kind == "telemetry" else ())]
        frame = lake.scan(where, kind=kind).select(columns).sort("seq").collect()
        found.duplicated += frame.height - frame["seq"].n_unique()
        missing = _not_there(frame, said.of(kind))
        found.lost += missing
        if missing:
            found.wrong.append(f"{name}: {missing} acknowledged rows of {kind} are not there, or are others")
        if kind == "telemetry":
            found.wrong += [f"{name}: {sentence}" for sentence in _in_order(frame, starts)]
    return found


def _not_there(frame: pl.DataFrame, rows: Rows) -> int:
    """How many witnessed rows the lake does not have as they were."""
    if not frame.height:
        return len(rows)
    numbers = frame["seq"].to_numpy()
    at = np.minimum(np.searchsorted(numbers, rows["row"]), frame.height - 1)
    there = (numbers[at] == rows["row"]) & (frame["time"].cast(pl.Int64).to_numpy()[at] == rows["time"])
    if "value" in frame.columns:
        value = frame["value"].to_numpy()[at]
        there &= (value == rows["value"]) | (np.isnan(value) & np.isnan(rows["value"]))
    return int((~there).sum())


def _in_order(frame: pl.DataFrame, starts: int) -> Iterable[str]:
    """The device's counters rise by one from row to row, but for the readings that a kill took before they were acknowledged."""
    for name in COUNTERS:
        mine = frame.filter(pl.col("tag").str.ends_with(f"/{name}") & (pl.col("quality") < q.BAD))
        steps, times = np.diff(mine["value"].to_numpy()), np.diff(mine["time"].cast(pl.Int64).to_numpy())
        if (steps <= 0).any():
            yield f"{name}: {int((steps <= 0).sum())} readings come again, or in another order"
        if int((steps > 1).sum()) > starts:
            yield f"{name}: readings are missing at {int((steps > 1).sum())} places, and the gateway was started {starts} times"
        if (times < 0).any():
            yield f"{name}: times go back"
    if bad := frame.filter(pl.col("quality") >= q.BAD).height:
        yield f"{bad} readings are bad, and the device was there all the time"


def alarms(name: str, where: Path) -> list[str]:
    """One alert raised and one cleared each time that the stored readings crossed the limit: none twice, none forgotten."""
    rows = lake.scan(where, tags="**/wave").sort("seq").collect()
    alerts = lake.scan(where, kind="alert").sort("seq").collect()
    expected = day.crossings(rows["time"].to_list(), rows["value"].to_list(), LIMIT)
    found = list(zip(alerts["transition"], alerts["time"], strict=True))
    if found == expected:
        return []
    at = next((k for k, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected)))
    return [
        f"{name}: {len(found)} transitions of an alarm, {len(expected)} expected; number {at} is {found[at : at + 1]}, expected "
        f"{expected[at : at + 1]}"
    ]


def iot_core(got: Sequence[tuple[str, Mapping[str, Any]]], where: Path, ends: Mapping[str, int]) -> list[str]:
    """`got` are (kind, row) as the broker gave them on: each row that goes there at least once, the first ones in order."""
    named = [(kind, "all", int(row["row"])) for kind, row in got if kind != "telemetry"]
    wrong = day.stream_is_complete("iot", named, ends)
    beats = lake.scan(where, tags="**/beat").select("seq").sort("seq").collect()["seq"].to_list()
    first = list(dict.fromkeys(int(row["row"]) for kind, row in got if kind == "telemetry"))
    if first != sorted(first):
        wrong.append("iot: readings came in another order")
    if sorted(first) != beats:
        wrong.append(
            f"iot: {len(set(beats) - set(first))} readings did not come, {len(set(first) - set(beats))} are none of its own"
        )
    return wrong
