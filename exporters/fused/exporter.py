"""From a model in memory to the fused graph: lengths, embedding, layers, head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from edgedsl.errors import ExportError
from edgedsl.exporters.base import ExportedGraph
from edgedsl.exporters.fused.graph import Graph
from edgedsl.exporters.fused.layers import Layers
from edgedsl.exporters.fused.plan import Plan, plan_of, uncovered
from edgedsl.exporters.fused.rotary import rotary_table
from edgedsl.exporters.fused.weights import EMBEDDING, HEAD, Weights

_TO_THE_END = 2**63 - 1


class FusedExporter:
    """The architectures of :mod:`edgedsl.exporters.fused.plan`, with transformers 4 and 5."""

    name = "fused"

    def export(
        self,
        model: Any,
        folder: Path,
        *,
        context_length: int,
        has_num_logits: bool = True,
    ) -> ExportedGraph:
        """See :class:`~edgedsl.exporters.base.Exporter`.

        Args:
            model: merged causal language model of transformers.
            folder: where model.onnx and model.onnx.data go.
            context_length: positions the graph knows.
            has_num_logits: with one more input, ``num_logits`` int64 [1]: logits of that many last positions only;
                0 stands for all.

        Raises:
            ExportError: the model computes something that the graph cannot.
        """
        if reason := uncovered(model.config, context_length):
            raise ExportError(
                f"the fused graph does not cover this model: {reason}", hint="export with '--graph optimum'"
            )
        path = folder / "model.onnx"
        with Graph(path) as graph:
            plan, weights = plan_of(model.config), Weights(model)
            hidden = _add_layers(graph, plan, weights, model, context_length)
            _add_head(graph, plan, weights, hidden, has_num_logits)
            weights.check_all_taken()
            graph.save()
        return ExportedGraph(path, "shared")


def _add_layers(graph: Graph, plan: Plan, weights: Weights, model: Any, context_length: int) -> str:
    graph.input("input_ids", ("batch", "tokens"), TensorProto.INT64)
    graph.input("attention_mask", ("batch", "total"), TensorProto.INT64)
    _add_lengths(graph)
    for layer_type in sorted({name for name in plan.rotary if name}):
        cos, sin = rotary_table(model, layer_type, context_length)
        graph.weight(f"rotary.{layer_type}.cos", cos)
        graph.weight(f"rotary.{layer_type}.sin", sin)
    table = graph.weight(EMBEDDING, weights.embedding(plan.embedding_scale))
    stream, update = graph.node("Gather", [table, "input_ids"], "/model/embed_tokens/Gather"), ""
    layers = Layers(graph, plan, weights)
    for layer in range(plan.num_layers):
        stream, update = layers.add(layer, stream, update)
    return layers.add_norm("model.norm", stream, update)[0]


def _add_lengths(graph: Graph) -> None:
    """The operator's view of the mask: index of each row's last position, and the length of the longest row."""
    one = graph.integers("length.one", [1])
    column = graph.weight("length.column", np.array(1, np.int64))
    total = graph.node("ReduceSum", ["attention_mask", one], "/lengths/ReduceSum", keepdims=0)
    last = graph.node("Sub", [total, one], "/lengths/Sub")
    graph.node("Cast", [last], "/lengths/Cast", "seqlens_k", to=TensorProto.INT32)
    shape = graph.node("Shape", ["attention_mask"], "/lengths/Shape")
    width = graph.node("Gather", [shape, column], "/lengths/Gather")
    graph.node("Cast", [width], "/lengths/Cast_1", "total_sequence_length", to=TensorProto.INT32)


def _add_head(graph: Graph, plan: Plan, weights: Weights, hidden: str, has_num_logits: bool) -> None:
    if has_num_logits:
        hidden = _last_positions(graph, hidden)
    # The logits' factor, and the division before a soft cap, are in the weights.
    cap = plan.logits_softcap
    matrix = weights.head(plan.logits_scale / (cap or 1.0))
    graph.output("logits", ("batch", "num_logits" if has_num_logits else "tokens", matrix.shape[1]))
    inputs = [hidden, graph.weight(HEAD, matrix)]
    if not cap:
        graph.node("MatMul", inputs, "/lm_head/MatMul", "logits")
        return
    bounded = graph.node("Tanh", [graph.node("MatMul", inputs, "/lm_head/MatMul")], "/softcap/Tanh")
    scale = graph.weight("softcap", np.array(cap, np.float32))
    graph.node("Mul", [bounded, scale], "/softcap/Mul", "logits")


def _last_positions(graph: Graph, hidden: str) -> str:
    start = graph.node("Neg", [graph.input("num_logits", (1,), TensorProto.INT64)], "/lm_head/Neg")
    end, axis = graph.integers("num_logits.end", [_TO_THE_END]), graph.integers("num_logits.axis", [1])
    return graph.node("Slice", [hidden, start, end, axis], "/lm_head/Slice")
