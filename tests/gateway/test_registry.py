"""The tag registry: ids for ever, descriptions with their time."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.registry import TagRegistry
from gateway.spool.storage import DiskStorage
from schemas.tags import Limits, TagDirectory, TagHistory
from tests.gateway.samples import make_tag

T0 = 1_767_225_600_000_000


async def open_registry(directory: Path, storage: DiskStorage | None = None) -> TagRegistry:
    with structlog.testing.capture_logs():
        return await TagRegistry.open(directory, log=structlog.get_logger(), storage=storage)


def tags(*numbers: int, **options: object):
    return [make_tag(number, **options) for number in numbers]


def fresh(made):
    return [replace(tag, id=-1) for tag in made]


async def test_ids_are_dense_in_the_order_given_and_survive_a_restart(tmp_path):
    registry = await open_registry(tmp_path)
    assert isinstance(registry, TagHistory)
    directory: TagDirectory = registry
    assert [tag.id for tag in await registry.resolve(fresh(tags(7, 3, 5)), T0)] == [0, 1, 2]
    again = await open_registry(tmp_path)
    assert [tag.id for tag in await again.resolve(fresh(tags(5, 9, 7, 3)), T0)] == [2, 3, 0, 1]
    assert len(directory) == 3
    assert [tag.name for tag in again] == ["t7", "t3", "t5", "t9"]
    for unknown in (-1, 4):
        with pytest.raises(KeyError):
            again[unknown]


async def test_a_tag_comes_back_with_everything_that_was_said_of_it(tmp_path):
    tag = make_tag(
        1, unit="Cel", label="主モータ巻線温度", description="line\nfeed \r and ß", period_us=5, deadband=0.5, limits=Limits(high=90.0, hysteresis=1),
        severity="critical", action="stop", enum={0: "idle", -3: "fault"}, value_type="integer", report_at_least_us=9,
    )  # fmt: skip
    [made] = await (await open_registry(tmp_path)).resolve([tag], T0)
    assert made == replace(tag, id=0)
    assert (await open_registry(tmp_path))[0] == made


async def test_changes_and_retirement_are_versions_with_valid_from_and_valid_to(tmp_path):
    registry = await open_registry(tmp_path)
    [one, two] = fresh(tags(1, 2))
    await registry.resolve([one, two], T0)
    await registry.resolve([replace(one, unit="Cel"), two], T0 + 10)
    await registry.resolve([replace(one, unit="Cel")], T0 + 20)
    await registry.resolve([replace(one, unit="Cel"), two], T0 + 30)
    for known in (registry, await open_registry(tmp_path)):
        seen = [(version.tag.id, version.tag.unit, version.valid_from_us, version.valid_to_us) for version in known.history()]
        assert seen == [
            (0, "1", T0, T0 + 10),
            (0, "Cel", T0 + 10, None),
            (1, "1", T0, T0 + 20),
            (1, "1", T0 + 30, None),
        ]


async def test_nothing_is_written_when_nothing_changed(tmp_path):
    registry = await open_registry(tmp_path)
    await registry.resolve(fresh(tags(1, 2)), T0)
    size = (tmp_path / "tags.jsonl").stat().st_size
    await registry.resolve(fresh(tags(2, 1)), T0 + 5)
    assert (tmp_path / "tags.jsonl").stat().st_size == size


async def test_versions_never_overlap_when_the_clock_is_set_back(tmp_path):
    registry = await open_registry(tmp_path)
    [one] = fresh(tags(1))
    await registry.resolve([one], T0)
    await registry.resolve([replace(one, unit="Cel")], T0 - 100)
    await registry.resolve([], T0 - 200)
    spans = [(version.valid_from_us, version.valid_to_us) for version in registry.history()]
    assert spans == [(T0, T0), (T0, T0)]


async def test_a_path_named_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        await (await open_registry(tmp_path)).resolve(fresh(tags(1, 1)), T0)


async def test_a_torn_tail_costs_only_what_was_not_acknowledged(tmp_path):
    registry = await open_registry(tmp_path)
    await registry.resolve(fresh(tags(1, 2)), T0)
    whole = (tmp_path / "tags.jsonl").read_bytes()
    await registry.resolve(fresh(tags(1, 2, 3)), T0)
    torn = (tmp_path / "tags.jsonl").read_bytes()
    for cut in range(len(whole), len(torn)):
        (tmp_path / "tags.jsonl").write_bytes(torn[:cut])
        again = await open_registry(tmp_path)
        resolved = await again.resolve(fresh(tags(1, 2, 3)), T0)
        assert [tag.id for tag in resolved][:2] == [0, 1]
        assert resolved[2].id >= 2
        assert len(await open_registry(tmp_path)) == len(again)


async def test_damage_never_lets_an_id_be_given_to_another_tag(tmp_path):
    registry = await open_registry(tmp_path)
    given_ = {tag.path: tag.id for tag in await registry.resolve(fresh(tags(1, 2, 3)), T0)}
    path = tmp_path / "tags.jsonl"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        again = await open_registry(tmp_path)
        resolved = {tag.path: tag.id for tag in await again.resolve(fresh(tags(1, 2, 3, 4)), T0)}
        kept = {path_ for path_, id_ in given_.items() if resolved[path_] == id_}
        assert len(kept) >= 1
        assert not ({resolved[path_] for path_ in resolved if path_ not in kept} & set(given_.values()))
        assert len(again) > max(resolved.values())
        assert [tag.id for tag in again] == list(range(len(again)))
    assert list((tmp_path / "quarantine").glob("tags-*.bad"))


async def test_a_failing_disk_changes_nothing_and_the_next_try_works(tmp_path):
    class Failing(DiskStorage):
        broken = False

        def fdatasync(self, fd: int) -> None:
            if self.broken:
                raise OSError(errno.ENOSPC, "no space")
            super().fdatasync(fd)

    disk = Failing()
    registry = await open_registry(tmp_path, disk)
    await registry.resolve(fresh(tags(1)), T0)
    disk.broken = True
    with pytest.raises(OSError, match="no space"):
        await registry.resolve(fresh(tags(1, 2, 3)), T0)
    assert len(registry) == 1
    disk.broken = False
    assert [tag.id for tag in await registry.resolve(fresh(tags(1, 4)), T0)] == [0, 1]
    again = await open_registry(tmp_path)
    assert [tag.name for tag in again] == ["t1", "t4"]


async def test_ten_thousand_tags_are_registered_and_read_back_in_well_under_a_second(tmp_path):
    many = fresh(tags(*range(10_000)))
    registry = await open_registry(tmp_path)
    began = time.perf_counter()
    resolved = await registry.resolve(many, T0)
    took = time.perf_counter() - began
    assert [tag.id for tag in resolved] == list(range(10_000))
    began = time.perf_counter()
    again = await open_registry(tmp_path)
    reading = time.perf_counter() - began
    assert again[9_999].name == "t9999"
    assert took < 3.0  # 0.4 s on an idle machine; this guards the order of growth
    assert reading < 3.0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["1", "Cel"])), unique_by=lambda one: one[0]), max_size=8
    )
)
async def test_the_file_says_what_memory_says_after_any_history(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("registry")
    registry = await open_registry(directory)
    known: dict[str, int] = {}
    for number, step in enumerate(steps):
        for tag in await registry.resolve([replace(make_tag(n, unit=unit), id=-1) for n, unit in step], T0 + number):
            assert known.setdefault(tag.path, tag.id) == tag.id
    again = await open_registry(directory)
    assert list(again.history()) == list(registry.history())
    assert len(set(known.values())) == len(known) == len(again)
