"""Graph pass: a head that reads the embedding's weight gets its own, so that each can be quantised as it is read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedsl.exporters.passes.graph import add_weight, constant, head_of, remove_unused, replace

HEAD = "/lm_head/MatMul"  # the name that recipes and calibration know it by


def untie_head(model: ir.Model) -> bool:
    """Make the head a MatMul by a weight [channels, vocab] that nothing else reads.

    Returns:
        Whether it was not one before.

    Raises:
        ExportError: the graph has no head.
    """
    head = head_of(model)
    weight = head.inputs[1]
    assert weight is not None
    if head.op_type == "MatMul" and constant(weight) is not None and len(weight.uses()) == 1:
        return False
    array = _weight(head)
    if array is None:
        return False
    own = add_weight(model, "lm_head.weight", np.ascontiguousarray(array))
    product = ir.node("MatMul", [head.inputs[0], own], name=HEAD)
    nodes = [product]
    if len(head.inputs) > 2 and head.inputs[2] is not None:  # Gemm's bias
        product.outputs[0].name = "lm_head.product"
        nodes.append(ir.node("Add", [product.outputs[0], head.inputs[2]], name="/lm_head/Add"))
    replace(model, head, nodes, nodes[-1].outputs[0])
    remove_unused(model)
    return True


def _weight(head: ir.Node) -> NDArray[np.float32] | None:
    """[channels, vocab], whichever way round it is stored; None where it is computed in another way."""
    weight = head.inputs[1]
    assert weight is not None
    if head.op_type == "Gemm":
        array = constant(weight)
        if array is None or any(head.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return None
        return array.T if head.attributes.get_int("transB", 0) else array
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose":
        array = constant(producer.inputs[0])
        return None if array is None else array.T
    return constant(weight)
