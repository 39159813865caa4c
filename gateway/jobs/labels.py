"""What really was wrong, and when: labels of a recording out of a file, or the verdicts that people gave on alarms of a lake."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cloud_sinks import lake
from cloud_sinks.moments import us_of
from cloud_sinks.places import Access
from edge_models.alarm_memory import EVENTS
from gateway.suggest import did_you_mean, listed
from schemas.asset import matches_any
from schemas.errors import ConfigError
from schemas.tags import Tag

from .score import EPOCHS

VERDICTS: Final = "verdicts"
"""In place of a file: the verdicts of the lake."""
SHAPE: Final = "tag (or asset), start, end"
_REAL: Final = {"real": True, "true": True, "1": True, "": True, "false": False, "0": False}


@dataclass(frozen=True)
class Label:
    """Something was wrong with `subject` (the path of a tag or an asset) from `start_us` to `end_us`; or nothing was, if not `real`.

    `where` says where it is written.
    """

    subject: str
    start_us: int
    end_us: int
    real: bool = True
    where: str = ""


@dataclass(frozen=True)
class Labels:
    """All of them. `complete` says that what bears no label was normal; verdicts say nothing about what nobody judged."""

    labels: Sequence[Label]
    complete: bool = True


def read(path: Path, zone: tzinfo = UTC) -> Labels:
    """CSV, Parquet or JSON (a list of objects) with the columns `tag` or `asset`, `start`, `end`; others are passed over.

    A column `verdict` may say `false`: something was taken for a fault here and was none. Times are ISO 8601, without an offset in
    `zone`, or numbers since 1970. Raises ConfigError naming file, line, column and the way out.
    """
    found: list[Label] = []
    for where, row in _rows(path):
        subject = next((str(row[name]).strip() for name in ("tag", "asset") if str(row.get(name) or "").strip()), "")
        if not subject:
            raise ConfigError("neither `tag` nor `asset` says what was wrong", where=where, hint=f"the columns are {SHAPE}")
        start, end = (_time_us(row.get(name), name, where, zone) for name in ("start", "end"))
        if end < start:
            raise ConfigError("`end` is before `start`", where=where, hint="a label is the time in which something was wrong")
        said = str("" if row.get("verdict") is None else row["verdict"]).strip().lower()
        if said not in _REAL:
            raise ConfigError(f"`verdict` is {said!r}", where=where, hint="write real or false, or leave it empty: real")
        found.append(Label(subject, start, end, _REAL[said], where))
    if not found:
        raise ConfigError("no label is in it", where=str(path), hint=f"write a line for each fault: {SHAPE}")
    return Labels(found)


def of_lake(location: str, start: datetime | None, end: datetime | None, *, sites: Sequence[str] = (), access: Access) -> Labels:
    """The alarms that people called real or false when they acknowledged them; the last verdict on an alarm counts.

    A label lasts from the alarm's onset until it cleared, or until it was judged. Raises ConfigError where there is none.
    """
    import polars as pl

    where: dict[str, Any] = {"sites": list(sites) or None, **access}
    # A verdict comes after the alarm, and may come after `end`.
    events = lake.scan(location, kind="event", start=start, **where).filter(pl.col("event") == EVENTS["acknowledge"])
    rows = events.select(pl.col("time").to_physical(), "tag", "asset", "attributes").collect().sort("time")
    cleared = (
        lake.scan(location, kind="alert", start=start, **where)
        .filter(pl.col("transition") == "cleared")
        .select("id", pl.col("time").to_physical())
        .collect()
    )
    ended: dict[str, int] = dict(cleared.sort("time").iter_rows())
    judged: dict[str, Label] = {}
    for time, tag, asset, attributes in rows.iter_rows():
        said = json.loads(attributes or "{}")
        verdict, onset, number = said.get("verdict"), said.get("since_us"), str(said.get("id", ""))
        if verdict is None or onset is None or (end is not None and onset >= us_of(end)):
            continue
        judged[number] = Label(
            tag or asset or "",
            int(onset),
            max(int(onset), ended.get(number, time)),
            verdict == "real",
            f"the verdict on {number}",
        )
    if not judged:
        raise ConfigError(
            f"{location} holds no verdicts of that time",
            hint="give them as alarms come: genba alert acknowledge ID --verdict real|false; or name a file of labels",
        )
    return Labels(list(judged.values()), complete=False)


@dataclass(frozen=True)
class Meant:
    """A label on the tags of a recording: `tags` are the ids that it is about, `assets` those that they belong to."""

    label: Label
    tags: frozenset[int]
    assets: frozenset[str]


def resolved(labels: Labels, tags: Sequence[Tag]) -> list[Meant]:
    """Which tags each label is about: the tag or pattern itself, or all tags of the asset and what is below it.

    Raises ConfigError, naming where the label stands, for one that fits nothing.
    """
    known: dict[str, Meant] = {}
    found: list[Meant] = []
    for label in labels.labels:
        subject = label.subject
        if subject not in known:
            mine = [tag for tag in tags if matches_any(tag.path, (subject, f"{subject.rstrip('/')}/**"))]
            if not mine:
                names = [*dict.fromkeys(tag.asset for tag in tags), *(tag.path for tag in tags)]
                last = subject.rpartition("/")[2]
                hint = did_you_mean(subject, names) or did_you_mean(last, {name.rpartition("/")[2] for name in names})
                raise ConfigError(
                    f"nothing in the recording is called {subject!r}",
                    where=label.where,
                    hint=hint or f"it has {listed([tag.path for tag in tags], 8)}",
                )
            known[subject] = Meant(label, frozenset(tag.id for tag in mine), frozenset(tag.asset for tag in mine))
        found.append(Meant(label, known[subject].tags, known[subject].assets))
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row stands (`labels.csv:3`) and what it holds. Raises ConfigError for what is no table of labels."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            table = pq.read_table(path)
            _complain_of_columns(path, table.column_names)
            yield from ((f"{path}, row {n}", row) for n, row in enumerate(table.to_pylist(), 1))
        elif suffix == ".json":
            yield from _json(path)
        else:
            text = path.read_text(encoding="utf-8-sig")
            reader = csv.DictReader(
                text.splitlines(keepends=True), delimiter=max(",;\t", key=text.partition("\n")[0].count), skipinitialspace=True
            )
            _complain_of_columns(path, [name.strip() for name in reader.fieldnames or ()])
            for row in reader:
                if None in row:
                    raise ConfigError("more cells than columns", where=f"{path}:{reader.line_num}", hint="quote text with commas")
                yield f"{path}:{reader.line_num}", {name.strip(): cell for name, cell in row.items()}
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        told = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ConfigError(f"cannot read {path}: {told}", hint=f"give CSV, Parquet or JSON with {SHAPE}") from error


def _json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        held = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"no JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}", hint="mind commas and quotes"
        ) from error
    if not isinstance(held, list):
        raise ConfigError("labels are a list", where=str(path), hint='write [{"tag": …, "start": …, "end": …}, …]')
    for n, row in enumerate(held, 1):
        if not isinstance(row, dict):
            raise ConfigError("a label is an object", where=f"{path}, entry {n}", hint=f"with {SHAPE}")
        _complain_of_columns(f"{path}, entry {n}", [*row])
        yield f"{path}, entry {n}", row


def _complain_of_columns(where: Path | str, names: Sequence[str]) -> None:
    lacking = [name for name in ("start", "end") if name not in names]
    lacking += [] if {"tag", "asset"} & set(names) else ["tag"]
    if lacking:
        hint = did_you_mean(lacking[0], names) or f"it has {listed(names, 12) or 'none'}; the columns are {SHAPE}"
        raise ConfigError(f"no column `{lacking[0]}`", where=str(where), hint=hint)


def _time_us(written: object, name: str, where: str, zone: tzinfo) -> int:
    wrong = ConfigError(
        f"`{name}` is {written!r}, which is no time",
        where=where,
        hint="write it like 2026-03-01T08:00:00+09:00, or as seconds since 1970",
    )
    if isinstance(written, bool) or written is None:
        raise wrong
    try:
        if isinstance(written, datetime):
            moment = written
        elif isinstance(written, (int, float)):
            return _number_us(float(written))
        else:
            moment = datetime.fromisoformat(str(written).strip())
        return us_of(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone))
    except (ValueError, OverflowError):
        pass
    try:
        return _number_us(float(str(written)))
    except (ValueError, OverflowError):
        raise wrong from None


def _number_us(number: float) -> int:
    if not math.isfinite(number):
        raise ValueError("no time")
    return round(number * next(factor for least, factor in EPOCHS if abs(number) >= least))
