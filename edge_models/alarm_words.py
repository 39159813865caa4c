"""From a row of scores to what an alarm says of it."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tags import Tag

from .alarm_records import Entry
from .base import Explains, ExplainsAssets, Marked, ScoreRow
from .sentences import number, quantity


def measure(entry: Entry, row: ScoreRow, *, limits: bool) -> None:
    """Take over the value, the score and what was expected; the limit of `limits` is in the unit of the tag."""
    entry.value, entry.score, entry.low, entry.high = row.value, row.score, row.low, row.high
    entry.limit = row.limit if not limits else row.low if row.low == row.low else row.high


def problem(model: object, tag: Tag | None, asset: str, row: ScoreRow, contributions: str | None) -> str:
    """The one sentence: the model's own, or how unusual it is and what contributes most; with the mark of a model that has one."""
    said = _said(model, tag, asset, row, contributions)
    return f"{said} ({model.mark})" if isinstance(model, Marked) else said


def _said(model: object, tag: Tag | None, asset: str, row: ScoreRow, contributions: str | None) -> str:
    if tag is not None and isinstance(model, Explains):
        return model.problem(tag, row)
    if tag is None and isinstance(model, ExplainsAssets):
        return model.asset_problem(asset.rsplit("/", 1)[-1], row)
    what = asset.rsplit("/", 1)[-1] if tag is None else f"{tag.display} at {quantity(row.value, tag)}"
    said = f"{what} is unusual, its score is {number(row.score)} of 1"
    most = _most(contributions) if tag is None else []
    return f"{said}, mostly by {' and '.join(most)}" if most else said


def _most(contributions: str | None) -> list[str]:
    """The two tags that contribute most."""
    try:
        shares = json.loads(contributions or "{}")
        listed = sorted(shares.items(), key=lambda one: -abs(float(one[1])))
    except (ValueError, TypeError, AttributeError):
        return []
    return [str(name).rsplit("/", 1)[-1] for name, share in listed[:2] if share]


def score_row(alarm: str, scores: pa.RecordBatch, row: int) -> ScoreRow:
    """One row as a model explains it."""

    def of(name: str) -> float:
        found = scores.column(name)[row].as_py()
        return float("nan") if found is None else float(found)

    since = scores.column("since")[row]
    return ScoreRow(
        alarm=alarm, time_us=scores.column("time")[row].value, since_us=since.value if since.is_valid else None,
        value=of("value"), score=of("score"), limit=of("limit"), low=of("low"), high=of("high"),
        contributions=scores.column("contributions")[row].as_py(),
    )  # fmt: skip


def pairs(scores: pa.RecordBatch) -> list[tuple[str, str]]:
    """The models and alarms that a batch of scores is about, in order of appearance."""
    if scores.num_rows == 0:
        return []
    models, alarms = (pc.unique(scores.column(name)).to_pylist() for name in ("model", "alarm"))
    if len(models) == len(alarms) == 1:
        return [(models[0], alarms[0])]
    return list(dict.fromkeys(zip(scores.column("model").to_pylist(), scores.column("alarm").to_pylist(), strict=True)))
