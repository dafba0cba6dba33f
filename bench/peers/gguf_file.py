"""A merged Hugging Face folder of the Llama architecture as a GGUF file in fp16, as llama.cpp's converter writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from edgedsl.basemodels.model import read_json, weight_files
from edgedsl.errors import ModelError

_ARCHITECTURE = "llama"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
# llama.cpp's names of pre-tokenizers; another one would split words wrongly without an error.
_PRETOKENIZERS = {"gpt-2": [_BYTE_LEVEL], "smollm": [_DIGITS, _BYTE_LEVEL]}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def write_gguf(merged: Path, target: Path) -> None:
    """Write the file. Matrices are fp16, vectors fp32; tied heads are left out, as llama.cpp expects.

    Raises:
        ModelError: an architecture, rotary scaling or tokenizer of another kind.
    """
    config = read_json(merged / "config.json")
    _check(config)
    writer = gguf.GGUFWriter(target, _ARCHITECTURE)
    _add_shape(writer, config)
    _add_tokenizer(writer, merged, config)
    for name, values in _tensors(merged, config):
        is_matrix = values.ndim > 1
        writer.add_tensor(name, values.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(config: dict[str, Any]) -> None:
    if config.get("model_type") != _ARCHITECTURE:
        raise ModelError(f"GGUF is written for llama models only, not for '{config.get('model_type')}'")
    if config.get("rope_scaling") or config.get("attention_bias") or config.get("mlp_bias"):
        raise ModelError("GGUF is written for llama models without rotary scaling and biases only")


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter, merged: Path, config: dict[str, Any]) -> None:
    document = json.loads((merged / "tokenizer.json").read_text(encoding="utf-8"))
    model = document["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ModelError("GGUF is written for byte-level BPE tokenizers only")
    special = {token["content"]: token["special"] for token in document["added_tokens"]}
    ids = model["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
    tokens = sorted(ids, key=lambda token: int(ids[token]))
    if [ids[token] for token in tokens] != list(range(config["vocab_size"])):
        raise ModelError(f"the tokenizer has {len(tokens)} tokens, the model {config['vocab_size']}")
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pretokenizer(document))
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(token)] for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def _pretokenizer(document: dict[str, Any]) -> str:
    steps = document.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    plain = [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]
    for name, known in _PRETOKENIZERS.items():
        if plain == known:
            return name
    raise ModelError(f"GGUF is written for the pre-tokenizers {', '.join(_PRETOKENIZERS)} only")


def _tensors(merged: Path, config: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for file in weight_files(merged):
        if not file.endswith(".safetensors"):
            continue
        with safe_open(merged / file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name == "lm_head.weight" and config["tie_word_embeddings"]:
                    continue
                target, part = _target(name.removesuffix(".weight"))
                values = tensors.get_tensor(name)
                yield f"{target}.weight", _interleaved(values, heads[part]) if part in heads else values


def _target(name: str) -> tuple[str, str]:
    """GGUF's name of a tensor, and its part after the layer."""
    layer = _LAYER.fullmatch(name)
    try:
        part = _NAMES[layer[2] if layer else name]
    except KeyError as exc:
        raise ModelError(f"GGUF has no place for the tensor '{name}'") from exc
    return (f"blk.{layer[1]}.{part}" if layer else part), part


def _interleaved(values: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of each head from halves to pairs: llama.cpp rotates neighbours, Hugging Face the two halves."""
    rows, columns = values.shape
    halves = values.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
