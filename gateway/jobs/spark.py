"""A Spark session for the lake's jobs, and the few things that all of them do with it. pyspark is an extra and imported when called."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Work = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
_SHIPPED: Final = ("schemas", "edge_models", "cloud_sinks")
"""What runs on executors. The gateway itself stays on the driver."""
_TASKS: Final = 10_000
_TYPES: Final = {"int32": "int", "int64": "long", "double": "double", "string": "string"}
_COMMON: Final = {
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    # Equal settings give equal partitions; what a model sees must not hang on how large they turned out.
    "spark.sql.adaptive.enabled": "false",
}
_LOCAL: Final = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.showConsoleProgress": "false",
}


@contextmanager
def session(master: str, settings: Mapping[str, str] | None = None) -> Iterator[SparkSession]:
    """A session on `master`; one that runs already in this process is used and left running.

    On another machine's executors our packages are sent along (`--py-files`); numpy, pyarrow and pydantic must be there.
    `settings` are Spark's own and win. Raises ConfigError where pyspark, Java or the master is missing.
    """
    try:
        from pyspark.errors import PySparkException, PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError("pyspark is not installed", hint="pip install 'genba[spark]', and Java 17 or later") from error
    from py4j.protocol import Py4JError, Py4JJavaError

    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    local = master.startswith("local")
    if not os.environ.get("JAVA_HOME") and shutil.which("java") is None:
        raise ConfigError("Spark needs Java 17 or later, and there is no `java`", hint="apt-get install openjdk-17-jre-headless")
    if local:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(master).appName("genba")
    for name, value in {**_COMMON, **(_LOCAL if local else {}), **(settings or {})}.items():
        builder = builder.config(name, value)
    try:
        made = builder.getOrCreate()
    except (PySparkException, PySparkRuntimeError, Py4JJavaError, Py4JError) as error:
        first = str(getattr(error, "java_exception", None) or error).strip().splitlines()[0]
        raise ConfigError(
            f"Spark does not start on {master}: {first}", hint="a master is local[4], spark://host:7077, yarn or k8s://…"
        ) from error
    made.sparkContext.setLogLevel("ERROR")
    try:
        if local:
            yield made
        else:
            with tempfile.TemporaryDirectory(prefix="genba-spark-") as directory:
                made.sparkContext.addPyFile(str(package(Path(directory) / "genba_lake.zip")))
                yield made
    finally:
        made.stop()


def package(path: Path) -> Path:
    """A zip of what executors need of us, for `--py-files`."""
    import importlib

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _SHIPPED:
            (root,) = importlib.import_module(name).__path__
            for file in sorted(Path(root).rglob("*.py")):
                archive.write(file, Path(name) / file.relative_to(root))
    return path


def each(
    spark: SparkSession, work: Callable[[Any], Iterator[pa.RecordBatch]], tasks: Sequence[Any], schema: pa.Schema
) -> DataFrame:
    """`work(task)` for every task, somewhere; its batches, of `schema`, as a DataFrame in no order. The driver sends numbers, not rows."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from work(tasks[number])

    return mapped(spark.range(0, len(tasks), 1, max(1, min(len(tasks), _TASKS))), run, schema)


def mapped(frame: DataFrame, work: Work, schema: pa.Schema) -> DataFrame:
    """`mapInArrow`: Arrow batches of a partition in, Arrow batches of `schema` out."""
    with warnings.catch_warnings():
        # mapInArrow asks for pandas, which it does not use, and warns of its version.
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
        return frame.mapInArrow(work, ", ".join(f"`{field.name}` {_TYPES[str(field.type)]}" for field in schema))


@contextmanager
def explained() -> Iterator[None]:
    """Turns the failure of a task into the error that the task raised, without Java's trace around it."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        own = [line for line in said if line.startswith(("schemas.errors.", "ValueError:", "OSError:", "FileNotFoundError:"))]
        missing = [line for line in said if line.startswith("ModuleNotFoundError:")]
        if missing:
            raise ConfigError(
                f"Spark's executors lack a package: {missing[-1].partition(': ')[2]}",
                hint="their Python needs numpy, pyarrow, pydantic and polars, for a bucket boto3; see docs/spark.md",
            ) from error
        if own:
            raise ConfigError(own[-1].partition(": ")[2]) from error
        raise
