"""What a decoder computes, read from its transformers configuration: everything but the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

# The activation between gate and down projection: transformers' name -> operator of com.microsoft, its attributes.
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "silu": ("QuickGelu", {"alpha": 1.0}),
    "gelu_pytorch_tanh": ("FastGelu", {}),
}


@dataclass(frozen=True)
class Plan:
    """A stack of decoder layers: a Llama's where nothing else is said.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key and value heads.
        head_dim: width of a head.
        norm_epsilon: of every RMS norm.
        activation: key of :data:`ACTIVATIONS`.
        windows: per layer, how many positions a token attends to, itself included; None is all of them.
        rotary: per layer, the name of its rotary table (a layer type of transformers); None is no rotary embedding.
        attention_scale: factor of query times key.
        attention_softcap: bound of the scaled products, s * tanh(x / s); 0 is none.
        has_head_norms: RMS norms on each head of queries and keys, before the rotary embedding.
        has_output_norms: RMS norms on what attention and MLP add to the residual stream.
        norm_offset: what is added to the stored weight of a norm.
        embedding_scale: factor of the embeddings.
        residual_scale: factor of what attention and MLP add to the residual stream.
        logits_scale: factor of the logits.
        logits_softcap: bound of the scaled logits; 0 is none.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_epsilon: float
    activation: str
    windows: tuple[int | None, ...]
    rotary: tuple[str | None, ...]
    attention_scale: float
    attention_softcap: float = 0.0
    has_head_norms: bool = False
    has_output_norms: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    logits_softcap: float = 0.0

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.windows)


def plan_of(config: Any) -> Plan:
    """The plan of a configuration for which :func:`uncovered` finds nothing."""
    return _PLANS[config.model_type](config)


def uncovered(config: Any, context_length: int) -> str:
    """Why the fused graph cannot compute what this configuration says; empty if it can.

    Args:
        config: transformers configuration of a causal language model.
        context_length: positions the graph is to know.
    """
    if getattr(config, "is_heterogeneous", False):  # transformers 5; a field that differs cannot be read below
        return f"its layers differ in {', '.join(sorted(config.per_layer_attributes))}"
    if config.model_type not in _PLANS:
        return f"the architecture '{config.model_type}' is none of {', '.join(sorted(_PLANS))}"
    plan = plan_of(config)
    if plan.activation not in ACTIVATIONS:
        return f"its activation '{plan.activation}' is none of {', '.join(ACTIVATIONS)}"
    if plan.head_dim % 16:
        return f"its heads are {plan.head_dim} wide, the attention operator takes multiples of 16"
    if getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True):
        return "its attention looks ahead"
    return _uncovered_rotary(config, context_length)


def _uncovered_rotary(config: Any, context_length: int) -> str:
    # Angles that change with the length of the sequence fit into one table as long as the change is never reached.
    limit = config.max_position_embeddings
    for scaling in _rotary_scalings(config):
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type == "longrope":
            limit = min(limit, _original_length(config, scaling))
        if rope_type in {"longrope", "dynamic"} and context_length > limit:
            return f"its rotary scaling '{rope_type}' changes at {limit} positions, {context_length} are asked for"
    return ""


def _original_length(config: Any, scaling: Mapping[str, Any]) -> int:
    """Positions of the training before the context was stretched; transformers keeps the figure in either place."""
    known = getattr(config, "original_max_position_embeddings", None)
    return int(known or scaling.get("original_max_position_embeddings") or config.max_position_embeddings)


def _rotary_scalings(config: Any) -> list[Mapping[str, Any]]:
    # transformers 4: `rope_scaling`, or None; 5: `rope_parameters`, by layer type where layers differ.
    scaling: Mapping[str, Any] = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in scaling.values() if isinstance(value, Mapping)]
    return nested or [scaling]


def _llama(config: Any) -> Plan:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Plan(
        num_heads=config.num_attention_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=head_dim,
        norm_epsilon=config.rms_norm_eps,
        activation=getattr(config, "hidden_activation", None) or config.hidden_act,
        windows=(None,) * config.num_hidden_layers,
        rotary=("full_attention",) * config.num_hidden_layers,
        attention_scale=head_dim**-0.5,
    )


def _windowed(config: Any) -> Plan:
    plan = _llama(config)
    return replace(plan, windows=(config.sliding_window,) * plan.num_layers)


def _typed_windows(config: Any) -> Plan:
    windows = tuple(config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types)
    return replace(_llama(config), windows=windows)


def _qwen3(config: Any) -> Plan:
    return replace(_typed_windows(config), has_head_norms=True)


def _smollm3(config: Any) -> Plan:
    plan = _typed_windows(config)
    # Despite its name, 1 in `no_rope_layers` is a layer with the rotary embedding.
    names = zip(plan.rotary, config.no_rope_layers, strict=True)
    return replace(plan, rotary=tuple(name if has_rotary else None for name, has_rotary in names))


def _granite(config: Any) -> Plan:
    return replace(
        _llama(config),
        attention_scale=config.attention_multiplier,
        embedding_scale=config.embedding_multiplier,
        residual_scale=config.residual_multiplier,
        logits_scale=1.0 / config.logits_scaling,
    )


def _gemma2(config: Any) -> Plan:
    logits_softcap = config.final_logit_softcapping or 0.0
    return replace(
        _typed_windows(config),
        attention_scale=config.query_pre_attn_scalar**-0.5,
        attention_softcap=config.attn_logit_softcapping or 0.0,
        has_output_norms=True,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        logits_softcap=logits_softcap,
    )


def _gemma3(config: Any) -> Plan:
    return replace(_gemma2(config), has_head_norms=True, rotary=tuple(config.layer_types))


_PLANS: dict[str, Callable[[Any], Plan]] = {
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _granite,
    "llama": _llama,
    "mistral": _windowed,
    "phi3": _windowed,
    "qwen2": _typed_windows,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}
