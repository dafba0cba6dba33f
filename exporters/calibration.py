"""What the training pairs say about each layer's inputs: their second moments, their ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

# A packed projection of the fused graph reads what each of its parts reads.
_PACKED = {"/self_attn/q_proj/": "/self_attn/qkv_proj/", "/mlp/gate_proj/": "/mlp/gate_up_proj/"}
Rows = Sequence[Sequence[int]]
Observed = TypeVar("Observed")


@dataclass(frozen=True)
class Inputs:
    """Each input channel of a layer on calibration rows: smallest and largest value, mean square; fp32 [channels]."""

    low: torch.Tensor
    high: torch.Tensor
    mean_square: torch.Tensor

    @property
    def widths(self) -> torch.Tensor:
        """Largest magnitude of each channel."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def divided(self, scales: torch.Tensor) -> Inputs:
        """The same with each channel divided by its scale, positive [channels]."""
        return Inputs(self.low / scales, self.high / scales, self.mean_square / scales.square())

    def at(self, channels: NDArray[np.intp]) -> Inputs:
        """Those of some channels."""
        picked = torch.from_numpy(channels)
        return Inputs(self.low[picked], self.high[picked], self.mean_square[picked])


def input_moments(model: Any, rows: Rows) -> dict[str, torch.Tensor]:
    """Mean of x x^T over every linear layer's inputs x on token rows; memory grows with the square of the widths.

    Returns:
        Node name of the graph (``/model/layers.0/mlp/up_proj/MatMul``) -> fp32 [channels, channels].
    """
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, inputs: torch.Tensor) -> None:
        total = sums.setdefault(name, torch.zeros(inputs.shape[-1], inputs.shape[-1]))
        total.addmm_(inputs.T, inputs)

    _observe(model, rows, add)
    num_tokens = sum(len(row) for row in rows)
    return _by_node({name: total / num_tokens for name, total in sums.items()})


def input_channels(model: Any, rows: Rows, num_skipped: int = 0) -> dict[str, Inputs]:
    """Ranges and mean squares of every linear layer's inputs.

    Args:
        model: of transformers.
        rows: token ids.
        num_skipped: leading tokens of each row that do not count, since they are never computed where this is for.

    Returns:
        Node name of the graph -> what was seen.
    """
    found: dict[str, Inputs] = {}
    num_tokens = sum(len(row) - num_skipped for row in rows)

    def widen(name: str, inputs: torch.Tensor) -> None:
        counted = inputs[num_skipped:]
        low, high, mean_square = counted.amin(0), counted.amax(0), counted.square().sum(0) / num_tokens
        if known := found.get(name):
            low, high = torch.minimum(low, known.low), torch.maximum(high, known.high)
            mean_square += known.mean_square
        found[name] = Inputs(low, high, mean_square)

    _observe(model, rows, widen)
    return _by_node(found)


def _observe(model: Any, rows: Rows, see: Callable[[str, torch.Tensor], None]) -> None:
    """Show each linear layer's inputs, fp32 [tokens, channels], with its name, row by row."""
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(_hook(name, see)) for name, module in linears]
    try:
        with torch.inference_mode():
            for row in rows:
                model(torch.tensor([row]))
    finally:
        for hook in hooks:
            hook.remove()


def _hook(name: str, see: Callable[[str, torch.Tensor], None]) -> Any:
    return lambda module, inputs: see(name, inputs[0].float().reshape(-1, module.in_features))


def _by_node(by_module: Mapping[str, Observed]) -> dict[str, Observed]:
    """The same by name of the node, those of the packed nodes of a fused graph too."""
    found = {_node_name(name): observed for name, observed in by_module.items()}
    for name in list(found):
        for part, packed in _PACKED.items():
            if part in name:
                found[name.replace(part, packed)] = found[name]
    return found


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
