"""Which files of a folder count: each row once, whatever lies there before, while and after files are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lake import LakeFile
from schemas.manifest import MANIFEST, Manifest, Merged, Retired, Source, current, lake_files, sources_of, sources_text

FOLDER = "telemetry/site=osaka/date=2026-01-01"
MARK = "0123456789ab"


def plain(first: int, last: int, *, gateway: str = "gw", epoch: int = 1) -> str:
    return f"{gateway}-{epoch:04d}-telemetry-{first:014d}-{last:014d}.parquet"


def merged(first: int, last: int, mark: str = MARK, **options: object) -> str:
    return plain(first, last, **options).replace(".parquet", f"-m{mark}.parquet")  # type: ignore[arg-type]


def entry(*spans: tuple[int, int], mark: str = MARK) -> Merged:
    name = merged(min(first for first, _ in spans), max(last for _, last in spans), mark)
    return Merged(name, tuple(Source(*span, 5, "0" * 16) for span in spans), 5 * len(spans), "0" * 16, 1, 7)


def names(files: list[LakeFile]) -> set[str]:
    return {file.path().rpartition("/")[2] for file in files}


def test_without_a_manifest_every_file_of_the_sink_counts_and_no_merged_one() -> None:
    assert names(current(FOLDER, [plain(0, 9), plain(5, 20), merged(0, 20), "notes.txt"], None)) == {plain(0, 9), plain(5, 20)}


def test_a_merged_file_counts_in_place_of_its_sources_from_the_manifest_on() -> None:
    manifest = Manifest((entry((0, 9), (10, 19)),))
    before, after = [plain(0, 9), plain(10, 19)], [merged(0, 19)]
    for listing in (before, before + after, after, [*after, plain(10, 19)], []):  # the listing may be older or newer
        assert names(current(FOLDER, [*listing, MANIFEST], manifest)) == {merged(0, 19)}


def test_what_comes_late_into_a_hole_counts() -> None:
    """The wider name says nothing: a file counts unless it is named as a source."""
    manifest = Manifest((entry((0, 9), (30, 39)),))
    late = [plain(10, 29), plain(12, 13), plain(0, 39), plain(0, 9, epoch=2), plain(0, 9, gateway="gx")]
    assert names(current(FOLDER, [*late, plain(0, 9), merged(0, 39)], manifest)) == {*late, merged(0, 39)}


def test_one_that_was_merged_again_or_never_counted_is_passed_over() -> None:
    manifest = Manifest((entry((0, 9), (10, 19), (20, 29)),), (Retired(merged(0, 19, "a" * 12), 1),))
    listing = [merged(0, 29), merged(0, 19, "a" * 12), merged(20, 29, "b" * 12), plain(20, 29), plain(30, 39)]
    assert names(current(FOLDER, listing, manifest)) == {merged(0, 29), plain(30, 39)}


spans = st.tuples(st.integers(0, 10**15), st.integers(0, 10**6), st.integers(0, 10**6)).map(
    lambda t: Source(t[0], t[0] + t[1], t[2], f"{t[1]:016x}")
)


@given(
    st.lists(
        st.builds(
            Merged,
            st.just(merged(0, 9)),
            st.lists(spans).map(tuple),
            st.integers(0),
            st.just("0" * 16),
            st.integers(0),
            st.integers(0),
        )
    ),
    st.lists(st.builds(Retired, st.just(merged(0, 9)), st.integers(0))),
)
def test_pack_and_unpack_are_inverse(counting: list[Merged], retired: list[Retired]) -> None:
    manifest = Manifest(tuple(counting), tuple(retired))
    assert Manifest.unpack(manifest.pack()) == manifest
    for one in counting:
        assert sources_of(sources_text(one.sources)) == one.sources


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 2, "merged": [], "retired": []}',
        b'{"format": 1, "merged": [1], "retired": []}',
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own words are fine too)
        Manifest.unpack(data)


def test_a_manifest_that_names_no_merged_file_is_refused() -> None:
    with pytest.raises(ValueError, match="not the name of a merged file"):
        current(FOLDER, [], Manifest((Merged(plain(0, 9), (), 0, "", 0, 0),)))


def test_lake_files_passes_over_the_rest() -> None:
    assert [file.merged for file in lake_files(FOLDER, [MANIFEST, ".tmp-x", merged(0, 9), plain(0, 9), "x.parquet"])] == [
        MARK,
        "",
    ]
