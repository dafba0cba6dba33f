"""What the training pairs say about the weights: how large each input channel of each layer runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def channel_importance(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """Mean square of every linear layer's input channels over token rows.

    Returns:
        Node name of the traced graph (``/model/layers.0/mlp/up_proj/MatMul``) -> fp32 [channels].
    """
    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(_adder(sums, name)))
    try:
        with torch.inference_mode():
            for row in rows:
                model(torch.tensor([row]))
    finally:
        for hook in hooks:
            hook.remove()
    num_tokens = sum(len(row) for row in rows)
    return {_node_name(name): (total / num_tokens).numpy().astype(np.float32) for name, total in sums.items()}


def _adder(sums: dict[str, torch.Tensor], name: str) -> Any:
    def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        total = inputs[0].float().square().sum(dim=tuple(range(inputs[0].dim() - 1)))
        sums[name] = sums.get(name, 0) + total

    return add


def _node_name(module_name: str) -> str:
    # The tracer keeps `layers.0` as one scope and separates the others by slashes.
    parts = module_name.split(".")
    scopes: list[str] = []
    for part in parts:
        if part.isdigit():
            scopes[-1] += f".{part}"
        else:
            scopes.append(part)
    return "/" + "/".join(scopes) + "/MatMul"
