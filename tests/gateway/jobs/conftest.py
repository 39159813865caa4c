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
    with sparks.session("local[2]", {"spark.driver.memory": "1g"}) as made:
        yield made
