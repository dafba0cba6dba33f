"""What the training pairs say about the weights: the second moments of each layer's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def input_moments(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Mean of x x^T over every linear layer's inputs x on token rows; memory grows with the square of the widths.

    Returns:
        Node name of the traced graph (``/model/layers.0/mlp/up_proj/MatMul``) -> fp32 [channels, channels].
    """
    sums: dict[str, torch.Tensor] = {}
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(_adder(sums, name)) for name, module in linears]
    try:
        with torch.inference_mode():
            for row in rows:
                model(torch.tensor([row]))
    finally:
        for hook in hooks:
            hook.remove()
    num_tokens = sum(len(row) for row in rows)
    return {_node_name(name): total / num_tokens for name, total in sums.items()}


def _adder(sums: dict[str, torch.Tensor], name: str) -> Any:
    def add(module: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
        flat = inputs[0].float().reshape(-1, module.in_features)
        total = sums.setdefault(name, torch.zeros(module.in_features, module.in_features))
        total.addmm_(flat.T, flat)

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
