"""Graph pass: a head of the tokens that can come at all (:mod:`edgedsl.grammar.reachable`).

What is left of the logits does not change, the others become NO_LOGIT: the mask of the grammar forbids them
anyway. A column of a product is rounded and computed by itself, whatever the recipe; hence the head of a quantised
graph is cut, and not that of the graph it was made of, where what a recipe decides might change with the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedsl.errors import ExportError
from edgedsl.exporters.passes.graph import (
    add_weight,
    behind_head,
    constant,
    head_of,
    logits_of,
    remove_unused,
    replace_output,
    set_dim,
)
from edgedsl.runtime.lm_head import NO_LOGIT

# The inputs that hold something for each token, and along which axis.
_AXES = {
    "MatMul": {1: -1},
    "MatMulIntegerToFloat": {1: -1, 3: -1},
    "MatMulNBits": {1: 0, 2: 0, 3: 0},
}
TokenIds = Sequence[int] | NDArray[np.int64]


def trim_head(model: ir.Model, token_ids: TokenIds) -> None:
    """Work out the logits of some tokens only; their shape stays [batch, positions, vocab].

    Args:
        model: with a head of its own (see untie_head), fp32 or quantised.
        token_ids: ascending.

    Raises:
        ExportError: not ascending, not all in the vocabulary, or the head's weight is computed.
    """
    head = head_of(model)
    axes = _AXES.get(head.op_type, {})
    if not axes or constant(head.inputs[1]) is None:
        raise ExportError("the head of the graph has no weight of its own", hint="export with '--trim-head never'")
    vocab_size = _size(head.inputs[1], axes[1])
    chosen = _checked(token_ids, vocab_size)
    for index, axis in axes.items():
        _cut(model, head, index, axis, chosen)
    if "N" in head.attributes:
        head.attributes["N"] = ir.AttrInt64("N", len(chosen))
    values = list(behind_head(model))
    for value in values[1:]:  # from the head up to the logits
        for node, index in list(value.uses()):
            for other, operand in enumerate(node.inputs):
                if other != index and constant(operand) is not None and _size(operand, -1) == vocab_size:
                    _cut(model, node, other, -1, chosen)
    for value in values:
        set_dim(value, -1, len(chosen))
    _expand(model, chosen, vocab_size)
    remove_unused(model)


def _checked(token_ids: TokenIds, vocab_size: int) -> NDArray[np.int64]:
    chosen = np.asarray(token_ids, np.int64)
    if not chosen.size or chosen[0] < 0 or chosen[-1] >= vocab_size or any(a >= b for a, b in pairwise(chosen)):
        raise ExportError(
            f"a head of {vocab_size} tokens cannot be cut to {chosen.size} token ids", hint="give ascending ids"
        )
    return chosen


def _cut(model: ir.Model, node: ir.Node, index: int, axis: int, chosen: NDArray[np.int64]) -> None:
    """Keep some of an input's rows or columns."""
    value = node.inputs[index]
    array = constant(value)
    assert value is not None
    assert array is not None
    node.replace_input_with(index, add_weight(model, f"{value.name}.kept", np.take(array, chosen, axis)))


def _size(value: ir.Value | None, axis: int) -> int:
    """Of one axis of a constant; 0 where it has none."""
    array = constant(value)
    return array.shape[axis] if array is not None and array.ndim else 0


def _expand(model: ir.Model, chosen: NDArray[np.int64], vocab_size: int) -> None:
    """The logits at their places in the vocabulary: one column of NO_LOGIT is added, and all other tokens read that.

    GatherElements takes a tenth of the time of Gather, whose CPU kernel copies number by number, and is quicker than
    ScatterElements unless few tokens are left.
    """
    kept = logits_of(model)
    readers = list(kept.uses())
    places = np.full((1, 1, vocab_size), len(chosen), np.int32)
    places[..., chosen] = np.arange(len(chosen))
    pads = add_weight(model, "logits.pads", np.array([0, 0, 0, 0, 0, 1], np.int64))
    filling = add_weight(model, "logits.filling", np.array(NO_LOGIT, np.float32))
    width = add_weight(model, "logits.width", np.array([vocab_size], np.int64))
    padded = ir.node("Pad", [kept, pads, filling], name="/logits/Pad")
    rows = ir.node("Shape", [kept], {"start": 0, "end": 2}, name="/logits/Shape")
    shape = ir.node("Concat", [rows.outputs[0], width], {"axis": 0}, name="/logits/Concat")
    indices = ir.node("Expand", [add_weight(model, "logits.places", places), shape.outputs[0]], name="/logits/Expand")
    whole = ir.node(
        "GatherElements", [padded.outputs[0], indices.outputs[0]], {"axis": -1}, name="/logits/GatherElements"
    )
    new = [padded, rows, shape, indices, whole]
    for node in new:
        node.outputs[0].name = f"{node.name}/output"
    producer = kept.producer()
    assert producer is not None
    model.graph.insert_after(producer, new)
    replace_output(model, kept, whole.outputs[0])
    set_dim(whole.outputs[0], -1, vocab_size)
    for node, index in readers:
        node.replace_input_with(index, whole.outputs[0])
