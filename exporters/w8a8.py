"""Graph pass: MatMul -> MatMulIntegerToFloat (ONNX Runtime's ContribOperators.md) on activations of a fixed scale.

Weights and activations are integers, so the kernel multiplies integers, and a row more costs little. The scale of the
activations is that of the calibration rows, not of the call: what stands beside a row does not change it.

A few input channels far wider than the others would make the steps coarse for all. Where they lose too much, they are
multiplied apart, in fp32 (as LLM.int8() does, Dettmers et al., arXiv 2208.07339, with channels that are fixed here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedsl.exporters.calibration import Inputs

# Without VNNI the kernel adds two products in 16 bits: 255 * 64 * 2 still fits, 255 * 127 * 2 would be cut off.
MAX_CODE = 64
MAX_NOISE = 0.004  # of a product; what is above stays with weights of 8 bits and exact activations
NUM_WIDE = (0, 4, 8, 16, 32)  # input channels that may be multiplied apart, ascending
_TOP = 255
Channels = NDArray[np.intp]


def quantize_products(model: onnx.ModelProto, inputs_of: Mapping[str, Inputs], max_noise: float = MAX_NOISE) -> None:
    """Quantise every product with a weight whose inputs are known, in place.

    Args:
        model: fp32 graph with all weights inside.
        inputs_of: node name -> its inputs on calibration rows.
        max_noise: a product that would lose more by :func:`noise`, whatever is kept apart, is left as it is.
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


def noise(matrix: NDArray[np.float32], inputs: Inputs, num_wide: int = 0) -> float:
    """Expected square of the product's rounding error as a share of the product's: both sides round evenly.

    Args:
        matrix: fp32 [inputs, outputs].
        inputs: on calibration rows; their channels are taken as independent.
        num_wide: how many of the widest channels lose nothing.
    """
    rounded = np.ones(len(matrix), np.bool_)
    rounded[_by_width(inputs)[len(matrix) - num_wide :]] = False
    scale, _ = activation_scale(inputs.at(np.flatnonzero(rounded)))
    # No row is copied: of a head that would be as large as the model.
    column_scales = np.abs(matrix).max(0, where=rounded[:, None], initial=0) / MAX_CODE
    energy = np.square(matrix).sum(1)
    mean_square = inputs.mean_square.numpy()
    lost = scale**2 * energy[rounded].sum() + mean_square[rounded].sum() * np.square(column_scales).sum()
    return float(lost / 12 / max(mean_square @ energy, 1e-30))


def _by_width(inputs: Inputs) -> Channels:
    """The channels, the widest last."""
    order: Channels = np.argsort(inputs.widths.numpy(), kind="stable")
    return order


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
    inputs = inputs_of[node.name]
    # The columns of a head may be cut later on, in one product.
    num_wide = _num_wide(matrix, inputs, max_noise, NUM_WIDE[:1] if "lm_head" in node.name else NUM_WIDE)
    if num_wide is None:
        return [node]
    if not num_wide:
        return _integer_product(graph, node, matrix, inputs)
    return _split_product(graph, node, matrix, inputs, np.sort(_by_width(inputs)[-num_wide:]))


def _num_wide(matrix: NDArray[np.float32], inputs: Inputs, max_noise: float, numbers: Sequence[int]) -> int | None:
    """The fewest channels that have to be multiplied apart, or that halve the loss; None where no number is enough."""
    numbers = [num for num in numbers if num < len(matrix)]
    if numbers[1:] and noise(matrix, inputs, numbers[1]) <= noise(matrix, inputs) / 2:
        numbers = numbers[1:]
    return next((num for num in numbers if noise(matrix, inputs, num) <= max_noise), None)


def _split_product(
    graph: onnx.GraphProto, node: onnx.NodeProto, matrix: NDArray[np.float32], inputs: Inputs, wide: Channels
) -> list[onnx.NodeProto]:
    """The wide channels in fp32, all others as integers, and the sum."""
    others = np.setdiff1d(np.arange(len(matrix)), wide)
    arrays = {f"{node.name}.wide.channels": wide, f"{node.name}.wide.weight": matrix[wide]}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    channels_name, weight_name = arrays
    picked, wide_product, integer_product = (f"{node.name}.{name}" for name in ("wide", "wide.product", "product"))
    rounded = matrix.copy()
    rounded[wide] = 0  # their codes, which are cut off, count nothing
    integer = helper.make_node("MatMul", list(node.input), [integer_product], name=node.name)
    return [
        *_integer_product(graph, integer, rounded, inputs.at(others)),
        helper.make_node("Gather", [node.input[0], channels_name], [picked], name=f"{node.name}/Gather", axis=-1),
        # FusedMatMul, since no later pass takes it for a product to quantise.
        helper.make_node(
            "FusedMatMul", [picked, weight_name], [wide_product], name=f"{node.name}/Wide", domain="com.microsoft"
        ),
        helper.make_node("Add", [integer_product, wide_product], list(node.output), name=f"{node.name}/Add"),
    ]


def _integer_product(
    graph: onnx.GraphProto, node: onnx.NodeProto, matrix: NDArray[np.float32], inputs: Inputs
) -> list[onnx.NodeProto]:
    """``inputs`` are those of the channels that have to fit."""
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
