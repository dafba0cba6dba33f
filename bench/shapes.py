"""Models with random weights in the shape of real ones: what speed depends on, without a download."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from edgedsl.bundle.manifest import ModelInfo
from edgedsl.exporters.calibration import input_channels
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.fused.on_device import to_device
from edgedsl.exporters.passes.fuse_products import fuse_products
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.passes.row_attention import use_row_attention
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import HALF, RECIPES, kv_dtype
from edgedsl.exporters.w8a8 import quantize_products

_SHAPES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "smollm2-135m": (LlamaConfig, {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152,
    }),
    "qwen2.5-0.5b": (Qwen2Config, {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151_936, "max_position_embeddings": 32_768, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
    }),
}  # fmt: skip
NAMES = tuple(_SHAPES)
_NUM_SEEN = 16  # tokens


def shape(name: str, **changes: Any) -> Any:
    """The configuration of one of :data:`NAMES`, with other numbers where ``changes`` has them."""
    kind, numbers = _SHAPES[name]
    return kind(**{**numbers, "tie_word_embeddings": True, **changes})


def write_random(config: Any, recipe: str, folder: Path, context_length: int) -> ModelInfo:
    """Write model.onnx, the fused graph of a random model; scales are not searched, which changes no time.

    Args:
        config: of transformers.
        recipe: one that needs no second moments; the ranges of w8a8 are those of a few random tokens.
        folder: where to.
        context_length: positions of the graph.

    Returns:
        What a manifest would say of it.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    path = FusedExporter().export(model, folder, context_length=context_length).path
    settings = RECIPES[recipe]
    inputs = input_channels(model, [range(_NUM_SEEN)]) if settings and settings.integer_for else {}
    del model
    graph = onnx.load(path)
    kept = {name: found for name, found in inputs.items() if settings and settings.is_integer(name)}
    quantize_products(graph, kept, math.inf)
    if settings:
        quantize_model(graph, replace(settings, search_steps=1))
    if recipe in HALF:
        to_device(graph, HALF[recipe], context_length)
    served = ir.from_proto(graph)
    if settings and settings.is_native:
        fuse_products(served)
        use_row_attention(served)
    save_graph(served, path)
    return ModelInfo(
        architecture=config.model_type, base_model="random weights", base_sha256="", adapter_sha256="",
        num_layers=config.num_hidden_layers, num_kv_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads, vocab_size=config.vocab_size,
        context_length=context_length, kv_layout="shared", quantization=recipe, kv_dtype=kv_dtype(recipe),
    )  # fmt: skip
