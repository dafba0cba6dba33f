"""Adapter + base model -> merged model, in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgedsl.errors import ModelError, first_line
from edgedsl.exporters.nf4 import round_trip

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "prompt.json", "grammar.lark")
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def read_run(adapter: Path) -> dict[str, Any]:
    """run.json of an adapter folder.

    Raises:
        ModelError: the folder is not an adapter that ``edgedsl train`` finished.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    try:
        run: dict[str, Any] = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
        _ = run["base_model"]["name"], run["base_model"]["sha256"], run["config"]["train"]["quantization"]
        reason = f"{missing[0]} is missing" if missing else ""
    except FileNotFoundError:
        reason = "run.json is missing"
    except (OSError, ValueError, KeyError, TypeError) as exc:
        reason = f"run.json cannot be used: {type(exc).__name__}: {first_line(exc)}"
    if reason:
        raise ModelError(
            f"'{adapter}' is not a finished adapter: {reason}", hint="run 'edgedsl train', or 'edgedsl train --resume'"
        )
    return run


def check_base(run: dict[str, Any], base_sha256: str, base_name: str) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        ModelError: the weights of the base are not those the adapter was trained on.
    """
    trained_on = run["base_model"]
    if trained_on["sha256"] != base_sha256:
        raise ModelError(
            f"the adapter was trained on '{trained_on['name']}' (sha256 {trained_on['sha256'][:12]}), "
            f"the base model '{base_name}' is another (sha256 {base_sha256[:12]})",
            hint="set [project] base_model to the one of training, or train again",
        )


def load_adapted(base: Path, adapter: Path, *, is_qlora: bool) -> Any:
    """The base model in fp32 with the adapter attached, ready for inference.

    A QLoRA adapter learned against 4-bit weights, so these are what it is put on: quantised and dequantised again.

    Raises:
        ModelError: one of them cannot be read, or the adapter does not fit the base model.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )
    except _LOAD_ERRORS as exc:
        raise ModelError(f"the base model in '{base}' cannot be loaded: {first_line(exc)}") from exc
    if is_qlora:
        _quantize_linears(model)
    try:
        return PeftModel.from_pretrained(model, adapter).eval()
    except _LOAD_ERRORS as exc:
        raise ModelError(
            f"the adapter '{adapter}' does not fit its base model: {first_line(exc)}",
            hint="train again on this base model",
        ) from exc


def _quantize_linears(model: Any) -> None:
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.weight.data = round_trip(module.weight.data)
