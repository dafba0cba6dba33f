"""Graph pass: MatMul -> MatMulIntegerToFloat (ONNX Runtime's ContribOperators.md) on activations of a fixed scale.

Weights and activations are integers, so the kernel multiplies integers, and a row more costs little. The scale of the
activations is that of the calibration rows, not of the call: what stands beside a row does not change it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedsl.exporters.calibration import Inputs

# Without VNNI the kernel adds two products in 16 bits: 255 * 64 * 2 still fits, 255 * 127 * 2 would be cut off.
MAX_CODE = 64
MAX_NOISE = 0.004  # of a product; what is above stays with weights of 8 bits and exact activations
_TOP = 255


def quantize_products(model: onnx.ModelProto, inputs_of: Mapping[str, Inputs], max_noise: float = MAX_NOISE) -> None:
    """Quantise every product with a weight whose inputs are known, in place.

    Args:
        model: fp32 graph with all weights inside.
        inputs_of: node name -> its inputs on calibration rows.
        max_noise: a product that would lose more by :func:`noise` is left as it is.
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _quantized(graph, node, weights, inputs_of, max_noise)
    del graph.node[:]
    graph.node.extend(nodes)


def quantize_columns(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes int8 [inputs, outputs] from -64 to 64, and scales fp32 [outputs], of a weight [inputs, outputs]."""
    scales = np.maximum(np.abs(matrix).max(0), np.float32(1e-10)) / np.float32(MAX_CODE)
    return np.rint(matrix / scales).astype(np.int8), scales.astype(np.float32)


def activation_scale(inputs: Inputs) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of activations in these ranges, with 0 among them."""
    low, high = min(float(inputs.low.min()), 0.0), max(float(inputs.high.max()), 0.0)
    scale = max((high - low) / _TOP, 1e-10)
    return np.float32(scale), np.uint8(round(-low / scale))


def noise(matrix: NDArray[np.float32], inputs: Inputs) -> float:
    """Expected square of the product's rounding error as a share of the product's: both sides round evenly.

    Args:
        matrix: fp32 [inputs, outputs].
        inputs: on calibration rows; their channels are taken as independent.
    """
    scale, _ = activation_scale(inputs)
    column_scales = np.abs(matrix).max(0) / MAX_CODE
    energy = np.square(matrix).sum(1)
    mean_square = inputs.mean_square.numpy()
    lost = scale**2 * energy.sum() + mean_square.sum() * np.square(column_scales).sum()
    return float(lost / 12 / max(mean_square @ energy, 1e-30))


def _quantized(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    weights: Mapping[str, onnx.TensorProto],
    inputs_of: Mapping[str, Inputs],
    max_noise: float,
) -> list[onnx.NodeProto]:
    """The nodes in place of one."""
    if node.op_type != "MatMul" or node.input[1] not in weights or node.name not in inputs_of:
        return [node]
    matrix = numpy_helper.to_array(weights[node.input[1]])
    if noise(matrix, inputs_of[node.name]) > max_noise:
        return [node]
    return _integer_product(graph, node, matrix, inputs_of[node.name])


def _integer_product(
    graph: onnx.GraphProto, node: onnx.NodeProto, matrix: NDArray[np.float32], inputs: Inputs
) -> list[onnx.NodeProto]:
    codes, scales = quantize_columns(matrix)
    scale, zero_point = activation_scale(inputs)
    arrays = {
        f"{node.name}.weight.codes": codes,
        f"{node.name}.weight.scales": scales,
        f"{node.name}.input.scale": np.array(scale),
        f"{node.name}.input.zero_point": np.array(zero_point),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    code_name, scales_name, scale_name, zero_name = arrays
    quantized = f"{node.name}.input.codes"
    return [
        helper.make_node(
            "QuantizeLinear", [node.input[0], scale_name, zero_name], [quantized], name=f"{node.name}/QuantizeLinear"
        ),
        helper.make_node(
            "MatMulIntegerToFloat", [quantized, code_name, scale_name, scales_name, zero_name], list(node.output),
            name=node.name, domain="com.microsoft",
        ),
    ]  # fmt: skip
