"""One Spark session for all tests of a process: it takes ten seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from gateway.jobs import spark as sparks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    settings = {
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # it lives too short to be worth optimising
        "spark.sql.shuffle.partitions": "2",
    }
    with sparks.session("local[2]", settings) as made:
        yield made
