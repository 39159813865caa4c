"""Small ONNX files for tests, made with the `onnx` package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def constant(name: str, value: object, dtype: type = np.float32) -> Any:
    """A constant of a graph."""
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Sequence[Any] = (),
    *,
    opset: int = 17,
    metadata: Mapping[str, object] | None = None,
    change: Callable[[Any], None] | None = None,
) -> Path:
    """Write a graph; `metadata` values that are no text become JSON."""
    graph = helper.make_graph(
        list(nodes), "test",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in outputs.items()],
        list(constants),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for name, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    if change is not None:
        change(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def mean_graph(path: Path, window: int | str = 3, inputs: int | str = 2, *, level: float = 22.0, **options: Any) -> Path:
    """`score`: how far the mean of the window is above `level`, through a sigmoid; `mean`: that mean."""
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["averaged"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["averaged", "column"], ["mean"]),
        helper.make_node("Sub", ["mean", "level"], ["above"]),
        helper.make_node("Sigmoid", ["above"], ["score"]),
    ]
    return save(
        path, nodes, {"rows": (FLOAT, ["batch", window, inputs])}, {"score": (FLOAT, ["batch", 1]), "mean": (FLOAT, ["batch", 1])},
        [constant("column", [-1, 1], np.int64), constant("level", level)], **options,
    )  # fmt: skip


def slow_graph(path: Path, turns: int, inputs: int = 2) -> Path:
    """A graph that multiplies a matrix `turns` times with itself before it answers 0.25."""
    rng = np.random.default_rng(0)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "matrix"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", FLOAT, [300, 300]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", FLOAT, [300, 300])],
    )
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["some"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["some", "one"], ["seed"]),
        helper.make_node("Add", ["matrix", "seed"], ["begin"]),
        helper.make_node("Loop", ["turns", "", "begin"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["total"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "quarter"], ["flat"]),
        helper.make_node("Reshape", ["flat", "column"], ["score"]),
    ]
    return save(
        path, nodes, {"rows": (FLOAT, ["batch", 1, inputs])}, {"score": (FLOAT, [1, 1])},
        [
            constant("matrix", rng.normal(0, 0.01, (300, 300))), constant("turns", turns, np.int64), constant("zero", 0.0),
            constant("quarter", 0.25), constant("column", [1, 1], np.int64), constant("one", [1, 1], np.int64),
        ],
    )  # fmt: skip


def greedy_graph(path: Path, megabytes: int, inputs: int = 2) -> Path:
    """A graph that fills so much memory before it answers 0.25."""
    nodes = [
        helper.make_node("ReduceMean", ["rows"], ["some"], axes=[1, 2], keepdims=0),
        helper.make_node("Expand", ["some", "shape"], ["much"]),
        helper.make_node("Exp", ["much"], ["more"]),
        helper.make_node("ReduceMax", ["more"], ["most"], axes=[0], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "quarter"], ["flat"]),
        helper.make_node("Reshape", ["flat", "column"], ["score"]),
    ]
    return save(
        path, nodes, {"rows": (FLOAT, ["batch", 1, inputs])}, {"score": (FLOAT, [1, 1])},
        [
            constant("shape", [megabytes * 250_000], np.int64), constant("zero", 0.0), constant("quarter", 0.25),
            constant("column", [1, 1], np.int64),
        ],
    )  # fmt: skip
