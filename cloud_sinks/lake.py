"""Reads the lake: `scan` gives one kind's rows as a polars LazyFrame, `pivot` a wide table, `tags` the data dictionary, `gaps` what is missing.

Needs polars (and boto3 for a bucket), and imports it when called; the gateway's own libraries are not needed.

    from cloud_sinks import lake
    frame = lake.scan("./lake", tags="**/motor_temp", start=datetime(2026, 3, 1, tzinfo=UTC)).collect()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from schemas.asset import matches_any
from schemas.lake import COLUMNS, SINK, TAGS_COLUMNS, Column, LakeFile, tags_path
from schemas.manifest import MANIFEST, Manifest, current, lake_files, sources_of

from .moments import Moment, at_us, instant, span_us, us_of
from .places import Access, Place, place_of

if TYPE_CHECKING:
    import polars as pl

    from schemas.kinds import Kind

    from .align import How
    from .signals import Units
    from .wide import Wide

_GAP_AT_MOST: Final = timedelta(days=31)
_MOST_ROWS: Final = 100_000_000
_EXPLICIT: Final = 10_000
"""Up to this many tags are looked for by name, which lets the reader pass over row groups; beyond it every row is looked at."""


def scan(
    location: str | Path,
    *,
    tags: str | Sequence[str] | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
    sites: str | Sequence[str] | None = None,
    kind: Kind = "telemetry",
    region: str | None = None,
    endpoint: str | None = None,
    profile: str | None = None,
) -> pl.LazyFrame:
    """The rows of one kind with start <= time < end, plus the columns `site` and `date` of their folder.

    `location` is a directory, or `s3://bucket/prefix`, which is read with the credentials that boto3 finds; `region`, `profile` and
    `endpoint` (the URL of another server that speaks S3) are for a bucket only.

    `tags` are paths or patterns (`**/motor_*`; enterprise and site may be left out); rows about no tag are then passed over.
    Only folders of the wanted sites and dates are looked into, and only row groups that can hold a wanted tag are read. A row
    is never seen twice, also while files are being merged. An empty lake gives an empty frame with the same columns.
    Rows whose device clock was impossible keep their time and lie in the folder of the day they arrived: a bounded scan looks
    for them in the folders of the dates it was asked for.
    Raises ValueError for an unknown kind, a bad pattern, a moment without an offset, or a location that cannot be read.
    """
    import polars as pl

    if kind not in COLUMNS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(COLUMNS)}")
    place = place_of(location, region=region, endpoint=endpoint, profile=profile)
    since, until = instant(start, "start"), instant(end, "end")
    wanted_sites = {sites} if isinstance(sites, str) else None if sites is None else set(sites)
    schema = _schema(COLUMNS[kind])
    files = list(_files(place, kind, wanted_sites, since, until))
    partitions = {"site": pl.String(), "date": pl.Date()}
    if not files:
        return pl.LazyFrame(schema={**schema, **partitions})
    frame = pl.scan_parquet(
        [place.address(file.path()) for file in files],
        schema=schema,
        hive_schema={**_keys_above(place), **partitions},
        hive_partitioning=True,
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        storage_options=None if place.options is None else dict(place.options),
    )
    if since is not None:
        frame = frame.filter(pl.col("time") >= since)
    if until is not None:
        frame = frame.filter(pl.col("time") < until)
    if tags is not None:
        frame = frame.filter(_fits(place, [tags] if isinstance(tags, str) else list(tags), files))
    return frame.select(*schema, *partitions)


def tags(
    location: str | Path,
    *,
    sites: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    profile: str | None = None,
) -> pl.DataFrame:
    """The data dictionary: a row per tag and description, ordered by tag and valid_from, with the column `site`.

    Places, sites and patterns of tags as for `scan`.
    """
    place = place_of(location, region=region, endpoint=endpoint, profile=profile)
    found = _tags(place, {sites} if isinstance(sites, str) else None if sites is None else set(sites))
    return found if tags is None else found.filter(_matching(found["tag"], [tags] if isinstance(tags, str) else list(tags)))


def gaps(
    location: str | Path,
    *,
    tags: str | Sequence[str] | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
    sites: str | Sequence[str] | None = None,
    sink: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    profile: str | None = None,
) -> pl.DataFrame:
    """The intervals in which readings may be missing: GAPS(tag, time, end, cause, source), a row per tag, ordered; they may overlap.

    A gap of a whole adapter, or of the spool, is there for each of its tags in the data dictionary. What was dropped on the way
    to a sink counts only where that is `sink`; without it, where that is the sink which writes this lake, as each gateway's data
    dictionary says (`lake` where it says nothing). Readings that were thinned out into windows, and rows of other kinds than readings, are
    none of these. Gaps are looked for that began up to 31 days
    before `start`. Everything else as for `scan`.
    """
    import polars as pl

    access = Access(region=region, endpoint=endpoint, profile=profile)
    since, until = instant(start, "start"), instant(end, "end")
    looked = None if since is None else max(since, datetime.min.replace(tzinfo=UTC) + _GAP_AT_MOST) - _GAP_AT_MOST
    rows = scan(location, kind="gap", start=looked, end=until, sites=sites, **access)
    rows = rows.filter(
        pl.col("cause").ne_missing("downsampled"), ~pl.col("source").str.starts_with("spool.").fill_null(value=False)
    )
    if since is not None:
        rows = rows.filter(pl.col("end") > since)
    found = rows.select("tag", "time", "end", "cause", "source", "sink", "gateway", "site").collect()
    if found["sink"].null_count() < found.height:
        found = found.filter(pl.col("sink").is_null() | (pl.col("sink") == _writer(place_of(location, **access), found, sink)))
    found = found.drop("sink")
    whole = found.filter(pl.col("tag").is_null()).drop("tag")
    own = found.filter(pl.col("tag").is_not_null()).drop("gateway", "site")
    patterns = None if tags is None else [tags] if isinstance(tags, str) else list(tags)
    if whole.height:
        described = _tags(place_of(location, **access), None).select("tag", "adapter", "gateway", "site").unique()
        if patterns is not None:
            described = described.filter(_matching(described["tag"], patterns))
        each = whole.join(described, on=["gateway", "site"]).filter(
            (pl.col("source") == pl.col("adapter")) | (pl.col("source") == "spool") | pl.col("source").is_null()
        )
        own = pl.concat([own, each.select(own.columns)])
    if patterns is not None:
        own = own.filter(_matching(own["tag"], patterns))
    return own.sort("tag", "time", "end")


def pivot(
    location: str | Path,
    *,
    tags: str | Sequence[str] | None = None,
    every: timedelta | str = "1s",
    start: Moment | None = None,
    end: Moment | None = None,
    how: How = "last",
    tolerance: timedelta | str = "5m",
    units: Units = "refuse",
    uncertain: bool = False,
    coverage: float = 0.0,
    sites: str | Sequence[str] | None = None,
    sink: str | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    profile: str | None = None,
) -> Wide:
    """Readings as a wide table: a row per moment start, start + every, … before end; a column per tag, with its unit.

    `how` says what a cell is: `last` the value at the moment, the newest reading that is not older than `tolerance`;
    `mean`, `min` and `max` over the readings from the moment until the next; `time_weighted` the mean in which a reading counts
    for as long as it held, null where less than the share `coverage` of the window is known. Text is always as of the moment.

    No value is carried over what is not known: a gap (see `gaps`, which also explains `sink`), a bad reading, or longer than
    `tolerance`; there a cell is null. Uncertain readings count as bad unless `uncertain`. Of several readings of a tag for the
    same moment the one written last counts; order is that of `time`, so a clock that jumps back overlays what it wrote before.
    Downsampled rows keep their least, greatest and mean value, and their weight.

    A tag that changes its unit is refused with its name, or gets a column per unit with `units="split"`: nothing is converted.
    One that turns from number to text gets two columns, `tag` and `tag [text]`. Tags of the data dictionary that were silent
    have a column of nulls, so that the columns do not depend on the day. Waveforms are left out.

    Without `start` or `end` the table reaches from the first to the last reading. Nothing but these facts is read until
    `Wide.collect()` or `Wide.batches()` is called. Raises ValueError as `scan` does, and for a unit that changed, more than 10,000
    columns, or a table that has no end in sight.
    """
    import polars as pl

    from .align import HOW
    from .signals import described, facts_of, seen, signals
    from .wide import Grid, Wide

    if how not in HOW:
        raise ValueError(f"how={how!r} is not known; known are {', '.join(HOW)}")
    if units not in ("refuse", "split"):
        raise ValueError(f"units={units!r} is not known; known are refuse, split")
    access = Access(region=region, endpoint=endpoint, profile=profile)
    every_us, tolerance_us = span_us(every, "every"), span_us(tolerance, "tolerance", zero=True)
    since, until = instant(start, "start"), instant(end, "end")
    before = None if since is None else at_us(us_of(since) - tolerance_us)

    def read() -> pl.LazyFrame:
        return scan(location, tags=tags, start=before, end=until, sites=sites, **access)

    readings = read()
    facts = facts_of(readings, uncertain=uncertain)
    table = _tags(place_of(location, **access), {sites} if isinstance(sites, str) else None if sites is None else set(sites))
    if tags is not None:
        table = table.filter(_matching(table["tag"], [tags] if isinstance(tags, str) else list(tags)))
    columns = signals(seen(facts.iter_rows(named=True)), described(table, since, until), units)
    first = us_of(since) if since else facts["first"].min()
    last = us_of(until) if until else facts["last"].max()
    grid = Grid(0, 0, every_us)
    if isinstance(first, int) and isinstance(last, int):
        begin = first if since else first // every_us * every_us
        grid = Grid(begin, last if until else last + 1, every_us)
    if (since is None or until is None) and len(grid) > _MOST_ROWS:
        raise ValueError(
            f"from the first to the last reading there are {len(grid):,} rows, {every_us / 1e6:g} s apart; "
            "give start= and end=, or a longer every="
        )
    missing = gaps(location, tags=tags, start=before, end=until, sites=sites, sink=sink, **access)
    return Wide(
        readings, missing.select("tag", pl.col("time", "end").to_physical()), columns, grid,
        how=how, tolerance_us=tolerance_us, uncertain=uncertain, coverage=coverage, total=int(facts["rows"].sum()), again=read,
    )  # fmt: skip


def _tags(place: Place, wanted: set[str] | None) -> pl.DataFrame:
    import polars as pl

    schema = _schema(TAGS_COLUMNS)
    options = None if place.options is None else dict(place.options)
    frames = [
        pl.scan_parquet(
            place.address(f"tags/site={site}/{gateway}.parquet"),
            schema=schema,
            missing_columns="insert",
            hive_partitioning=False,
            glob=False,
            storage_options=options,
        )
        .with_columns(site=pl.lit(unquote(site)))
        .collect()
        for site, gateway in _described(place)
        if wanted is None or unquote(site) in wanted  # as Hive writes the name of a folder, and engines read it
    ]
    if not frames:
        return pl.DataFrame(schema={**schema, "site": pl.String()})
    return pl.concat(frames).sort("tag", "valid_from", nulls_last=False)


def _writer(place: Place, found: pl.DataFrame, sink: str | None) -> pl.Expr:
    """The name of the sink that writes the lake, for each row: the one given, or what the gateway's data dictionary says."""
    import polars as pl

    if sink is not None:
        return pl.lit(sink)
    options = None if place.options is None else dict(place.options)
    present = set(found.select("site", "gateway").unique().iter_rows())
    named = pl.lit("lake")
    for site, gateway in _described(place):
        if (unquote(site), gateway) in present:
            about = pl.read_parquet_metadata(place.address(tags_path(site, gateway)), storage_options=options)
            mine = (pl.col("site") == unquote(site)) & (pl.col("gateway") == gateway)
            named = pl.when(mine).then(pl.lit(about.get(SINK, "lake"))).otherwise(named)
    return named


def _schema(columns: Iterable[Column]) -> dict[str, pl.DataType]:
    import polars as pl

    types: dict[str, pl.DataType] = {
        "time": pl.Datetime("us", "UTC"),
        "text": pl.String(),
        "float64": pl.Float64(),
        "int64": pl.Int64(),
        "int32": pl.Int32(),
        "float32 list": pl.List(pl.Float32()),
    }
    return {column.name: types[column.type] for column in columns}


def _described(place: Place) -> list[tuple[str, str]]:
    """(site, gateway) of every table of the data dictionary, sorted."""
    suffix = ".parquet"
    return sorted(
        (site, name.removesuffix(suffix))
        for site in _folders(place, "tags", "site")
        for name in place.names(f"tags/site={site}")
        if name.endswith(suffix) and not name.startswith((".", "_"))
    )


def _keys_above(place: Place) -> dict[str, pl.DataType]:
    """Folders above the lake that look like partitions (`env=prod`): polars insists on knowing them; they are not selected."""
    import polars as pl

    keys = [part.partition("=")[0] for part in place.above if "=" in part.strip("=")]
    return dict.fromkeys(keys, pl.String())


def _files(
    place: Place, kind: Kind, sites: set[str] | None, since: datetime | None, until: datetime | None
) -> Iterator[LakeFile]:
    """The files that count in the folders that can hold wanted rows; anything else that lies there is passed over."""
    first = since.date() if since else date.min
    last = (until - timedelta(microseconds=1)).date() if until and until > datetime.min.replace(tzinfo=UTC) else date.max
    for site in _folders(place, kind, "site"):
        if sites is not None and unquote(site) not in sites:
            continue
        for day in _folders(place, f"{kind}/site={site}", "date"):
            try:
                if not first <= date.fromisoformat(day) <= last:
                    continue
            except ValueError:
                continue
            folder = f"{kind}/site={site}/date={day}"
            names = place.names(folder)
            yield from current(folder, names, _manifest(place, folder, names))


def _manifest(place: Place, folder: str, names: Sequence[str]) -> Manifest | None:
    """The manifest of a folder that was listed before, None where nothing was merged."""
    merged = [file for file in lake_files(folder, names) if file.merged]
    if MANIFEST not in names and not merged:
        return None
    data = place.read(f"{folder}/{MANIFEST}")
    if data is not None:
        try:
            return Manifest.unpack(data)
        except ValueError as error:
            raise ValueError(f"{place.address(folder)}/{MANIFEST} cannot be read: {error}") from error
    for file in merged:  # published and not yet named, so that its sources are all there; or the manifest was lost
        span = file.span
        if not _sources(place, file) <= {
            (one.span.first, one.span.last)
            for one in lake_files(folder, names)
            if not one.merged and (one.span.gateway, one.span.epoch) == (span.gateway, span.epoch)
        }:
            raise ValueError(
                f"{place.address(folder)}/{MANIFEST} is missing, and without it nobody knows which of the merged files count; "
                "`genba lake compact` makes it again"
            )
    return None


def _sources(place: Place, file: LakeFile) -> set[tuple[int, int]]:
    """First and last row of the files that a merged file replaces, as it says itself."""
    import polars as pl

    options = None if place.options is None else dict(place.options)
    about = pl.read_parquet_metadata(place.address(file.path()), storage_options=options)
    return {(source.first, source.last) for source in sources_of(about["genba.sources"])}


def _folders(place: Place, parent: str, key: str) -> list[str]:
    return [name.removeprefix(f"{key}=") for name in place.names(parent) if name.startswith(f"{key}=")]


def _fits(place: Place, patterns: list[str], files: Sequence[LakeFile]) -> pl.Expr:
    """The rows whose tag fits: by name where the data dictionary knows every tag that the files can hold, else by trying each."""
    import polars as pl

    described = set(_described(place))
    if all((file.site, file.span.gateway) in described for file in files):
        names = [name for name in _tags(place, None)["tag"].unique().sort().to_list() if matches_any(name, patterns)]
        if not names:
            return pl.lit(False)
        if len(names) <= _EXPLICIT:
            column = pl.col("tag")
            return (
                column == names[0]
                if len(names) == 1
                else column.is_in(names) & column.is_between(pl.lit(names[0]), pl.lit(names[-1]))
            )
    return pl.col("tag").map_batches(lambda column: _matching(column, patterns), return_dtype=pl.Boolean(), is_elementwise=True)


def _matching(column: pl.Series, patterns: list[str]) -> pl.Series:
    import polars as pl

    fitting = [name for name in column.unique().drop_nulls().to_list() if matches_any(name, patterns)]
    return column.is_in(pl.Series(fitting, dtype=pl.String()).implode())
