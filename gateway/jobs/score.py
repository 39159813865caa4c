"""Scores a recording with one model: the very code that watches the live stream, so the scores are the same bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from edge_models.runtime import ModelSet
from gateway import catalogue
from gateway.suggest import did_you_mean, listed
from schemas.errors import ConfigError
from schemas.kinds import SCORE, make_batch, with_seq
from schemas.tags import Tag

if TYPE_CHECKING:
    import polars as pl

    from edge_models.base import ModelConfig

TIME_NAMES: Final = ("time", "timestamp", "datetime", "date", "ts", "zeit", "日時")
ROWS: Final = 65_536
"""Rows a batch. Any other number gives the same scores."""
EPOCHS: Final = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (0.0, 1e6))  # ns, µs, ms, s by size -> µs


@dataclass(frozen=True)
class Recording:
    """Readings of a file in the order in which they are scored: row i is reading `seq` = i of `tags[tag[i]]`."""

    tags: Sequence[Tag]
    tag: npt.NDArray[np.int32]
    time_us: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint32]
    lag_ms: npt.NDArray[np.int32]

    def batches(self, rows: int = ROWS) -> Iterator[pa.RecordBatch]:
        """TELEMETRY with `seq`, cut every `rows` rows."""
        for first in range(0, len(self.tag), rows):
            at = slice(first, first + rows)
            batch = make_batch(
                "telemetry", len(self.tag[at]), time=self.time_us[at], lag=self.lag_ms[at], tag=self.tag[at],
                value=pa.array(self.value[at], from_pandas=True), quality=self.quality[at], origin=0,
            )  # fmt: skip
            yield with_seq(batch, first)


@dataclass
class Summary:
    """What came of it. `alarms` are the sentences of the alarms raised, in order, each with its time (µs)."""

    tags: int = 0
    readings: int = 0
    scored: int = 0
    abnormal: int = 0
    alarms: list[tuple[int, str, str]] = field(default_factory=list)  # time, alarm, problem


def score(recording: Recording, config: ModelConfig, output: Path, *, rows: int = ROWS) -> Summary:
    """Run the model over the recording and write its SCORE rows to a Parquet file, `tag` as text, in the order they were made.

    Raises ConfigError when the file cannot be written.
    """
    models = ModelSet.build({config.kind: config}, recording.tags, lambda kind: catalogue.plugin("models", kind))
    paths = pa.array([tag.path for tag in recording.tags], pa.string())
    at = SCORE.get_field_index("tag")
    metadata = {"genba.kind": "score", "genba.model": config.kind, "genba.parameters": config.model_dump_json()}
    schema = SCORE.set(at, pa.field("tag", pa.string())).with_metadata(metadata)
    summary = Summary(tags=len(recording.tags), readings=len(recording.tag))
    try:
        with pq.ParquetWriter(output, schema, compression="zstd") as writer:
            for batch in recording.batches(rows):
                out = models.update(batch, 0)
                for scores in out.scores:
                    named = scores.set_column(at, "tag", paths.take(scores.column("tag")))
                    writer.write_batch(pa.RecordBatch.from_arrays(named.columns, schema=schema))
                    found = scores.column("score").drop_null().to_numpy()
                    summary.scored += len(found)
                    limit = scores.column("limit").filter(scores.column("score").is_valid()).to_numpy()
                    summary.abnormal += int((found >= limit).sum())
                for alerts in out.alerts:
                    summary.alarms += [
                        (alerts.column("time")[i].value, row["alarm"], row["problem"])
                        for i, row in enumerate(alerts.select(["transition", "alarm", "problem"]).to_pylist())
                        if row["transition"] == "raised"
                    ]
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}") from error
    return summary


def configure(kind: str, settings: Sequence[str]) -> ModelConfig:
    """The model's configuration for all tags of a file from `key=value` settings; `alarm.on_delay=5s` reaches inside.

    Raises ConfigError naming the setting and what there is instead.
    """
    plugin = catalogue.plugin("models", kind)
    entry: dict[str, Any] = {"kind": kind, "tags": ["**"]}
    for setting in settings:
        key, equals, written = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: not a setting", hint="write it like --set warm_up=30s")
        inner = entry
        *outer, last = key.strip().split(".")
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {setting}: {part!r} has no settings inside")
        try:
            inner[last] = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: the value cannot be read", hint="quote text that holds : or #") from error
    try:
        config: ModelConfig = plugin.config.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = [*plugin.config.model_fields]
        hint = did_you_mean(name, known) or f"{kind} has {listed(known, 20)}"
        raise ConfigError(f"--set {name}: {first['msg']}", hint=hint if first["type"] == "extra_forbidden" else "") from error
    return config


def read(path: Path, *, time: str | None = None, values: Sequence[str] = ()) -> Recording:
    """A recording from CSV (comma, semicolon or tab), from Parquet with a column per tag, or from Parquet as the lake holds it.

    `time` and `values` name columns; by default the first column that looks like time, and all numeric ones. Empty cells are no
    readings. Without a time column the rows are a second apart. Raises ConfigError naming the columns there are.
    """
    frame = _frame(path)
    if frame.height == 0:
        raise ConfigError(f"{path} has no rows")
    names = frame.columns
    for wanted in (*([time] if time else ()), *values):
        if wanted not in names:
            raise ConfigError(
                f"{path} has no column {wanted!r}", hint=did_you_mean(wanted, names) or f"it has {listed(names, 20)}"
            )
    if {"tag", "time", "value"} <= set(names) and not values and frame["tag"].dtype == _polars().String:
        return _from_lake(frame)
    return _from_columns(frame, path, time, values)


def _polars() -> Any:
    import polars

    return polars


def _frame(path: Path) -> pl.DataFrame:
    polars = _polars()
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table: pl.DataFrame = polars.read_parquet(path, hive_partitioning=False)
            return table
        head = path.read_text(encoding="utf-8-sig").partition("\n")[0]
        separator = max(",;\t", key=head.count)
        text: pl.DataFrame = polars.read_csv(path, separator=separator, try_parse_dates=True, infer_schema_length=None)
        return text
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except polars.exceptions.PolarsError as error:
        raise ConfigError(
            f"cannot read {path}: {str(error).splitlines()[0]}", hint="give a CSV file with a header, or Parquet"
        ) from error


def _from_lake(frame: pl.DataFrame) -> Recording:
    """Rows as the lake holds them, put back into the order in which the spool numbered them."""
    pl = _polars()
    frame = frame.sort("seq", maintain_order=True) if "seq" in frame.columns else frame.sort("time", maintain_order=True)
    value = frame["value"].cast(pl.Float64)
    if "value_int" in frame.columns:
        value = value.fill_null(frame["value_int"].cast(pl.Float64))
    paths = frame["tag"].unique(maintain_order=True).to_list()
    number = {path: i for i, path in enumerate(paths)}
    tag = frame["tag"].replace_strict(number, return_dtype=pl.Int32).to_numpy()
    time_us = frame["time"].dt.epoch("us").to_numpy().astype(np.int64)

    def column(name: str, kind: type[np.uint32] | type[np.int32]) -> npt.NDArray[Any]:
        if name not in frame.columns:
            return np.zeros(frame.height, dtype=kind)
        return frame[name].fill_null(0).to_numpy().astype(kind)

    tags = [_tag(i, path, time_us[tag == i]) for i, path in enumerate(paths)]
    return Recording(
        tags,
        tag.astype(np.int32),
        time_us,
        value.to_numpy().astype(np.float64),
        column("quality", np.uint32),
        column("lag", np.int32),
    )


def _from_columns(frame: pl.DataFrame, path: Path, time: str | None, values: Sequence[str]) -> Recording:
    time = time or next((name for name in frame.columns if frame[name].dtype.is_temporal()), None)
    time = time or next((name for name in frame.columns if name.strip().lower() in TIME_NAMES), None)
    time_us = np.arange(frame.height, dtype=np.int64) * 1_000_000 if time is None else _time_us(frame[time], path)
    numeric = [
        name
        for name in frame.columns
        if name != time and (frame[name].dtype.is_numeric() or frame[name].dtype == _polars().Boolean)
    ]
    chosen = list(values) or numeric
    wrong = [name for name in chosen if name not in numeric]
    if wrong or not chosen:
        raise ConfigError(
            f"{path}: column {wrong[0]!r} is not numeric" if wrong else f"{path} has no numeric column",
            hint=f"numeric are {listed(numeric, 20)}" if numeric else "",
        )
    table = np.column_stack([frame[name].cast(_polars().Float64).fill_null(float("nan")).to_numpy() for name in chosen])
    present = ~np.isnan(table)
    row, tag = np.nonzero(present)
    tags = [_tag(i, f"{path.stem}/{name.replace('/', '∕')}", time_us[present[:, i]], name) for i, name in enumerate(chosen)]
    n = len(row)
    return Recording(
        tags, tag.astype(np.int32), time_us[row], table[row, tag], np.zeros(n, dtype=np.uint32), np.zeros(n, dtype=np.int32)
    )


def _time_us(column: pl.Series, path: Path) -> npt.NDArray[np.int64]:
    pl = _polars()
    if column.null_count():
        raise ConfigError(f"{path}: {column.null_count()} rows have no {column.name!r}", hint="name another column with --time")
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        found: npt.NDArray[np.int64] = column.dt.epoch("us").to_numpy()
        return found
    if not column.dtype.is_numeric():
        raise ConfigError(
            f"{path}: {column.name!r} cannot be read as time", hint="write times like 2026-03-01 12:00:00, or as a number"
        )
    numbers = column.cast(pl.Float64).to_numpy()
    size = float(np.abs(numbers).max())
    factor = next(factor for least, factor in EPOCHS if size >= least)
    return np.round(numbers * factor).astype(np.int64)


def _tag(number: int, path: str, times: npt.NDArray[np.int64], name: str | None = None) -> Tag:
    """A tag whose scan class is the usual distance of its rows."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    period = int(np.median(steps)) if len(steps) else 1_000_000
    asset, _, last = path.rpartition("/")
    return Tag(
        path=path, asset=asset or "file", name=name or last, adapter="file", device="file", address=last, period_us=period,
        label=name or "", id=number,
    )  # fmt: skip


def scores_by_tag(path: Path) -> Mapping[str, npt.NDArray[np.float64]]:
    """The scores of a file that `score` wrote, NaN for null, by tag, in order."""
    table = pq.read_table(path, columns=["tag", "score"])
    tags = np.array(table["tag"].to_pylist())
    score_ = table["score"].to_numpy()
    return {str(tag): score_[tags == tag] for tag in dict.fromkeys(tags.tolist())}
