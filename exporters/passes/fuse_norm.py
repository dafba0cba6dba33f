"""Graph pass: the traced root mean square norm as one operator, with the residual sum before it where there is one.

ONNX Runtime finds the norm by itself when it loads a graph, the sum it leaves alone; a fused graph also loads faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from edgedsl.exporters.passes.graph import CONTRIB, constant, remove_unused, replace, use_contrib


class _Norm(NamedTuple):
    """weight * x / sqrt(mean(x^2) + epsilon), over the last axis."""

    x: ir.Value
    weight: ir.Value
    epsilon: float


def fuse_norm(model: ir.Model) -> int:
    """Fuse every norm; run it after fold_constants, which takes idle casts out of the pattern.

    A norm of a sum of two computed values becomes SkipSimplifiedLayerNormalization, which takes both to be of one
    shape: residual sums are.

    Returns:
        Number of norms.
    """
    num_norms = 0
    for node in list(model.graph):
        if node.graph is not None and (norm := _match(node)):
            _fuse(model, node, norm)
            num_norms += 1
    if num_norms:
        use_contrib(model)
    remove_unused(model)
    return num_norms


def _fuse(model: ir.Model, node: ir.Node, norm: _Norm) -> None:
    name = (node.name or "").rpartition("/")[0]
    total = norm.x.producer()
    attributes = {"epsilon": norm.epsilon}
    if total is None or total.op_type != "Add" or any(constant(value) is not None for value in total.inputs):
        attributes |= {"axis": -1, "stash_type": 1}
        fused = ir.node("SimplifiedLayerNormalization", [norm.x, norm.weight], attributes, name=f"{name}/Norm")
        replace(model, node, [fused], fused.outputs[0])
        return
    inputs = [*total.inputs, norm.weight]
    kind = "SkipSimplifiedLayerNormalization"
    fused = ir.node(kind, inputs, attributes, domain=CONTRIB, num_outputs=4, name=f"{name}/SkipNorm")
    for unused in fused.outputs[1:3]:
        unused.name = ""
    model.graph.insert_before(total, fused)
    value = node.outputs[0]
    fused.outputs[0].name = value.name
    value.replace_all_uses_with(fused.outputs[0], replace_graph_outputs=True)
    fused.outputs[3].name = norm.x.name
    norm.x.replace_all_uses_with(fused.outputs[3], replace_graph_outputs=True)
    model.graph.remove([node], safe=True)


def _match(node: ir.Node) -> _Norm | None:
    if node.op_type != "Mul":
        return None
    for weight, scaled in _either(node):
        array = constant(weight)
        if array is None or array.ndim != 1 or array.size == 1:
            continue
        for x, root in _divided(scaled):
            epsilon = _epsilon(root, x)
            if epsilon is not None:
                return _Norm(x, weight, epsilon)
    return None


def _divided(value: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """Pairs (x, r) of which the value is x / r, or x times 1 / r."""
    node = value.producer()
    if node is None or node.op_type not in {"Mul", "Div"}:
        return []
    pairs = _either(node)
    if node.op_type == "Div":
        return pairs[:1]
    return [(x, root) for x, inverse in pairs if (root := _inverted(inverse)) is not None]


def _inverted(value: ir.Value) -> ir.Value | None:
    """r of 1 / r."""
    node = value.producer()
    if node is None or node.op_type not in {"Div", "Reciprocal"}:
        return None
    if node.op_type == "Div" and not _is_scalar(node.inputs[0], 1.0):
        return None
    return node.inputs[-1]


def _epsilon(root: ir.Value, x: ir.Value) -> float | None:
    """What is added to the mean square of x under the root; None where it is another root."""
    added = _input_of(root, "Sqrt")
    total = None if added is None else added.producer()
    if total is None or total.op_type != "Add":
        return None
    for mean, epsilon in _either(total):
        array = constant(epsilon)
        if array is not None and array.size == 1 and _is_mean_square(mean, x):
            return float(array.item())
    return None


def _is_mean_square(value: ir.Value, x: ir.Value) -> bool:
    mean = value.producer()
    if mean is None or mean.op_type != "ReduceMean" or not mean.attributes.get_int("keepdims", 1):
        return False
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else mean.attributes.get_ints("axes", [])
    if axes is None or list(np.asarray(axes)) != [-1] or mean.inputs[0] is None:
        return False
    square = mean.inputs[0].producer()
    if square is None or square.inputs[0] is not x:
        return False
    is_power = square.op_type == "Pow" and _is_scalar(square.inputs[1], 2.0)
    return is_power or (square.op_type == "Mul" and square.inputs[1] is x)


def _either(node: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    first, second = node.inputs[:2]
    assert first is not None
    assert second is not None
    return [(first, second), (second, first)]


def _input_of(value: ir.Value, op_type: str) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == op_type else None


def _is_scalar(value: ir.Value | None, number: float) -> bool:
    array: Any = constant(value)
    return array is not None and array.size == 1 and float(array.item()) == number
