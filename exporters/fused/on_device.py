"""Graph pass: the fused graph as a GPU runs it (ONNX Runtime's CUDA provider, its ContribOperators.md).

- Activations and KV cache in half precision: CUDA has GroupQueryAttention in no other. The logits stay fp32.
- Every input and output may lie at a fixed address of the device, and no shape is worked out on the way, so that calls
  of one shape can be captured as a CUDA graph and no node falls to the CPU: ``seqlens_k`` int32 [batch], the index of
  each row's last position, in place of the attention mask; ``logit_positions`` int64 [num_logits], which positions of
  the call get logits, in place of ``num_logits``. The one value that attention reads on the CPU by design,
  ``total_sequence_length``, is the constant ``context_length``, which the shared cache has room for.
- ``best_token`` int64 and ``check`` fp32, both [batch, num_logits]: the first of the largest logits, and a value that
  is finite exactly where all logits of the row are. A few bytes come back of each call; the logits only if asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edgedsl.errors import ExportError

HEAD = "/lm_head/MatMul"
_LENGTHS = "/lengths/"
_ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def to_device(model: onnx.ModelProto, dtype: str, context_length: int) -> None:
    """Change a graph of the fused exporter, quantised or not, in place.

    Args:
        model: with ``num_logits`` and all weights inside.
        dtype: ``float16`` or ``bfloat16``; ``float32`` changes inputs and outputs only.
        context_length: positions of the cache.

    Raises:
        ExportError: a weight is out of the type's range.
    """
    graph = model.graph
    _take_lengths(graph, context_length)
    _take_positions(graph)
    _cut_heads(graph)
    if dtype != "float32":
        _halve(graph, dtype)
    _add_choice(graph)
    _drop_unused(graph)


def _take_lengths(graph: onnx.GraphProto, context_length: int) -> None:
    """The lengths come from outside."""
    _replace(graph, [node for node in graph.node if not node.name.startswith(_LENGTHS)])
    _remove_input(graph, "attention_mask")
    graph.input.append(helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]))
    graph.initializer.append(numpy_helper.from_array(np.array(context_length, np.int32), "total_sequence_length"))


def _take_positions(graph: onnx.GraphProto) -> None:
    """The hidden states that get logits are gathered; a slice's bounds would be read on the CPU."""
    (cut,) = [node for node in graph.node if node.name == "/lm_head/Slice"]
    gather = helper.make_node(
        "Gather", [cut.input[0], "logit_positions"], list(cut.output), name="/lm_head/Gather", axis=1
    )
    _replace(graph, [gather if node is cut else node for node in graph.node if node.name != "/lm_head/Neg"])
    _remove_input(graph, "num_logits")
    graph.input.append(helper.make_tensor_value_info("logit_positions", TensorProto.INT64, ["num_logits"]))


def _cut_heads(graph: onnx.GraphProto) -> None:
    """Parts of different widths by slices: CUDA's Split reads their addresses from the host, which no capture keeps."""
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Split" and len(node.input) == 2:
            nodes += _slices(graph, node, numpy_helper.to_array(weights[node.input[1]]).tolist())
        else:
            nodes.append(node)
    _replace(graph, nodes)


def _slices(graph: onnx.GraphProto, node: onnx.NodeProto, widths: list[int]) -> Iterator[onnx.NodeProto]:
    start = 0
    for output, width in zip(node.output, widths, strict=True):
        bounds = [_integers(graph, f"heads.{value}", [value]) for value in (start, start + width)]
        yield helper.make_node(
            "Slice", [node.input[0], *bounds, _integers(graph, "heads.axis", [-1])], [output], name=f"{output}/Slice"
        )
        start += width


def _halve(graph: onnx.GraphProto, dtype: str) -> None:
    """All up to the head's product; from there on fp32."""
    element_type = _ELEMENT_TYPES[dtype]
    place = next(index for index, node in enumerate(graph.node) if node.name == HEAD)
    half = {name for node in graph.node[: place + 1] for name in node.input}
    for weight in graph.initializer:
        if weight.name in half and weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(_halved(weight, dtype))
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            value.type.tensor_type.elem_type = element_type
    head = graph.node[place]
    cast = helper.make_node("Cast", ["/lm_head/half"], list(head.output), name="/lm_head/Cast", to=TensorProto.FLOAT)
    head.output[0] = "/lm_head/half"
    graph.node.insert(place + 1, cast)


def _halved(weight: onnx.TensorProto, dtype: str) -> onnx.TensorProto:
    array = torch.from_numpy(numpy_helper.to_array(weight).copy()).to(_TORCH_TYPES[dtype])
    if not array.isfinite().all():
        raise ExportError(
            f"the weight '{weight.name}' has values beyond the range of {dtype}", hint="take '--quantize bf16'"
        )
    return helper.make_tensor(
        weight.name, _ELEMENT_TYPES[dtype], weight.dims, array.view(torch.int16).numpy().tobytes(), raw=True
    )


def _add_choice(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "choice.zero"))
    graph.node.extend(
        [
            helper.make_node("ArgMax", ["logits"], ["best_token"], name="/choice/ArgMax", axis=-1, keepdims=0),
            helper.make_node("Mul", ["logits", "choice.zero"], ["/choice/Mul/output"], name="/choice/Mul"),
            helper.make_node(
                "ReduceSum", ["/choice/Mul/output", _integers(graph, "choice.axis", [-1])], ["check"],
                name="/choice/ReduceSum", keepdims=0,
            ),
        ]
    )  # fmt: skip
    for name, element_type in (("best_token", TensorProto.INT64), ("check", TensorProto.FLOAT)):
        graph.output.append(helper.make_tensor_value_info(name, element_type, ["batch", "num_logits"]))


def _integers(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    if all(weight.name != name for weight in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _remove_input(graph: onnx.GraphProto, name: str) -> None:
    graph.input.remove(next(value for value in graph.input if value.name == name))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
