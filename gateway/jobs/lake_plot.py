"""Draws readings of the lake: lines with bad quality and gaps marked, an axis per unit, alerts as marks. PNG, SVG or PDF.

However many readings there are, a line has at most four points per pixel column: first, last, least and greatest of its time,
so nothing that would be seen is lost and memory is bounded (Jugel et al., M4, VLDB 2014). Needs matplotlib, the extra `plot`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from cloud_sinks import align, lake
from cloud_sinks.moments import us_of
from cloud_sinks.places import Access
from schemas import quality as q
from schemas.asset import matches_any
from schemas.errors import ConfigError
from schemas.units import display

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

BUCKETS: Final = 1_200
MOST_TAGS: Final = 40
_MOST_ALERTS: Final = 60
_MOST_TEXTS: Final = 30
_SANE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_FONTS: Final = (
    "Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "TakaoPGothic", "VL PGothic", "Hiragino Sans", "Yu Gothic",
    "Meiryo", "MS Gothic", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Unifont",
)  # fmt: skip
_SEVERITY: Final = {"critical": "tab:red", "warning": "tab:orange"}

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Spans = list[tuple[int, int]]


@dataclass
class Line:
    """One tag in one unit (`text`: its texts), times in µs. `bad` and `gaps` are intervals in which its value is not known."""

    tag: str
    label: str
    unit: str
    time: Times
    value: npt.NDArray[np.float64]
    bad: Spans = field(default_factory=list)
    gaps: Spans = field(default_factory=list)
    texts: list[str] | None = None
    band: tuple[float, float] | None = None  # in which the value was expected; an open end is infinite
    expected: tuple[Values, Values] | None = None  # the same from time to time, low and high beside `time`; NaN: not known

    def broken(self) -> tuple[Times, npt.NDArray[np.float64]]:
        """The line as it is drawn in steps: a value holds until the next, a bad reading or a gap, where it breaks off."""
        starts = np.array(sorted({start for start, _ in (*self.bad, *self.gaps)}), np.int64)
        before = np.searchsorted(self.time, starts, side="right") - 1
        starts, before = starts[before >= 0], before[before >= 0]
        time = np.concatenate([self.time, starts, starts])
        value = np.concatenate([self.value, self.value[before], np.full(len(starts), np.nan)])
        order = np.lexsort((np.repeat([0, 1, 2], [len(self.time), len(starts), len(starts)]), time))
        return time[order], value[order]


@dataclass
class Picture:
    """What is drawn."""

    lines: list[Line]
    alerts: list[tuple[int, str, str]]  # time, alarm, severity
    start_us: int
    end_us: int
    labels: Spans = field(default_factory=list)  # when something was known to be wrong


def picture(
    location: str, patterns: Sequence[str], start: datetime | None, end: datetime | None, *, sites: Sequence[str] = (),
    buckets: int = BUCKETS, access: Access,
) -> Picture:  # fmt: skip
    """Read what is to be drawn. Raises ConfigError when no tag or too many fit, ValueError as `lake.scan`."""
    import polars as pl

    where: dict[str, Any] = {"sites": list(sites) or None, **access}
    asked: dict[str, Any] = {"tags": list(patterns), **where}
    readings = lake.scan(location, start=start, end=end, **asked)
    facts = readings.filter(pl.col("time") >= _SANE).group_by("tag").agg(first=pl.col("time").min(), last=pl.col("time").max())
    found = facts.collect(engine="streaming")
    if found.is_empty():
        raise ConfigError(
            f"no reading of {' '.join(patterns)} in this interval", hint="`genba lake tags` lists tags, with first and last seen"
        )
    if found.height > MOST_TAGS:
        raise ConfigError(f"{found.height:,} tags fit, and a plot shows at most {MOST_TAGS}", hint="name fewer")
    start_us = us_of(start) if start else us_of(_datetime(found["first"].min()))
    end_us = max(us_of(end) if end else us_of(_datetime(found["last"].max())) + 1, start_us + 1)
    labels = dict(lake.tags(location, **asked).select("tag", "label").iter_rows())
    missing = align.merged(lake.gaps(location, start=start, end=end, **asked).select("tag", pl.col("time", "end").to_physical()))
    gaps: dict[str, Spans] = {}
    for tag, since, until in missing.iter_rows():
        gaps.setdefault(tag, []).append((max(since, start_us), min(until, end_us)))
    lines = _lines(readings, start_us, end_us, buckets, gaps, labels)
    alerts = _alerts(location, patterns, found["tag"].to_list(), start=start, end=end, **where)
    return Picture(lines, alerts, start_us, end_us)


def _lines(
    readings: pl.LazyFrame, start_us: int, end_us: int, buckets: int, gaps: dict[str, Spans], labels: dict[str, str]
) -> list[Line]:
    import polars as pl

    width = max(1, -(-(end_us - start_us) // buckets))
    value = pl.coalesce(pl.col("value"), pl.col("value_int").cast(pl.Float64))
    rows = readings.select(
        "tag", "text", "quality", time=pl.col("time").to_physical(), unit=pl.col("unit").fill_null("1"), value=value
    )
    rows = rows.filter(pl.col("time") >= start_us).with_columns(bucket=(pl.col("time") - start_us) // width)
    good, time, value = pl.col("quality") < q.BAD, pl.col("time"), pl.col("value")
    numbers = rows.filter(good & value.is_finite()).group_by("tag", "unit", "bucket").agg(
        t0=time.min(), v0=value.min_by("time"), t1=time.max(), v1=value.max_by("time"),
        t2=time.min_by("value"), v2=value.min(), t3=time.max_by("value"), v3=value.max(),
    )  # fmt: skip
    texts = rows.filter(good & value.is_null() & pl.col("text").is_not_null()).group_by("tag", "bucket").agg(
        t0=time.min(), v0=pl.col("text").min_by("time"), t1=time.max(), v1=pl.col("text").max_by("time")
    )  # fmt: skip
    bad = rows.filter(~good).group_by("tag", "bucket").agg(t0=time.min(), t1=time.max())
    number_rows, text_rows, bad_rows = pl.collect_all([numbers, texts, bad])
    lines = []
    for (tag, unit), part in sorted(number_rows.partition_by("tag", "unit", as_dict=True).items()):
        points = pl.concat([part.select(time=f"t{i}", value=f"v{i}") for i in range(4)]).unique().sort("time")
        lines.append(
            Line(
                str(tag), labels.get(str(tag), ""), str(unit), points["time"].to_numpy(), points["value"].to_numpy().astype(float)
            )
        )
    for (tag,), part in sorted(text_rows.partition_by("tag", as_dict=True).items()):
        points = pl.concat([part.select(time=f"t{i}", value=f"v{i}") for i in range(2)]).unique().sort("time")
        codes = {text: float(i) for i, text in enumerate(points["value"].unique(maintain_order=True))}
        values = np.array([codes[text] for text in points["value"]], np.float64)
        lines.append(Line(str(tag), labels.get(str(tag), ""), "text", points["time"].to_numpy(), values, texts=list(codes)))
    for tag in sorted(set(bad_rows["tag"]) - {line.tag for line in lines}):
        lines.append(Line(tag, labels.get(tag, ""), "1", np.empty(0, np.int64), np.empty(0)))
    for line in lines:
        line.gaps = gaps.get(line.tag, [])
        known = np.sort(np.concatenate([one.time for one in lines if one.tag == line.tag]))
        for since, until in bad_rows.filter(pl.col("tag") == line.tag).sort("t0").select("t0", "t1").iter_rows():
            after = int(np.searchsorted(known, until, side="right"))
            line.bad.append((since, int(known[after]) if after < len(known) else end_us))
    return lines


def _alerts(location: str, patterns: Sequence[str], drawn: Sequence[str], **where: Any) -> list[tuple[int, str, str]]:
    """Those raised about the tags, and about the assets that the drawn ones belong to."""
    import polars as pl

    assets = {"/".join(parts[:end]) for parts in (tag.split("/") for tag in drawn) for end in range(1, len(parts))}
    raised = lake.scan(location, kind="alert", **where).filter(pl.col("transition") == "raised")
    rows = raised.select(pl.col("time").to_physical(), "alarm", "severity", "tag", "asset").collect().sort("time")
    return [
        (int(time), alarm or "", severity or "")
        for time, alarm, severity, tag, asset in rows.iter_rows()
        if (asset in assets if tag is None else matches_any(tag, patterns))
    ]


def draw(what: Picture, out: Path, format: str, zone: ZoneInfo | None) -> None:
    """Draw it into a file. Raises ConfigError where matplotlib is not installed, OSError where the file cannot be written."""
    try:
        from matplotlib import dates
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed", hint="pip install 'genba[plot]'") from error
    groups: dict[str, list[Line]] = {}
    for line in what.lines:
        groups.setdefault(line.tag if line.texts is not None else f"unit {line.unit}", []).append(line)
    with _style():
        figure = Figure(figsize=(13, 1.2 + 2.8 * len(groups)), dpi=110, layout="constrained")
        axes: list[Axes] = list(figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0])
        for axis, lines in zip(axes, groups.values(), strict=True):
            _axis(axis, lines, what.labels)
            for time, _, severity in what.alerts[:_MOST_ALERTS]:
                axis.axvline(_x(time), color=_SEVERITY.get(severity, "tab:blue"), linestyle="--", linewidth=0.8, gid="alert")
        for time, alarm, severity in what.alerts[:_MOST_ALERTS]:
            axes[0].annotate(
                alarm[:40], (_x(time), 1.0), xycoords=("data", "axes fraction"), rotation=30, fontsize="x-small",
                color=_SEVERITY.get(severity, "tab:blue"),
            )  # fmt: skip
        locator = dates.AutoDateLocator(tz=zone or UTC)  # type: ignore[no-untyped-call]
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone or UTC))  # type: ignore[no-untyped-call]
        axes[-1].set_xlim(_x(what.start_us), _x(what.end_us))
        more = len(what.alerts) - _MOST_ALERTS
        axes[-1].set_xlabel(f"time, {zone.key if zone else 'UTC'}" + (f"; {more:,} more alerts" if more > 0 else ""))
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else None)


def _axis(axis: Axes, lines: Sequence[Line], labels: Spans) -> None:
    handles: list[Any] = []
    names: list[str] = []
    for line in lines:
        time, value = line.broken()
        style: dict[str, Any] = {
            "drawstyle": "steps-post",
            "linewidth": 1.1,
            "marker": "." if len(line.time) < 100 else "",
            "markersize": 4,
        }
        (drawn,) = axis.plot(_xs(time), value, **style)
        handles.append(drawn)
        names.append(line.label or line.tag)
        if line.band is not None:
            handles.append(_band(axis, line.band))
            names.append("expected")
        if line.expected is not None and any(np.isfinite(end).any() for end in line.expected):
            handles.append(_course(axis, line.time, *line.expected))
            names.append("expected")
    for gid, colour, hatch, spans in (
        ("label", "tab:purple", "", labels),
        ("bad quality", "tab:red", "", [span for line in lines for span in line.bad]),
        ("gap", "tab:gray", "//", [span for line in lines for span in line.gaps]),
    ):
        patch = None
        for since, until in _union(spans):
            patch = axis.axvspan(_x(since), _x(until), color=colour, alpha=0.18, hatch=hatch, linewidth=0, gid=gid)
        if patch is not None:
            handles.append(patch)
            names.append(gid)
    short = [since for line in lines for since, _ in line.bad]  # an interval may be thinner than a pixel
    axis.plot(
        _xs(np.array(short, np.int64)), np.full(len(short), 0.02), transform=axis.get_xaxis_transform(), linestyle="none",
        marker="x", color="tab:red", markersize=5,
    )  # fmt: skip
    texts = lines[0].texts
    if texts is not None:
        axis.set_yticks(range(min(len(texts), _MOST_TEXTS)), [text[:40] for text in texts[:_MOST_TEXTS]])
    elif lines[0].unit != "1":
        axis.set_ylabel(display(lines[0].unit))
    axis.legend(handles, names, loc="upper left", fontsize="small")
    axis.grid(alpha=0.3)


def _band(axis: Axes, band: tuple[float, float]) -> Any:
    """The expected band; where an end is open, a line at the other."""
    low, high = band
    if np.isfinite(low) and np.isfinite(high):
        return axis.axhspan(low, high, color="tab:green", alpha=0.12, linewidth=0, gid="expected")
    return axis.axhline(low if np.isfinite(low) else high, color="tab:green", linestyle=":", linewidth=1.2, gid="expected")


def _course(axis: Axes, time: Times, low: Values, high: Values) -> Any:
    """The same where it changes."""
    if np.isfinite(low).any() and np.isfinite(high).any():
        return axis.fill_between(_xs(time), low, high, color="tab:green", alpha=0.15, linewidth=0, gid="expected")
    (drawn,) = axis.plot(
        _xs(time), low if np.isfinite(low).any() else high, color="tab:green", linestyle=":", linewidth=1.2, gid="expected"
    )
    return drawn


def _union(spans: Spans) -> Spans:
    merged: Spans = []
    for since, until in sorted(spans):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((since, until))
    return merged


@contextmanager
def _style() -> Iterator[None]:
    """Fonts with Japanese where one is installed; names are names, so `$` begins no formula; a missing glyph is a box, no warning."""
    import matplotlib as mpl
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    settings: dict[Any, Any] = {"font.family": fonts, "text.parse_math": False, "svg.hashsalt": "genba"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _x(time_us: int) -> Any:
    """A time as matplotlib takes it; its stubs know only floats."""
    return np.datetime64(time_us, "us")


def _xs(time_us: Times) -> npt.NDArray[np.datetime64]:
    return time_us.astype("datetime64[us]")


def _datetime(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value
