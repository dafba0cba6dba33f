"""Decoder layers out of ONNX Runtime's fused operators (its ContribOperators.md).

Nodes are named like the modules that the weights come from (``/model/layers.0/self_attn/o_proj/MatMul``); projections
that read the same input are one node, ``qkv_proj`` and ``gate_up_proj``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedsl.exporters.fused.graph import Graph
from edgedsl.exporters.fused.plan import ACTIVATIONS, Plan
from edgedsl.exporters.fused.weights import Weights

FUSED = "com.microsoft"


@dataclass(frozen=True)
class Layers:
    """Adds layers to a graph.

    Values: ``stream`` is the residual stream, ``update`` what is still to be added to it; both fp32 [batch, tokens,
    hidden]. The addition is one operator with the norm that follows.
    """

    graph: Graph
    plan: Plan
    weights: Weights

    def add(self, layer: int, stream: str, update: str) -> tuple[str, str]:
        """Add one layer; returns stream and update after it."""
        scope = f"model.layers.{layer}"
        before_mlp = "pre_feedforward_layernorm" if self.plan.has_output_norms else "post_attention_layernorm"
        normed, stream = self.add_norm(f"{scope}.input_layernorm", stream, update)
        update = self._attention(f"{scope}.self_attn", layer, normed)
        update = self._output_norm(f"{scope}.post_attention_layernorm", update)
        normed, stream = self.add_norm(f"{scope}.{before_mlp}", stream, update)
        update = self._mlp(f"{scope}.mlp", normed)
        return stream, self._output_norm(f"{scope}.post_feedforward_layernorm", update)

    def add_norm(self, name: str, stream: str, update: str) -> tuple[str, str]:
        """Add ``update`` (empty: nothing) to the stream and normalise; returns the normalised and the new stream."""
        if not update:
            return self._norm(name, stream), stream
        scope = _path(name)
        self.graph.nodes(
            "SkipSimplifiedLayerNormalization",
            [stream, update, self._norm_weight(name)],
            f"{scope}/SkipSimplifiedLayerNormalization",
            [f"{scope}/output", "", "", f"{scope}/stream"],
            domain=FUSED,
            epsilon=self.plan.norm_epsilon,
        )
        return f"{scope}/output", f"{scope}/stream"

    def _norm(self, name: str, value: str) -> str:
        node = f"{_path(name)}/SimplifiedLayerNormalization"
        inputs = [value, self._norm_weight(name)]
        return self.graph.node("SimplifiedLayerNormalization", inputs, node, axis=-1, epsilon=self.plan.norm_epsilon)

    def _norm_weight(self, name: str) -> str:
        return self.graph.weight(f"{name}.weight", self.weights.norm(name, self.plan.norm_offset))

    def _output_norm(self, name: str, update: str) -> str:
        return self._norm(name, update) if self.plan.has_output_norms else update

    def _linear(self, name: str, value: str, scale: float = 1.0, parts: Sequence[str] = ()) -> str:
        """``parts`` are the modules side by side whose weights make this one's, unless the model has packed them."""
        scope = name.rpartition(".")[0]
        sources = [f"{scope}.{part}" for part in parts] if parts and not self.weights.has(name) else [name]
        weight = self.graph.weight(f"{name}.weight", self.weights.matrix(sources, scale))
        product = self.graph.node("MatMul", [value, weight], f"{_path(name)}/MatMul")
        bias = self.weights.bias(sources, scale)
        if bias is None:
            return product
        return self.graph.node("Add", [product, self.graph.weight(f"{name}.bias", bias)], f"{_path(name)}/Add")

    def _mlp(self, scope: str, value: str) -> str:
        path = _path(scope)
        both = self._linear(f"{scope}.gate_up_proj", value, parts=["gate_proj", "up_proj"])
        gate, up = self.graph.nodes(
            "Split", [both], f"{path}/Split", [f"{path}/gate", f"{path}/up"], axis=-1, num_outputs=2
        )
        operator, attributes = ACTIVATIONS[self.plan.activation]
        gate = self.graph.node(operator, [gate], f"{path}/{operator}", domain=FUSED, **attributes)
        product = self.graph.node("Mul", [gate, up], f"{path}/Mul")
        return self._linear(f"{scope}.down_proj", product, self.plan.residual_scale)

    def _attention(self, scope: str, layer: int, value: str) -> str:
        query = self._linear(f"{scope}.qkv_proj", value, parts=["q_proj", "k_proj", "v_proj"])
        heads = self._normed_heads(scope, query) if self.plan.has_head_norms else [query, "", ""]
        past = [self._past(layer, "key"), self._past(layer, "value")]
        table = self.plan.rotary[layer]
        rotary = [f"rotary.{table}.cos", f"rotary.{table}.sin"] if table else []
        node = f"{_path(scope)}/GroupQueryAttention"
        self.graph.nodes(
            "GroupQueryAttention",
            [*heads, *past, "seqlens_k", "total_sequence_length", *rotary],
            node,
            [f"{node}/output", f"present.{layer}.key", f"present.{layer}.value"],
            domain=FUSED,
            num_heads=self.plan.num_heads,
            kv_num_heads=self.plan.num_kv_heads,
            scale=self.plan.attention_scale,
            softcap=self.plan.attention_softcap,
            local_window_size=self.plan.windows[layer] or -1,
            do_rotary=int(table is not None),
            rotary_interleaved=0,
        )
        return self._linear(f"{scope}.o_proj", f"{node}/output", self.plan.residual_scale)

    def _past(self, layer: int, part: str) -> str:
        shape = ("batch", self.plan.num_kv_heads, "cache_length", self.plan.head_dim)
        self.graph.output(f"present.{layer}.{part}", shape)
        return self.graph.input(f"past_key_values.{layer}.{part}", shape)

    def _normed_heads(self, scope: str, packed: str) -> list[str]:
        path, plan = _path(scope), self.plan
        widths = [plan.num_heads * plan.head_dim, *(2 * [plan.num_kv_heads * plan.head_dim])]
        sizes = self.graph.integers("heads.widths", widths)
        query, key, value = self.graph.nodes(
            "Split", [packed, sizes], f"{path}/Split", [f"{path}/{part}" for part in ("query", "key", "value")], axis=-1
        )
        return [self._normed(f"{scope}.q_norm", query), self._normed(f"{scope}.k_norm", key), value]

    def _normed(self, name: str, value: str) -> str:
        path = _path(name)
        apart = self.graph.integers("heads.apart", [0, 0, -1, self.plan.head_dim])
        together = self.graph.integers("heads.together", [0, 0, -1])
        heads = self.graph.node("Reshape", [value, apart], f"{path}/Reshape")
        return self.graph.node("Reshape", [self._norm(name, heads), together], f"{path}/Reshape_1")


def _path(name: str) -> str:
    """``model.layers.0.mlp`` -> ``/model/layers.0/mlp``, as torch's tracer spells scopes."""
    parts: list[str] = []
    for part in name.split("."):
        if part.isdigit():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return "/" + "/".join(parts)
