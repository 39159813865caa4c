"""A model over a lake: what the gateway's models said live, bit for bit, once each, whichever way the work is cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_sinks import lake
from cloud_sinks.jobs import Lake, Wanted
from edge_models.base import ModelConfig
from gateway.jobs import lake_features
from gateway.jobs.lake_score import score
from gateway.jobs.score import configure
from gateway.jobs.score_plan import RECORD, Request, plan_of, tags_of
from schemas.errors import ConfigError
from schemas.lake import COLUMNS, LakeFile, features_path
from schemas.values import Duration
from tests.cloud_sinks.aws_rig import KEY, SECRET, moto
from tests.gateway.jobs.plant import START_US, Fans, Plant, bits

GATED = ["warm_up=30s", "active_when=mode == run"]
MODELS = {
    "drift": ("drift", ["warm_up=30s"]),
    "gated": ("drift", GATED),
    "forecast_residual": ("forecast_residual", ["warm_up=30s"]),
    "stuck": ("stuck", ["warm_up=60s"]),
    "limits": ("limits", []),
}


@pytest.fixture(scope="module")
def plants() -> list[Plant]:
    return [Plant("osaka", "gw-1"), Plant("kyoto", "gw-2", seed=1, polls=700)]


@pytest.fixture(scope="module")
def root(plants: list[Plant], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plant") / "lake"
    for plant in plants:
        plant.write(root)
    return root


def config_of(name: str) -> ModelConfig:
    return configure(*MODELS[name])


def live(plants: list[Plant], config: ModelConfig) -> pl.DataFrame:
    return pl.concat([plant.scores(config) for plant in plants]).sort("gateway", "seq", "alarm", "time", "tag")


@pytest.mark.parametrize(("name", "rows"), [*((name, 3_000) for name in MODELS), ("gated", 4_000_000)])
def test_scores_of_the_lake_are_those_of_the_gateway_bit_for_bit(
    plants: list[Plant], root: Path, tmp_path: Path, name: str, rows: int
) -> None:
    config = config_of(name)
    expected = live(plants, config)
    summary = score(Request(Lake(str(root)), config), str(tmp_path / "scores.parquet"), rows=rows)
    found = pl.read_parquet(tmp_path / "scores.parquet")
    assert bits(found).equals(expected)
    assert summary.rows == expected.height > 200
    assert summary.scored > 150
    assert summary.abnormal > 0
    for _, one in found.group_by("gateway"):
        assert one["row"].to_list() == [*range(one.height)]
    assert found.columns == [column.name for column in COLUMNS["score"]]


def test_waveforms_of_the_lake_are_scored_as_they_were_live(tmp_path: Path) -> None:
    fans = Fans()
    fans.write(tmp_path / "lake", span_rows=100)
    settings = [
        "sample_rate=2560",
        "speed=speed",
        "orders={BPFO: 3.6}",
        "zones=[0.1, 0.2, 9]",
        "warm_up=5m",
        "bands=[[10, 1000]]",
    ]
    config = configure("vibration", settings)
    summary = score(Request(Lake(str(tmp_path / "lake")), config), str(tmp_path / "scores.parquet"))
    assert bits(pl.read_parquet(tmp_path / "scores.parquet")).equals(fans.scores(config))
    assert summary.scored > 200
    assert summary.abnormal > 0
    with pytest.raises(ConfigError, match="Spark carries no waveforms"):
        score(Request(Lake(str(tmp_path / "lake")), config), str(tmp_path / "spark"), spark=object())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plant]:
    plant = Plant("osaka", "gw-1", polls=700)
    root = tmp_path_factory.mktemp("small") / "lake"
    plant.write(root)
    return root, plant


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_as_a_lake_each_row_is_there_once_and_a_repeated_run_changes_nothing(small: tuple[Path, Plant], tmp_path: Path) -> None:
    root, plant = small
    config = config_of("drift")
    out = tmp_path / "scores"
    request = Request(Lake(str(root)), config)
    summary = score(request, str(out), result=Lake(str(out)))
    found = lake.scan(out, kind="score").collect()
    assert bits(found).equals(plant.scores(config))
    assert sorted(found["row"].to_list()) == [*range(found.height)]
    assert len(summary.files) == len({path.split("/")[2] for path in summary.files}) == 2  # the rows cross midnight
    assert [LakeFile.parse(path).span.kind for path in summary.files] == ["score"] * 2
    assert lake.tags(out).equals(lake.tags(root))
    assert lake.scan(out, kind="score", tags="**/motor_temp").collect().height == found["tag"].str.ends_with("motor_temp").sum()

    before = files_of(out)
    assert not [path for path in before if ".tmp" in path]
    (out / summary.files[0]).unlink()  # as if killed between the two files
    again = score(request, str(out), result=Lake(str(out)))
    assert again == summary
    assert files_of(out) == before


def test_a_run_that_is_repeated_covers_what_it_covered_although_the_lake_has_grown(tmp_path: Path) -> None:
    config, out = config_of("drift"), tmp_path / "scores"
    plant = Plant("osaka", "gw-1", polls=700)
    plant.rows -= plant.batches[-1].num_rows + plant.batches[-2].num_rows
    plant.write(tmp_path / "lake", span_rows=plant.rows)
    request = Request(Lake(str(tmp_path / "lake")), config)
    first = score(request, str(out), result=Lake(str(out)))
    before = files_of(out)
    shutil.rmtree(tmp_path / "lake")
    Plant("osaka", "gw-1", polls=700).write(tmp_path / "lake")
    assert score(request, str(out), result=Lake(str(out))) == first
    assert files_of(out) == before
    fresh = score(request, str(tmp_path / "other"), result=Lake(str(tmp_path / "other")))
    assert fresh.rows > first.rows


def test_a_location_holds_the_scores_of_one_run(small: tuple[Path, Plant], tmp_path: Path) -> None:
    root, _ = small
    out = Lake(str(tmp_path / "scores"))
    score(Request(Lake(str(root)), config_of("drift")), out.location, result=out)
    with pytest.raises(ConfigError, match="holds the scores of another run: parameters"):
        score(Request(Lake(str(root)), configure("drift", ["threshold=9"])), out.location, result=out)
    with pytest.raises(ConfigError, match="cannot lie among a gateway's own"):
        score(Request(Lake(str(root)), config_of("drift")), str(root), result=Lake(str(root)))
    assert (tmp_path / "scores" / RECORD).is_file()
    assert not (root / RECORD).exists()


def test_only_what_was_asked_for(small: tuple[Path, Plant], tmp_path: Path) -> None:
    root, plant = small
    config = configure("drift", ["warm_up=30s"]).model_copy(update={"tags": ("**/motor_temp",)})
    begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START_US)
    request = Request(Lake(str(root)), config, start=begin + timedelta(minutes=1), end=begin + timedelta(minutes=9))
    summary = score(request, str(tmp_path / "s.parquet"))
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert summary.tags == 3
    assert found["tag"].str.ends_with("motor_temp").all()
    assert found["time"].min() == request.start
    assert found["time"].max() == begin + timedelta(minutes=9) - timedelta(seconds=1)
    # The control: the model began later than the gateway's, so its scores are others.
    live = plant.scores(config).filter(pl.col("time").is_between(found["time"].min(), found["time"].max()))
    assert bits(found)["score"].ne_missing(live["score"]).any()
    for changes, says in (
        ({"config": config.model_copy(update={"tags": ("**/nothing",)})}, "no tag of the lake fits"),
        ({"start": datetime(2030, 1, 1, tzinfo=UTC), "end": None}, "no telemetry of that time"),
        ({"config": configure("drift", ["active_when=speed > 3"])}, "has no tag 'speed'"),
        ({"config": configure("drift", ["active_when=mode == off"])}, "is never 'off'"),
    ):
        with pytest.raises(ConfigError, match=says):
            score(Request(**{"lake": request.lake, "config": config, **changes}), str(tmp_path / "x.parquet"))  # type: ignore[arg-type]


def test_tags_come_from_the_data_dictionary(small: tuple[Path, Plant]) -> None:
    root, plant = small
    found = {tag.path: tag for tag in tags_of(Lake(str(root)))}
    for tag in plant.tags:
        there = found[tag.path]
        assert (there.asset, there.unit, there.period_us, there.limits, there.value_type) == (
            tag.asset, tag.unit, tag.period_us, tag.limits, tag.value_type,
        )  # fmt: skip
    shutil.copytree(root, root.parent / "bare", ignore=shutil.ignore_patterns("tags"))
    with pytest.raises(ConfigError, match="no data dictionary of gw-1"):
        score(Request(Lake(str(root.parent / "bare")), config_of("drift")), str(root.parent / "x.parquet"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """An empty bucket. rclone answers 200 to a range that is the whole object, which polars refuses."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with moto() as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="ap-northeast-1")
        client.create_bucket(Bucket="plant", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
        client.close()
        yield Lake("s3://plant/lake", "ap-northeast-1", endpoint)


def test_a_lake_in_a_bucket_gives_what_the_same_directory_gives(small: tuple[Path, Plant], bucket: Lake, tmp_path: Path) -> None:
    root, _ = small
    client = boto3.client("s3", endpoint_url=bucket.endpoint, region_name=bucket.region)
    for name, data in files_of(root).items():
        client.put_object(Bucket="plant", Key=f"lake/{name}", Body=data)
    client.close()
    here, config = Lake(str(root)), config_of("gated")
    wanted = [make_wanted(Request(lake_, config)) for lake_ in (here, bucket)]
    assert [file for file, _ in wanted[0]] == [file for file, _ in wanted[1]]
    for (file, mine), (_, theirs) in zip(*wanted, strict=True):  # as executors read them
        assert pa.Table.from_batches(theirs.read(file)) == pa.Table.from_batches(mine.read(file))

    out = Lake("s3://plant/scores", bucket.region, bucket.endpoint)
    local = Lake(str(tmp_path / "scores"))
    summary = score(Request(here, config), local.location, result=local)
    assert score(Request(bucket, config), out.location, result=out) == summary
    assert score(Request(bucket, config), out.location, result=out) == summary
    found = lake.scan(out.location, kind="score", **out.access).collect()
    assert bits(found).equals(bits(lake.scan(local.location, kind="score").collect()))
    assert lake_features.make(bucket, Duration("1m"), result=out).made == 2
    assert lake_features.make(bucket, Duration("1m"), result=out).made == 0
    lake_features.make(here, Duration("1m"), result=local)
    path = features_path("1m", "osaka", date(2026, 3, 1))
    with out.opened(path) as source:
        assert pq.read_table(source) == pq.read_table(tmp_path / "scores" / path, partitioning=None)


def make_wanted(request: Request) -> list[tuple[LakeFile, Wanted]]:
    plan = plan_of(request)
    return [(file, plan.wanted([0] * len(plan.replay.tags))) for file in plan.files]
