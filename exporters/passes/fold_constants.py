"""Graph pass: compute what depends on no input, and drop what does nothing.

ONNX Runtime does so too, at every load; here it is done once, and other passes see through it. Shapes are left alone,
so that no axis becomes fixed.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
)

from edgedsl.exporters.passes.graph import CONTRIB, add_weight, constant, remove_unused

MAX_ELEMENTS = 1 << 16  # of an input or a result; a table of rotary angles fits, no projection does
_RANDOM = ("Random", "Multinomial", "Bernoulli", "Dropout")
# Operators whose first output has the type of their first input.
_KEEPS_TYPE = frozenset({
    "Add", "Concat", "Div", "Expand", "Gather", "GroupQueryAttention", "Identity", "MatMul", "Mul", "Neg", "Pow",
    "Reciprocal", "ReduceMean", "Reshape", "Sigmoid", "SimplifiedLayerNormalization", "Slice", "Softmax", "Sqrt",
    "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
})  # fmt: skip


def fold_constants(model: ir.Model) -> None:
    """Fold constants of up to ``MAX_ELEMENTS``, merge equal nodes, and drop casts to the type a value has."""
    for node in list(model.graph):
        _fold(model, node)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_idle_casts(model)
    IdentityEliminationPass()(model)
    DeduplicateInitializersPass(size_limit=MAX_ELEMENTS)(model)
    CommonSubexpressionEliminationPass()(model)
    remove_unused(model)


def _fold(model: ir.Model, node: ir.Node) -> None:
    if node.op_type == "Constant" or node.domain or node.op_type.startswith(_RANDOM) or len(node.outputs) != 1:
        return
    inputs = [constant(value) for value in node.inputs if value is not None]
    arrays = [array for array in inputs if array is not None and array.size <= MAX_ELEMENTS]
    if not node.inputs or len(arrays) < len(inputs) or any(_is_graph(a) for a in node.attributes.values()):
        return
    result = _evaluate(model, node, arrays)
    output = node.outputs[0]
    if result.size > MAX_ELEMENTS or output.is_graph_output():
        return
    folded = add_weight(model, f"{output.name}.folded", result)
    output.replace_all_uses_with(folded)


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


def _evaluate(model: ir.Model, node: ir.Node, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    proto = ir.to_proto(node)
    names = [value.name for value in node.inputs if value is not None]
    graph = onnx.helper.make_graph(
        [proto],
        "folded",
        [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names)],
        [onnx.helper.make_empty_tensor_value_info(proto.output[0])],
    )
    opset = onnx.helper.make_opsetid("", model.opset_imports[""])
    with warnings.catch_warnings():  # numpy's, of divisions by zero and the like
        warnings.simplefilter("ignore")
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
        results: list[Any] = evaluator.run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(results[0])


def _drop_idle_casts(model: ir.Model) -> None:
    # Types are followed by hand: a fused graph says nothing of its values, and inference stops at foreign operators.
    types: dict[ir.Value, ir.DataType | None] = {}
    for node in list(model.graph):
        first = next((value for value in node.inputs if value is not None), None)
        known = None if first is None else types.get(first, first.dtype)
        output = node.outputs[0]
        if node.op_type == "Cast":
            target = ir.DataType(node.attributes.get_int("to", 0))
            types[output] = target
            if known is target and first is not None and not output.is_graph_output():
                output.replace_all_uses_with(first)
        elif node.op_type in _KEEPS_TYPE and node.domain in {"", CONTRIB}:
            types[output] = output.dtype or known
