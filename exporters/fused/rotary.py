"""The model's own cosines and sines as tables: whatever its rotary scaling is."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Table = tuple[NDArray[np.float32], NDArray[np.float32]]


def rotary_table(model: Any, layer_type: str, context_length: int) -> Table:
    """Cosines and sines of the layers of one type, [context_length, rotated width / 2] each."""
    rotary, arguments = _rotary_of(model.model, layer_type)
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(context_length)[None], *arguments)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().numpy().copy(), sin[0, :, :half].float().numpy().copy()


def _rotary_of(decoder: Any, layer_type: str) -> tuple[Any, tuple[str, ...]]:
    # Gemma 3: transformers 4 has a module for the sliding layers, 5 has one module that is told the type.
    if layer_type == "sliding_attention" and hasattr(decoder, "rotary_emb_local"):
        return decoder.rotary_emb_local, ()
    takes_type = "layer_type" in inspect.signature(decoder.rotary_emb.forward).parameters
    return decoder.rotary_emb, (layer_type,) if takes_type else ()
