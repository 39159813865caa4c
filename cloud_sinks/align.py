"""From readings at any time to values on a grid: what a tag's value was at a moment, or over a window, and where it is not known.

The model: a reading holds until the next reading of its tag, but no longer than the tolerance, and not into a gap. From a bad
reading on, and in a gap, the value is not known; a reading that lies within a gap holds for its own moment only. Pure functions
over polars; times are µs since 1970 as integers, windows are closed on the left and open on the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    import polars as pl

How = Literal["last", "mean", "min", "max", "time_weighted"]
"""`last`: the value at the moment. The others are over the window that begins there; `time_weighted` is a mean in which a value
counts for as long as it held."""
HOW: Final[tuple[How, ...]] = get_args(How)
FOREVER: Final = 2**62


def ordered(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by tag and time, one a moment: of several the one that was written last (a server that resends, a late correction)."""
    import polars as pl

    tag, time = pl.col("tag"), pl.col("time")
    last = tag.ne_missing(tag.shift(-1)) | time.ne_missing(time.shift(-1))
    return rows.sort("tag", "time", "epoch", "seq").filter(last)


def merged(gaps: pl.DataFrame) -> pl.DataFrame:
    """GAPS(tag, time, end) in any order, overlapping -> disjoint per tag, in order."""
    import polars as pl

    before = pl.col("end").cum_max().shift().over("tag")
    return (
        gaps.filter(pl.col("end") > pl.col("time"))
        .sort("tag", "time")
        .with_columns(part=(before.is_null() | (pl.col("time") > before)).cum_sum())
        .group_by("tag", "part", maintain_order=True)
        .agg(pl.col("time").min(), pl.col("end").max())
        .select("tag", "time", "end")
    )


def limited(rows: pl.DataFrame, gaps: pl.DataFrame) -> pl.DataFrame:
    """`ordered` rows with `limit`, the moment from which on a gap forbids to carry the reading: its own time within a gap."""
    import polars as pl

    if gaps.is_empty():
        return rows.with_columns(limit=pl.lit(FOREVER, pl.Int64))
    found = rows.join_asof(
        gaps.select("tag", began="time", over="end"), left_on="time", right_on="began", by="tag", check_sortedness=False
    ).join_asof(
        gaps.select("tag", begins="time"), left_on="time", right_on="begins", by="tag", strategy="forward",
        allow_exact_matches=False, coalesce=False, check_sortedness=False,
    )  # fmt: skip
    within = (pl.col("over") > pl.col("time")).fill_null(value=False)
    return found.with_columns(limit=pl.when(within).then(pl.col("time")).otherwise(pl.col("begins").fill_null(FOREVER))).drop(
        "began", "over", "begins", strict=False
    )


def at(rows: pl.DataFrame, grid: pl.Series, tolerance_us: int) -> pl.Series:
    """ROWS(time, value, known, limit) of one tag, GRID(n) ascending -> the value at each moment, null where it is not known.

    A reading counts up to and including `tolerance_us` after its time.
    """
    import polars as pl

    if rows.is_empty():
        return pl.Series(rows["value"].name, [None], dtype=rows.schema["value"]).new_from_index(0, len(grid))
    place = rows["time"].search_sorted(grid, side="right").cast(pl.Int64) - 1
    return (
        rows.select(pl.all().gather(pl.lit(place.clip(lower_bound=0))))
        .with_columns(place=place, grid=grid)
        .select(
            pl.when(
                (pl.col("place") >= 0)
                & pl.col("known")
                & (pl.col("grid") - pl.col("time") <= tolerance_us)
                & ((pl.col("grid") == pl.col("time")) | (pl.col("grid") < pl.col("limit")))
            ).then(pl.col("value"))
        )
        .to_series()
    )


def over(rows: pl.DataFrame, how: How, *, start_us: int, every_us: int, n: int) -> pl.Series:
    """ROWS(time, value, known, count, least, greatest) of one tag -> mean, min or max of the known readings of each of n windows.

    A row that stands for several readings (a downsampled window) counts as many times. Null for a window without a reading.
    """
    import polars as pl

    count = pl.col("count").fill_null(1).clip(lower_bound=1)
    aggregate = {  # a sum of 64-bit integers would wrap around
        "mean": (pl.col("value").cast(pl.Float64) * count).sum() / count.sum(),
        "min": pl.coalesce("least", "value").min(),
        "max": pl.coalesce("greatest", "value").max(),
    }[how]
    found = (
        rows.filter("known")
        .group_by(window=(pl.col("time") - start_us) // every_us)
        .agg(value=aggregate)
        .filter(pl.col("window").is_between(0, n, closed="left"))
    )
    return _on_windows(found, n)


def time_weighted(
    rows: pl.DataFrame, *, start_us: int, every_us: int, n: int, end_us: int, tolerance_us: int, coverage: float
) -> pl.Series:
    """ROWS(time, value, known, limit) of one tag -> the mean over the known part of each of n windows, weighted by time.

    Null where less than the share `coverage` of a window is known, or nothing. Time from `end_us` on does not count.
    """
    import polars as pl

    if rows.is_empty():
        return pl.Series([None], dtype=pl.Float64).new_from_index(0, n)
    edges = pl.int_range(start_us, start_us + n * every_us, every_us, eager=True)
    points = pl.concat([rows["time"], edges, pl.Series([end_us])]).unique().sort()
    points = points.filter((points >= start_us) & (points <= end_us))
    place = rows["time"].search_sorted(points[:-1], side="right").cast(pl.Int64) - 1
    until = pl.min_horizontal("limit", pl.col("time") + tolerance_us, "to")
    found = (
        rows.select(pl.col("time", "value", "known", "limit").gather(pl.lit(place.clip(lower_bound=0))))
        .with_columns(place=place, since=points[:-1], to=points[1:])
        .filter((pl.col("place") >= 0) & pl.col("known"))
        .with_columns(share=(until - pl.col("since")).clip(lower_bound=0) / every_us)
        .filter(pl.col("share") > 0)
        .group_by(window=(pl.col("since") - start_us) // every_us)
        .agg(value=(pl.col("value") * pl.col("share")).sum() / pl.col("share").sum(), share=pl.col("share").sum())
        .filter(pl.col("share") >= coverage * (1 - 1e-9))
    )
    return _on_windows(found, n)


def _on_windows(found: pl.DataFrame, n: int) -> pl.Series:
    import polars as pl

    windows = pl.DataFrame({"window": pl.int_range(n, eager=True)})
    return windows.join(found.select("window", "value"), on="window", how="left", maintain_order="left")["value"]
