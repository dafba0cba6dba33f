"""Adapter + base model -> merged model, in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgedsl.basemodels.load import load_causal_lm, model_errors, without_old_names
from edgedsl.exporters.nf4 import round_trip


def load_adapted(base: Path, adapter: Path, *, is_qlora: bool) -> Any:
    """The base model in fp32 with the adapter attached, ready for inference.

    A QLoRA adapter learned against 4-bit weights, so these are what it is put on: quantised and dequantised again.

    Raises:
        ModelError: one of them cannot be read, or the adapter does not fit the base model.
    """
    from peft import PeftModel

    model = load_causal_lm(base, torch.float32)
    if is_qlora:
        _quantize_linears(model)
    does_not_fit = f"the adapter '{adapter}' does not fit its base model"
    with without_old_names(), model_errors(does_not_fit, hint="train again on this base model"):
        return PeftModel.from_pretrained(model, adapter).eval()


def _quantize_linears(model: Any) -> None:
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.weight.data = round_trip(module.weight.data)
