"""Graph pass: logits of the last positions only; the head is the largest weight, and a prefill needs one row of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedsl.exporters.passes.graph import add_weight, behind_head, head_of, remove_unused, set_dim

NUM_LOGITS = "num_logits"
_POSITIONS = 1  # the axis of the hidden states [batch, positions, channels]


def take_last_logits(model: ir.Model) -> None:
    """Give the graph an input ``num_logits`` int64 [1]; its logits become [batch, num_logits, vocab].

    0 stands for all positions, and so does a number above theirs.

    Raises:
        ExportError: the graph has no head.
    """
    head = head_of(model)
    hidden = head.inputs[0]
    wanted = ir.Value(name=NUM_LOGITS, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(wanted)
    end = add_weight(model, "num_logits.end", np.array([np.iinfo(np.int64).max]))
    axis = add_weight(model, "num_logits.axis", np.array([_POSITIONS]))
    first = ir.node("Neg", [wanted], name="/lm_head/Neg")
    last = ir.node("Slice", [hidden, first.outputs[0], end, axis], name="/lm_head/Slice")
    first.outputs[0].name, last.outputs[0].name = "num_logits.first", "num_logits.hidden"
    model.graph.insert_before(head, [first, last])
    head.replace_input_with(0, last.outputs[0])
    for value in behind_head(model):
        set_dim(value, _POSITIONS, NUM_LOGITS)
    remove_unused(model)
