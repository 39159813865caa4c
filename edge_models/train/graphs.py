"""Builds ONNX graphs from trained parts: features of a window, trees, layers. Needs `onnx` and, for trees, `onnxmltools`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

OPSET: Final = 15  # the newest that onnxmltools converts LightGBM to
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

    def trees(self, value: str, booster: Any, columns: int) -> str:
        """A LightGBM booster: its raw output, or for a classifier the probability of class 1, `[n, 1]`."""
        from onnx import TensorProto
        from onnxmltools.convert import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        made = convert_lightgbm(
            booster, initial_types=[("input", FloatTensorType([None, columns]))], target_opset=OPSET, zipmap=False
        )
        prefix = self._name("trees") + "/"
        for node in made.graph.node:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = self._name(prefix)  # the converter gives some no name
            del copy.input[:], copy.output[:]
            copy.input.extend([value if name == "input" else prefix + name if name else "" for name in node.input])
            copy.output.extend([prefix + name for name in node.output])
            self._nodes.append(copy)
        for tensor in made.graph.initializer:
            constant = type(tensor)()
            constant.CopyFrom(tensor)
            constant.name = prefix + tensor.name
            self._constants.append(constant)
        numbers = [one.name for one in made.graph.output if one.type.tensor_type.elem_type == TensorProto.FLOAT]
        output: str = prefix + numbers[-1]
        if len(made.graph.output) == 1:
            return output
        return self.add("Gather", output, self.constant([1], np.int64), axis=1)

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
