"""Graph pass: attention of an optimum graph -> GroupQueryAttention on a shared KV cache.

optimum's graph concatenates the whole cache in every step. GroupQueryAttention (ONNX Runtime's ContribOperators.md)
appends in place, applies the rotary embedding itself and groups the heads. The pass finds the projections by the module
names that the tracer leaves in node names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Plain rotary attention without norms on q and k. Others keep the growing cache, and the manifest says so.
FUSABLE = frozenset({"llama", "mistral", "qwen2"})
# Rotary scalings whose angles change with the length of the sequence do not fit into one table.
LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})


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


def fuse_attention(model: onnx.ModelProto, config: Any, cos: NDArray[np.float32], sin: NDArray[np.float32]) -> None:
    """Rewrite ``model`` in place.

    Args:
        model: graph written by optimum for ``text-generation-with-past``.
        config: the transformers configuration of the model.
        cos: rotary cosines [context_length, head_dim / 2].
        sin: rotary sines [context_length, head_dim / 2].

    Raises:
        KeyError: a projection node is not where the tracer used to put it.
    """
    graph = model.graph
    graph.initializer.extend([numpy_helper.from_array(cos, "rotary.cos"), numpy_helper.from_array(sin, "rotary.sin")])
    nodes = {node.name: node for node in graph.node}
    graph.node.extend(_lengths(graph))
    for layer in range(config.num_hidden_layers):
        prefix = f"/model/layers.{layer}/self_attn"
        projections = [_projection(nodes, f"{prefix}/{name}") for name in ("q_proj", "k_proj", "v_proj")]
        nodes[f"{prefix}/o_proj/MatMul"].input[0] = f"{prefix}/attention"
        _drop_producers(graph, {f"present.{layer}.key", f"present.{layer}.value"})
        graph.node.append(_attention(prefix, layer, projections, config))
    _fix_signature(graph)
    remove_dead_nodes(graph)
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def remove_dead_nodes(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers that no output needs, and bring the rest into topological order."""
    producers = {output: node for node in graph.node for output in node.output}
    order: list[onnx.NodeProto] = []
    done: set[int] = set()
    stack = [(producers[o.name], False) for o in reversed(graph.output)]
    while stack:
        node, is_expanded = stack.pop()
        if id(node) in done:
            continue
        if is_expanded:
            done.add(id(node))
            order.append(node)
            continue
        stack.append((node, True))
        stack.extend(
            (producers[name], False) for name in node.input if name in producers and id(producers[name]) not in done
        )
    used = {name for node in order for name in node.input}
    kept_weights = [weight for weight in graph.initializer if weight.name in used]
    kept_inputs = [value for value in graph.input if value.name in used]
    for repeated, kept in ((graph.node, order), (graph.initializer, kept_weights), (graph.input, kept_inputs)):
        del repeated[:]
        repeated.extend(kept)
    del graph.value_info[:]


def _lengths(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    constants = {"length.one": np.array([1], np.int64), "length.axis": np.array([1], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "length.column"))
    make = helper.make_node
    return [
        make("ReduceSum", ["attention_mask", "length.axis"], ["length.sum"], keepdims=0),
        make("Sub", ["length.sum", "length.one"], ["length.last"]),
        make("Cast", ["length.last"], ["seqlens_k"], to=onnx.TensorProto.INT32),
        make("Shape", ["attention_mask"], ["length.shape"]),
        make("Gather", ["length.shape", "length.column"], ["length.total"]),
        make("Cast", ["length.total"], ["total_sequence_length"], to=onnx.TensorProto.INT32),
    ]


def _projection(nodes: dict[str, onnx.NodeProto], scope: str) -> str:
    node = nodes.get(f"{scope}/Add") or nodes[f"{scope}/MatMul"]
    return str(node.output[0])


def _drop_producers(graph: onnx.GraphProto, outputs: set[str]) -> None:
    for node in graph.node:
        for index, output in enumerate(node.output):
            if output in outputs:
                node.output[index] = f"{output}.unused"
        for index, name in enumerate(node.input):
            if name in outputs:
                node.input[index] = f"{name}.unused"


def _attention(prefix: str, layer: int, projections: list[str], config: Any) -> onnx.NodeProto:
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    return helper.make_node(
        "GroupQueryAttention",
        [*projections, *past, "seqlens_k", "total_sequence_length", "rotary.cos", "rotary.sin"],
        [f"{prefix}/attention", f"present.{layer}.key", f"present.{layer}.value"],
        name=f"{prefix}/GroupQueryAttention",
        domain="com.microsoft",
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        do_rotary=1,
        rotary_interleaved=0,
    )


def _fix_signature(graph: onnx.GraphProto) -> None:
    for value in [*graph.input, *graph.output]:
        if value.name.startswith(("past_key_values.", "present.")):
            dims = value.type.tensor_type.shape.dim
            dims[2].ClearField("dim_value")
            dims[2].dim_param = "cache_length"
