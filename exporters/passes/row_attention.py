"""Graph pass: GroupQueryAttention -> edgedsl's own attention, whose rows may belong to any sequences of the cache.

ONNX Runtime's operator takes a batch of sequences of one length each, on this many slots of the cache. Ours takes rows
that name their slot and position (graph inputs ``row_slots``, ``row_positions``, int64 [tokens]), so that prompts,
drafts and single tokens of several requests can be one call; and it is quicker where rows are few.
"""

from __future__ import annotations

import onnx_ir as ir

from edgedsl.exporters.passes.graph import remove_unused, replace
from edgedsl.runtime.decoder import ROW_POSITIONS, ROW_SLOTS
from edgedsl.runtime.kernels import DOMAIN, LANES, MAX_HEAD_DIM

_MASK = "attention_mask"
_PACKED, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _COS, _SIN = 0, 1, 2, 3, 4, 7, 8


def use_row_attention(model: ir.Model) -> bool:
    """Replace the attention of every layer; of none where one layer has what ours lacks.

    Returns:
        Whether it was replaced.
    """
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    if not nodes or not all(_is_covered(node) for node in nodes):
        return False
    rows = [
        ir.Value(name=name, shape=ir.Shape(["tokens"]), type=ir.TensorType(ir.DataType.INT64))
        for name in (ROW_SLOTS, ROW_POSITIONS)
    ]
    model.graph.inputs.extend(rows)
    for node in nodes:
        _replace_attention(model, node, rows)
    model.opset_imports.setdefault(DOMAIN, 1)
    remove_unused(model)
    for value in list(model.graph.inputs):
        if value.name == _MASK and not value.uses():
            model.graph.inputs.remove(value)
    return True


def _is_covered(node: ir.Node) -> bool:
    """Packed projections, no soft cap, plain rotary angles, heads of a width that the vectors divide."""
    integers = {name: node.attributes[name].as_int() for name in ("do_rotary", "rotary_interleaved")}
    past = node.inputs[_PAST_KEY]
    head_dim = past.shape[3] if past is not None and past.shape is not None else None
    is_packed = node.inputs[_KEY] is None and node.inputs[_VALUE] is None
    return (
        is_packed
        and node.attributes["softcap"].as_float() == 0
        and not integers["rotary_interleaved"]
        and isinstance(head_dim, int)
        and head_dim % LANES == 0
        and head_dim <= MAX_HEAD_DIM
    )


def _replace_attention(model: ir.Model, node: ir.Node, rows: list[ir.Value]) -> None:
    inputs = [node.inputs[_PACKED], node.inputs[_PAST_KEY], node.inputs[_PAST_VALUE], *rows]
    is_rotary = bool(node.attributes["do_rotary"].as_int())
    if is_rotary:
        inputs += [node.inputs[_COS], node.inputs[_SIN]]
    attributes = {
        "num_heads": node.attributes["num_heads"].as_int(),
        "window": max(0, node.attributes["local_window_size"].as_int()),
        "scale": node.attributes["scale"].as_float(),
    }
    name = "RotaryCachedAttention" if is_rotary else "CachedAttention"
    new = ir.node(name, inputs, attributes, domain=DOMAIN, num_outputs=3, name=node.name)
    for old, value in zip(node.outputs[1:], new.outputs[1:], strict=True):
        present = old.name
        value.shape, value.type = old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        old.name, value.name = f"{present}.replaced", present
    replace(model, node, [new], new.outputs[0])
