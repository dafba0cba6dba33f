"""Graph pass: the three projections before GroupQueryAttention as one MatMul, whose packed output the operator takes.

One call instead of three reads the same weights; the calls themselves, and their threads' meetings, are what is saved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedsl.exporters.passes.graph import add_weight, constant, remove_unused


class _Projection(NamedTuple):
    """``weight`` [channels, out] and ``bias`` [out] of a MatMul, with the name that the tracer gave it."""

    name: str
    hidden: ir.Value
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def pack_qkv(model: ir.Model) -> dict[str, str]:
    """Pack the projections of every GroupQueryAttention that has three of one input.

    Returns:
        Name of each packed MatMul -> that of a MatMul it replaces: calibration's second moments are those of their
        common input, so that ``moments[new] = moments[old]``.
    """
    packed: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type == "GroupQueryAttention":
            packed.update(_pack(model, node))
    remove_unused(model)
    return packed


def _pack(model: ir.Model, attention: ir.Node) -> dict[str, str]:
    found = [_projection(value) for value in attention.inputs[:3]]
    parts = [part for part in found if part is not None]
    if len(parts) < 3 or len({id(part.hidden) for part in parts}) > 1 or len({p.bias is None for p in parts}) > 1:
        return {}
    scope = parts[0].name.removesuffix("/q_proj/MatMul") + "/qkv_proj"
    weight = add_weight(model, f"{scope}.weight", np.concatenate([part.weight for part in parts], axis=1))
    nodes = [ir.node("MatMul", [parts[0].hidden, weight], name=f"{scope}/MatMul")]
    biases = [part.bias for part in parts if part.bias is not None]
    if biases:
        bias = add_weight(model, f"{scope}.bias", np.concatenate(biases))
        nodes.append(ir.node("Add", [bias, nodes[0].outputs[0]], name=f"{scope}/Add"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}_output_0"
    model.graph.insert_before(attention, nodes)
    for index, value in enumerate([nodes[-1].outputs[0], None, None]):
        attention.replace_input_with(index, value)
    return {f"{scope}/MatMul": parts[0].name}


def _projection(value: ir.Value | None) -> _Projection | None:
    node = None if value is None else value.producer()
    bias = None
    if node is not None and node.op_type == "Add":
        computed = [v for v in node.inputs if constant(v) is None]
        biases = [array for v in node.inputs if (array := constant(v)) is not None]
        if len(computed) != 1 or computed[0] is None:
            return None
        node, bias = computed[0].producer(), biases[0]
    if node is None or node.op_type != "MatMul" or node.inputs[0] is None:
        return None
    weight = constant(node.inputs[1])
    return None if weight is None else _Projection(node.name or "", node.inputs[0], weight, bias)
