"""Graph pass: MatMul -> MatMulNBits, embedding Gather -> GatherBlockQuantized (ONNX Runtime's ContribOperators.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, layer_of, quantize_weight
from edgedsl.exporters.gptq import gptq_weight
from edgedsl.exporters.hqq import hqq_weight
from edgedsl.exporters.w4a8 import native_product

TensorOf = Mapping[str, torch.Tensor]


def quantize_model(
    model: onnx.ModelProto, recipe: Recipe, moments_of: TensorOf | None = None, importance_of: TensorOf | None = None
) -> None:
    """Quantise every weight matrix of a graph in place: projections, head and embedding.

    Args:
        model: fp32 graph with all weights inside.
        recipe: how.
        moments_of: node name -> second moments of its inputs [channels, channels], for ``gptq``.
        importance_of: node name -> mean squares of its inputs [channels], for ``kquant``.

    Raises:
        ExportError: the moments are not finite.
    """
    moments_of, importance_of = moments_of or {}, importance_of or {}
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer if len(weight.dims) == 2}
    num_layers = 1 + max((layer_of(node.name) or 0 for node in graph.node), default=0)
    for index, node in enumerate(list(graph.node)):
        if node.op_type == "MatMul" and node.input[1] in weights:
            matrix = torch.from_numpy(numpy_helper.to_array(weights[node.input[1]]).T.copy())  # [out, in]
            bits = recipe.bits_of(node.name, num_layers)
            rounded = _rounded(matrix, recipe, bits, moments_of.get(node.name), importance_of.get(node.name))
            is_native = recipe.is_native and bits == 4
            product = native_product(graph, node, rounded) if is_native else _product(graph, node, recipe, rounded)
            graph.node[index].CopyFrom(product)
        elif node.op_type == "Gather" and node.input[0] in weights and recipe.has_embedding:
            graph.node[index].CopyFrom(_quantized_gather(graph, node, weights[node.input[0]], recipe))
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    declared = {entry.domain for entry in model.opset_import}
    used = {node.domain for node in graph.node}
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(used - declared))


def _rounded(
    matrix: torch.Tensor,
    recipe: Recipe,
    bits: int,
    moments: torch.Tensor | None,
    importance: torch.Tensor | None,
) -> QuantizedWeight:
    if recipe.method == "gptq" and moments is not None:
        return gptq_weight(matrix, moments, recipe, bits)
    if recipe.method == "hqq" and bits < 8:  # with 8 bits there is next to nothing to gain
        return hqq_weight(matrix, recipe, bits)
    return quantize_weight(matrix, recipe, bits, importance if recipe.method == "kquant" else None)


def _product(graph: onnx.GraphProto, node: onnx.NodeProto, recipe: Recipe, rounded: QuantizedWeight) -> onnx.NodeProto:
    num_outputs, num_inputs = rounded.codes.shape
    inputs = [node.input[0], *_add_weights(graph, f"{node.name}.weight", rounded, rounded.packed_blocks())]
    return helper.make_node(
        "MatMulNBits", inputs, list(node.output), name=node.name, domain="com.microsoft",
        K=num_inputs, N=num_outputs, bits=rounded.bits, block_size=recipe.block_size,
        accuracy_level=recipe.accuracy_level,
    )  # fmt: skip


def _quantized_gather(
    graph: onnx.GraphProto, node: onnx.NodeProto, weight: onnx.TensorProto, recipe: Recipe
) -> onnx.NodeProto:
    bits = recipe.bits_of(node.name)
    quantized = quantize_weight(torch.from_numpy(numpy_helper.to_array(weight).copy()), recipe, bits)
    arrays = _add_weights(graph, f"{node.name}.weight", quantized, quantized.packed_rows())
    codes, scales, zero_points = arrays
    return helper.make_node(
        "GatherBlockQuantized", [codes, node.input[1], scales, zero_points], list(node.output), name=node.name,
        domain="com.microsoft", bits=bits, block_size=recipe.block_size, gather_axis=0, quantize_axis=1,
    )  # fmt: skip


def _add_weights(graph: onnx.GraphProto, name: str, quantized: QuantizedWeight, packed: NDArray[np.uint8]) -> list[str]:
    arrays = {
        f"{name}.codes": packed,
        f"{name}.scales": quantized.scales.numpy(),
        f"{name}.zero_points": quantized.packed_zero_points(),
    }
    graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    return list(arrays)
