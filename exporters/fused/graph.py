"""An ONNX graph in the making; large weights go straight into the data file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
_PAGE = 4096  # weights begin on pages, so that the runtime can map them
_INLINE_BYTES = 1024
Shape = Sequence[str | int]


class Graph:
    """Nodes in the order they are added. Use as a context: the data file is open until the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data_path = path.with_name(path.name + ".data")
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._data: BinaryIO

    def __enter__(self) -> Graph:
        self._data = self._data_path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Shape) -> None:
        """Declare an fp32 output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def node(self, operator: str, inputs: Sequence[str], name: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.nodes(operator, inputs, name, [output or f"{name}/output"], **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[str], name: str, outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Add a node with several outputs; returns ``outputs``."""
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Add an array once: a later call with the same name refers to the first. Returns the name."""
        if name not in self._initializers:
            is_small = array.nbytes < _INLINE_BYTES
            self._initializers[name] = numpy_helper.from_array(array, name) if is_small else self._external(name, array)
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add a vector of int64; returns its name."""
        return self.weight(name, np.array(values, np.int64))

    def save(self) -> None:
        """Write the graph; the weights are there already."""
        graph = helper.make_graph(
            self._nodes, "decoder", self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), self._path)

    def _external(self, name: str, array: NDArray[Any]) -> TensorProto:
        self._data.write(b"\0" * (-self._data.tell() % _PAGE))
        place = {"location": self._data_path.name, "offset": self._data.tell(), "length": array.nbytes}
        self._data.write(np.ascontiguousarray(array).data)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor
