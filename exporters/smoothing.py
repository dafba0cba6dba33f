"""SmoothQuant (Xiao et al., arXiv 2211.10438) on the fused graph.

A few channels of a layer's inputs are far wider than the others. Each channel is divided by a scale where the inputs
are made, and the weights that read it are multiplied by it: the product stays the same, and inputs of one scale for all
channels round better. How much of the spread goes into the weights is searched for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from edgedsl.exporters.calibration import Inputs

ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)  # 0: as they are; 1 would make all channels equally wide
_LEAST = 1e-5
_NORMS = ("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization")
Array = NDArray[np.float32]
Loss = Callable[[Array, Inputs], float]


def smooth(model: onnx.ModelProto, inputs_of: Mapping[str, Inputs], loss: Loss) -> dict[str, Inputs]:
    """Fold scales into the weights of a fused fp32 graph, in place.

    Args:
        model: all weights inside; what it computes stays the same but for rounding.
        inputs_of: node name -> its inputs on calibration rows.
        loss: what rounding a weight [inputs, outputs] and its inputs costs.

    Returns:
        The inputs after it.
    """
    return _Smoothing(model.graph, loss).run(inputs_of)


@dataclass(frozen=True)
class _Source:
    """Where the inputs of a product are made: columns of a weight (and bias), one for each channel or for several.

    Attributes:
        names: of the weight whose last axis holds the channels, and of a bias.
        columns: of that axis.
        repeats: channels in a row of groups that read the same columns: query heads of one key-value head.
        width: of a group.
    """

    names: tuple[str, ...]
    columns: slice
    repeats: int = 1
    width: int = 1

    def shared(self, widths: Array) -> Array:
        """Widths by channel [channels] -> by column."""
        shared: Array = widths.reshape(-1, self.repeats, self.width).max(1).reshape(-1)
        return shared

    def spread(self, scales: Array) -> Array:
        """Scales by column -> by channel."""
        return np.repeat(scales.reshape(-1, 1, self.width), self.repeats, 1).reshape(-1)


def _scales(inputs: Array, weights: Array, alpha: float) -> Array:
    """By the widths of both sides."""
    if alpha == 0.0:
        return np.ones_like(inputs)
    scales: Array = inputs ** np.float32(alpha) / weights ** np.float32(1 - alpha)
    return scales


def _smoothed(matrix: Array, inputs: Inputs, scales: Array) -> tuple[Array, Inputs]:
    return matrix * scales[:, None], inputs.divided(torch.from_numpy(scales))


class _Smoothing:
    def __init__(self, graph: onnx.GraphProto, loss: Loss) -> None:
        self.graph = graph
        self.loss = loss
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.num_readers: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self.num_readers[name] = self.num_readers.get(name, 0) + 1

    def run(self, inputs_of: Mapping[str, Inputs]) -> dict[str, Inputs]:
        found = dict(inputs_of)
        # Backwards: a fold changes the columns of the weight before it, which is then searched as it will be.
        for node in reversed(self.graph.node):
            if node.op_type == "MatMul" and node.input[1] in self.weights and node.name in inputs_of:
                source = next(self._sources(node), None)
                if source:
                    found[node.name] = self._fold(node, source, inputs_of[node.name])
        return found

    def _fold(self, node: onnx.NodeProto, source: _Source, inputs: Inputs) -> Inputs:
        matrix = self._array(node.input[1])
        widths = np.maximum(source.shared(inputs.widths.numpy()), _LEAST)
        weights = np.maximum(source.shared(np.abs(matrix).max(1)), _LEAST)
        candidates = [_scales(widths, weights, alpha) for alpha in ALPHAS]
        # One at a time: a head with its copies would not fit into a small machine's memory.
        best = min(candidates, key=lambda scales: self.loss(*_smoothed(matrix, inputs, source.spread(scales))))
        for name in source.names:
            array = self._array(name)
            array[..., source.columns] /= best
            self._replace(name, array)
        smoothed, inputs = _smoothed(matrix, inputs, source.spread(best))
        self._replace(node.input[1], smoothed)
        return inputs

    def _sources(self, node: onnx.NodeProto) -> Iterator[_Source]:
        """Nothing where the inputs come out of what cannot take a factor for each channel."""
        value = node.input[0]
        maker = self.makers[value]
        if maker.op_type == "Slice":  # of the last positions
            value = maker.input[0]
            maker = self.makers[value]
        if maker.op_type in _NORMS and self.num_readers[value] == 1:
            yield _Source((maker.input[2 if maker.op_type == _NORMS[0] else 1],), slice(None))
        elif maker.op_type == "Mul" and node.name.endswith("/down_proj/MatMul"):
            yield self._packed(node.name.replace("/down_proj/", "/gate_up_proj/"), 2)
        elif maker.op_type == "GroupQueryAttention":
            heads = {item.name: item.i for item in maker.attribute}
            num_heads, num_kv_heads = heads["num_heads"], heads["kv_num_heads"]
            width = self.weights[node.input[1]].dims[0] // num_heads
            name = node.name.replace("/o_proj/", "/qkv_proj/")
            yield self._packed(name, num_heads // num_kv_heads + 2, num_heads // num_kv_heads, width)

    def _packed(self, name: str, num_parts: int, repeats: int = 1, width: int = 1) -> _Source:
        """The last of ``num_parts`` equally wide parts of a packed projection."""
        node = next(node for node in self.graph.node if node.name == name)
        adders = [
            other.input[1] for other in self.graph.node if node.output[0] in other.input and other.op_type == "Add"
        ]
        columns = self.weights[node.input[1]].dims[1]
        return _Source((node.input[1], *adders), slice(columns - columns // num_parts, columns), repeats, width)

    def _array(self, name: str) -> Array:
        array: Array = numpy_helper.to_array(self.weights[name]).copy()
        return array

    def _replace(self, name: str, array: Array) -> None:
        self.weights[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
