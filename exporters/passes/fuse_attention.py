"""Graph pass: attention of an optimum graph -> GroupQueryAttention on a shared KV cache.

optimum's graph concatenates the whole cache in every step. GroupQueryAttention (ONNX Runtime's ContribOperators.md)
appends in place, applies the rotary embedding itself and groups the heads. The pass finds the projections by the module
names that the tracer leaves in node names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedsl.exporters.passes.graph import CONTRIB, add_weight, remove_unused, replace_output, set_dim, use_contrib

# Plain rotary attention without norms on q and k. Others keep the growing cache, and the manifest says so.
FUSABLE = frozenset({"llama", "mistral", "qwen2"})
# Rotary scalings whose angles change with the length of the sequence do not fit into one table.
LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
_CACHE_AXIS = 2


def is_fusable(config: Any) -> bool:
    """Whether GroupQueryAttention computes what this configuration says."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope_type = (getattr(config, "rope_scaling", None) or {}).get("rope_type", "default")
    return (
        config.model_type in FUSABLE
        and getattr(config, "partial_rotary_factor", 1.0) in {None, 1.0}
        and rope_type not in LENGTH_DEPENDENT
        and getattr(config, "sliding_window", None) is None
        and head_dim % 16 == 0  # the operator's rotary embedding wants whole groups of 16
    )


def fuse_attention(model: ir.Model, config: Any, cos: NDArray[np.float32], sin: NDArray[np.float32]) -> None:
    """Rewrite the attention of every layer.

    Args:
        model: graph written by optimum for ``text-generation-with-past``.
        config: the transformers configuration of the model.
        cos: rotary cosines [context_length, head_dim / 2].
        sin: rotary sines [context_length, head_dim / 2].

    Raises:
        KeyError: a node, an input or an output is not called what the tracer used to call it.
    """
    graph = model.graph
    values = {str(value.name): value for value in [*graph.inputs, *graph.outputs]}
    nodes = {str(node.name): node for node in graph}
    shared = [*_lengths(model, values["attention_mask"]), add_weight(model, "rotary.cos", cos)]
    shared.append(add_weight(model, "rotary.sin", sin))
    for layer in range(config.num_hidden_layers):
        scope = f"/model/layers.{layer}/self_attn"
        projections = [_projection(nodes, f"{scope}/{name}") for name in ("q_proj", "k_proj", "v_proj")]
        past = [values[f"past_key_values.{layer}.{part}"] for part in ("key", "value")]
        attention = _attention(scope, [*projections, *past, *shared], config)
        output = nodes[f"{scope}/o_proj/MatMul"]
        graph.insert_before(output, attention)
        output.replace_input_with(0, attention.outputs[0])
        for number, part in enumerate(("key", "value"), 1):
            replace_output(model, values[f"present.{layer}.{part}"], attention.outputs[number])
        for value in [*past, *attention.outputs[1:]]:
            set_dim(value, _CACHE_AXIS, "cache_length")
    use_contrib(model)
    remove_unused(model)
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)


def _lengths(model: ir.Model, mask: ir.Value) -> list[ir.Value]:
    """The operator's view of the mask: index of each row's last position, and the length of the longest row."""
    one = add_weight(model, "length.one", np.array([1], np.int64))
    column = add_weight(model, "length.column", np.array(1, np.int64))
    total = ir.node("ReduceSum", [mask, one], {"keepdims": 0}, name="/lengths/ReduceSum")
    last = ir.node("Sub", [total.outputs[0], one], name="/lengths/Sub")
    shape = ir.node("Shape", [mask], name="/lengths/Shape")
    width = ir.node("Gather", [shape.outputs[0], column], name="/lengths/Gather")
    casts = [
        ir.node("Cast", [node.outputs[0]], {"to": ir.DataType.INT32.value}, name=f"/lengths/Cast_{number}")
        for number, node in enumerate((last, width))
    ]
    new = [total, last, shape, width, *casts]
    for node in new:
        node.outputs[0].name = f"{node.name}/output"
    first = next(iter(model.graph))
    model.graph.insert_before(first, new)
    return [cast.outputs[0] for cast in casts]


def _projection(nodes: dict[str, ir.Node], scope: str) -> ir.Value:
    node = nodes.get(f"{scope}/Add") or nodes[f"{scope}/MatMul"]
    return node.outputs[0]


def _attention(scope: str, inputs: Sequence[ir.Value], config: Any) -> ir.Node:
    attributes = {
        "num_heads": config.num_attention_heads,
        "kv_num_heads": config.num_key_value_heads,
        "do_rotary": 1,
        "rotary_interleaved": 0,
    }
    node = ir.node(
        "GroupQueryAttention", inputs, attributes, domain=CONTRIB, num_outputs=3, name=f"{scope}/GroupQueryAttention"
    )
    node.outputs[0].name = f"{scope}/attention"
    return node
