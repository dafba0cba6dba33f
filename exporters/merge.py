"""Adapter + base model -> merged model, in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgedsl.basemodels.model import attention_of
from edgedsl.errors import ModelError, first_line
from edgedsl.exporters.nf4 import round_trip

_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


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
            base,
            dtype=torch.float32,
            attn_implementation=attention_of(base),
            local_files_only=True,
            use_safetensors=True,
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
