"""Models that nobody trained: one of each architecture, the tiny Llama as ONNX graphs of both cache layouts, and a tiny
project with an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tiny import tiny_llama, tiny_template, write_language, write_pairs
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from edgedsl.basemodels.load import without_old_names
from edgedsl.basemodels.model import weights_digest
from edgedsl.bundle.manifest import write_manifest
from edgedsl.bundle.schema import ModelInfo
from edgedsl.config import Config, load_config
from edgedsl.exporters.optimum import OptimumExporter
from edgedsl.runtime.decoder import Decoder

CONTEXT = 96
HAS_OPTIMUM = Version(transformers.__version__).major == 4
ONLY_WITH_4 = "optimum-onnx takes transformers 4 only"
needs_optimum = pytest.mark.skipif(not HAS_OPTIMUM, reason=ONLY_WITH_4)
# Of models that are made without a file; the special tokens of some classes are beyond the vocabulary otherwise.
SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = {"type": "longrope", "short_factor": [1.0] * 3 + [1.5] * 5, "long_factor": [4.0] * 8}
GEMMA: dict[str, Any] = {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24}
GRANITE: dict[str, Any] = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
}  # fmt: skip
# Every architecture that the fused graph covers, and what it may have beside it.
CASES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "llama, tied, rotary scaling of 3.x": LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_scaling=LLAMA3),
    "llama, yarn": LlamaConfig(**SHAPE, rope_scaling=YARN),
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, window": MistralConfig(**SHAPE, sliding_window=8),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, window": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
    "gemma2": Gemma2Config(**SHAPE, **GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, **GEMMA, layer_types=["sliding_attention", "full_attention"]),
    "phi3": Phi3Config(**SHAPE, sliding_window=8),
    "phi3, longrope": Phi3Config(**SHAPE, original_max_position_embeddings=128, rope_scaling=LONG),
    "phi3, partly rotary": Phi3Config(
        **{**SHAPE, "num_attention_heads": 2, "num_key_value_heads": 2}, partial_rotary_factor=0.5
    ),
    "smollm3": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0]),
    "smollm3, window": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=8),
    "granite": GraniteConfig(**SHAPE, **GRANITE),
    "granite, biases": GraniteConfig(**SHAPE, **GRANITE, attention_bias=True, mlp_bias=True),
}
PROJECT = """
[project]
name = "tiny"
base_model = "base"
[data]
train = "pairs.jsonl"
dev = "pairs.jsonl"
[export]
gate = 0.0
eval_rows = 4
context_length = 96
[generate]
max_tokens = 16
[runtime]
num_threads = 1
"""


@dataclass(frozen=True)
class TinyOnnx:
    """The torch model and a decoder maker of each layout."""

    model: Any
    shared: Callable[[], Decoder]
    growing: Callable[[], Decoder]

    def reference(self, token_ids: list[int]) -> np.ndarray:
        """Logits [tokens, vocab] of the torch model in one pass without a cache."""
        with torch.inference_mode():
            logits: np.ndarray = self.model(torch.tensor([token_ids])).logits[0].numpy()
        return logits


def model_info(config: Any, kv_layout: str, context_length: int = CONTEXT) -> ModelInfo:
    """What a manifest would say of a transformers configuration."""
    return ModelInfo(
        architecture=config.model_type,
        base_model="tiny",
        base_sha256="",
        adapter_sha256="",
        num_layers=config.num_hidden_layers,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        context_length=context_length,
        kv_layout=kv_layout,
        quantization="none",
    )


def make_model(config: Any) -> Any:
    """A random model in which every parameter matters."""
    torch.manual_seed(0)
    # sdpa leaves out the soft cap of the scores.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3 if "norm" in name or name.endswith("bias") else 0.15)
            if "norm" in name:
                parameter.add_(1.0)
    return model


def export_tiny(model: Any, folder: Path) -> Callable[[], Decoder]:
    """Export a model; the result loads it."""
    folder.mkdir(parents=True)
    graph = OptimumExporter().export(model, folder, context_length=CONTEXT)
    info = model_info(model.config, graph.kv_layout)
    return lambda: Decoder(graph.path, info, num_threads=1)


def write_project(folder: Path) -> Config:
    """A whole tiny project: base model, language, pairs, project file and a random adapter with its run.json."""
    tiny_llama(folder / "base")
    write_language(folder)
    write_pairs(folder / "pairs.jsonl")
    (folder / "edgedsl.toml").write_text(PROJECT, encoding="utf-8")
    config = load_config(folder)
    write_adapter(config, folder / "adapter")
    return config


def sign(folder: Path) -> None:
    """Write the manifest of a changed bundle anew."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    fields = {name: manifest[name] for name in ("name", "config", "parity", "quality", "versions")}
    write_manifest(folder, model=ModelInfo(**manifest["model"]), **fields)


def write_adapter(config: Config, folder: Path) -> None:
    """What ``edgedsl train`` leaves behind, with random LoRA matrices."""
    from peft import LoraConfig, get_peft_model

    base = config.path("base")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with without_old_names():
        get_peft_model(model, lora).save_pretrained(folder)
    for name in ("grammar.lark", "catalogue.json"):
        (folder / name).write_bytes(config.path(name).read_bytes())
    (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (folder / "prompt.json").write_text(json.dumps(tiny_template().to_dict()), encoding="utf-8")
    run = {"base_model": {"name": "base", "sha256": weights_digest(base)}, "config": config.to_dict()}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
