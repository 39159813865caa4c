"""Builds ONNX graphs from trained parts: features of a window, trees, layers. Needs `onnx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

OPSET: Final = 15
_IR: Final = 8
_ML: Final = 3


class Graph:
    """Nodes in order, with constants; a name is what a node gives."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._count = 0

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        """A constant; its name."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output; its name."""
        from onnx import helper

        given = name or self._name(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [given], **attributes))
        return given

    def layers(self, value: str, weights: Sequence[npt.NDArray[Any]], biases: Sequence[npt.NDArray[Any]]) -> str:
        """A multi-layer perceptron with ReLU between its layers."""
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            value = self.add("Add", self.add("MatMul", value, self.constant(weight)), self.constant(bias))
            if number < len(weights) - 1:
                value = self.add("Relu", value)
        return value

    def trees(self, value: str, model: Any) -> str:
        """Boosted trees of scikit-learn (HistGradientBoosting…) over numbers: their prediction `[n, 1]`, of a classifier the probability of its
        second class.

        Written here because skl2onnx 1.20 gives onnx 1.23 numbers that it does not take. `_predictors` is what skl2onnx reads, too.
        """
        from sklearn.base import is_classifier

        trees = [tree.nodes for (tree,) in model._predictors]
        nodes = np.concatenate(trees)
        number = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
        place = np.concatenate([np.arange(len(tree)) for tree in trees])
        leaf = nodes["is_leaf"].astype(bool)
        single = nodes["num_threshold"].astype(np.float32)
        # A value in single precision is below the threshold in double precision when it is below the next one in single precision.
        threshold = np.where(single > nodes["num_threshold"], np.nextafter(single, np.float32(-np.inf)), single)
        found = self.add(
            "TreeEnsembleRegressor", value, domain="ai.onnx.ml", n_targets=1, base_values=[float(model._baseline_prediction[0, 0])],
            nodes_treeids=number.tolist(), nodes_nodeids=place.tolist(),
            nodes_modes=["LEAF" if one else "BRANCH_LEQ" for one in leaf.tolist()],
            nodes_featureids=np.where(leaf, 0, nodes["feature_idx"]).tolist(), nodes_values=np.where(leaf, 0.0, threshold).tolist(),
            nodes_truenodeids=nodes["left"].tolist(), nodes_falsenodeids=nodes["right"].tolist(),
            nodes_missing_value_tracks_true=nodes["missing_go_to_left"].tolist(),
            target_treeids=number[leaf].tolist(), target_nodeids=place[leaf].tolist(), target_ids=[0] * int(leaf.sum()),
            target_weights=nodes["value"][leaf].tolist(),
        )  # fmt: skip
        return self.add("Sigmoid", found) if is_classifier(model) else found

    def bytes(self, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
        """The file: inputs by name with the shape of one row, outputs by name with their width. Raises onnx's errors for a bad graph."""
        import onnx
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self._nodes, "genba",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in outputs.items()],
            self._constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="genba")
        for name, text in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = name, text
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"
