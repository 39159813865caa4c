"""Everything about one alarm, out of the rows of a spool or a lake: what raised it, why, and what has become of it. Blocking."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cloud_sinks.places import Access
from edge_models.alarm_context import SPAN_US, series
from edge_models.sentences import number
from gateway import control
from gateway.spool.view import View
from schemas.errors import ConfigError
from schemas.units import display

from .lake_plot import Line, Picture, picture
from .spool_export import named_rows

Row = Mapping[str, Any]
"""One row of kind alert: times in µs, the tag by its path."""
_RANK: Final = {"critical": 0, "warning": 1, "info": 2}
_MOST_TAGS: Final = 4  # of a model over many tags, in one plot


@dataclass
class Listed:
    """The open alarms and what was put aside, as documents. `running` says whether the gateway itself answered."""

    running: bool
    alarms: list[dict[str, Any]] = field(default_factory=list)
    aside: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Story:
    """The rows about one occurrence, oldest first."""

    rows: Sequence[Row]

    @property
    def onset(self) -> Row:
        """The row that says most: the newest of those with readings, or the first."""
        told = [row for row in self.rows if row["context"] is not None]
        return told[-1] if told else self.rows[0]

    def shares(self) -> list[tuple[str, float]]:
        """The tags that contribute, the strongest first."""
        try:
            found = json.loads(self.onset["contributions"] or "{}")
            return sorted(((str(name), float(share)) for name, share in found.items()), key=lambda one: -abs(one[1]))
        except (AttributeError, TypeError, ValueError):
            return []

    def facts(self) -> list[tuple[str, str]]:
        """What there is to know, line by line, for people."""
        row, last = self.onset, self.rows[-1]
        unit = "" if row["unit"] in (None, "", "1") else f" {display(row['unit'])}"
        facts = [
            ("alarm", f"{row['alarm']} ({row['model']})"), ("about", f"{row['subject']}, {row['tag'] or row['asset']}"),
            ("severity", row["severity"]), ("state", str(last["state"]).replace("_", " ")), ("problem", row["problem"]),
            ("action", row["action"] or "-"), ("since", _moment(row["since"])),
        ]  # fmt: skip
        if row["value"] is not None:
            facts.append(("value", f"{number(row['value'])}{unit}"))
        band = [None if row[end] is None else number(row[end]) for end in ("low", "high")]
        if band != [None, None]:
            facts.append(("expected", f"{band[0] or 'anything'} to {band[1] or 'anything'}{unit}"))
        if row["score"] is not None:
            tail = 1.0 - row["score"]
            rare = f", normal readings are so with a probability of {tail:.1e}" if 0 < tail < 0.1 else ""
            facts.append(("score", f"{row['score']:.9g} of 1{rare}"))
        if row["limit"] is not None:
            facts.append(("limit", f"{row['limit']:.9g}"))
        shares = self.shares()
        if shares:
            facts.append(("contributes", ", ".join(f"{name} {share:.0%}" for name, share in shares[:8])))
        points = [] if row["context"] is None else series(row["context"])
        if points:
            values = [value for _, value in points if math.isfinite(value)]
            spread = f", {number(min(values))} to {number(max(values))}{unit}" if values else ""
            facts.append(("before it", f"{len(points)} readings in {(points[-1][0] - points[0][0]) / 1e6:.0f} s{spread}"))
        return facts

    def document(self) -> dict[str, Any]:
        """The same for programs: the columns of the row that says most, parsed, and every transition."""
        made = {name: value for name, value in self.onset.items() if value is not None}
        for name in ("contributions", "context"):
            if name in made:
                made[name] = json.loads(made[name])
        made["state"] = self.rows[-1]["state"]
        told = ("time", "transition", "state", "problem")
        return made | {"transitions": [{name: row[name] for name in told} for row in self.rows]}

    def picture(self) -> Picture:
        """The minute before the alarm. Raises ConfigError where the row holds no readings."""
        row = self.onset
        points = [] if row["context"] is None else series(row["context"])
        if not points:
            raise ConfigError("this alarm holds no readings to draw", hint="look into the lake: --lake LOCATION")
        time, value = np.array([at for at, _ in points], np.int64), np.array([value for _, value in points])
        name = row["tag"] or (self.shares() or [(row["subject"], 1.0)])[0][0]
        known = np.isfinite(value)
        line = Line(name, row["subject"] if row["tag"] else "", row["unit"] or "1", time[known], value[known], band=self._band())
        line.bad = [
            (int(at), int(time[i + 1]) if i + 1 < len(time) else int(at) + 1) for i, at in enumerate(time) if not known[i]
        ]
        start, end = min(int(time[0]), row["time"]), max(int(time[-1]), row["time"]) + 1
        return Picture([line], [mark for mark in self._marks() if start <= mark[0] < end], start, end)

    def picture_of(self, location: str, access: Access) -> Picture:
        """The same with the readings of the lake, a minute more on either side. Raises ConfigError where it has none."""
        row = self.onset
        names = [row["tag"]] if row["tag"] else [name if "/" in name else f"{row['asset']}/{name}" for name, _ in self.shares()]
        if not names:
            raise ConfigError(f"{row['alarm']} is about no tag", hint="there is nothing to draw")
        start, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in (row["since"] - SPAN_US, self.rows[-1]["time"] + SPAN_US))
        what = picture(location, names[:_MOST_TAGS], start, end, access=access)
        for line in what.lines:
            line.band = self._band() if line.tag == row["tag"] else None
        what.alerts = self._marks()
        return what

    def _band(self) -> tuple[float, float] | None:
        low, high = self.onset["low"], self.onset["high"]
        if low is None and high is None:
            return None
        return -math.inf if low is None else low, math.inf if high is None else high

    def _marks(self) -> list[tuple[int, str, str]]:
        return [(row["time"], f"{row['alarm']} {row['transition']}", row["severity"]) for row in self.rows]


def in_spool(directory: Path, wanted: str) -> Story:
    """The occurrence whose id begins with `wanted`, out of a spool. Raises ConfigError where there is none, or several."""
    view = View(directory)
    batches = list(named_rows(view, "alert", 0, view.durable("alert")))
    return _story([row for batch in batches for row in _plain(batch)], wanted, f"the spool in {directory}")


def in_lake(location: str, wanted: str, access: Access) -> Story:
    """The same out of a lake."""
    import polars as pl

    from cloud_sinks import lake

    rows = lake.scan(location, kind="alert", **access).filter(pl.col("id").str.starts_with(wanted))
    frame = rows.with_columns(pl.col("time", "since").to_physical()).sort("time", "seq").collect()
    return _story(frame.to_dicts(), wanted, location)


def listed(directory: Path, *, everything: bool) -> Listed:
    """The open alarms: those that a running gateway has, else those that the newest rows of its spool leave open."""
    found = Listed(running=True)
    first = 0
    while True:
        answer = control.ask(directory, {"do": "alarms", "first": first, "all": int(everything)})
        if answer is None:
            return _from_rows(directory, everything)
        page, aside = json.loads(str(answer["alarms"])), json.loads(str(answer["aside"]))
        found.alarms += page
        found.aside += aside
        first += max(len(page), len(aside))
        if not page and not aside:
            return found


def _from_rows(directory: Path, everything: bool) -> Listed:
    view = View(directory)
    newest: dict[tuple[str, str, str], Row] = {}
    for batch in named_rows(view, "alert", 0, view.durable("alert")):
        for row in _plain(batch):
            newest[row["model"], row["alarm"], row["asset"] or row["subject"]] = row
    rows = [row for row in newest.values() if row["state"] != "normal" and (everything or row["state"] != "suppressed")]
    rows.sort(key=lambda row: (_RANK.get(row["severity"], 3), -row["since"]))
    alarms = [{**{name: value for name, value in row.items() if value is not None}, "since_us": row["since"]} for row in rows]
    return Listed(running=False, alarms=alarms)


def _plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    plain = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch.columns]
    rows: list[dict[str, Any]] = pa.RecordBatch.from_arrays(plain, names=batch.schema.names).to_pylist()
    return rows


def _story(rows: Sequence[Row], wanted: str, where: str) -> Story:
    mine = [row for row in rows if str(row["id"]).startswith(wanted)]
    ids = sorted({str(row["id"]) for row in mine})
    if not ids or not wanted:
        raise ConfigError(
            f"no alarm {wanted!r} is in {where}", hint="`genba alert list` shows ids; older ones are in the lake: --lake"
        )
    if len(ids) > 1:
        raise ConfigError(f"{len(ids)} alarms begin with {wanted!r}", hint=f"write more of it: {', '.join(ids[:4])}")
    return Story(mine)


def _moment(time_us: int | None) -> str:
    return "-" if time_us is None else f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
