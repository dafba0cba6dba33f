"""The parameters of a torch model by name, in the shapes the graph wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgedsl.errors import ExportError

Array = NDArray[np.float32]
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class Weights:
    """Each is converted when it is asked for, so that one copy at a time is in memory beside the model."""

    def __init__(self, model: Any) -> None:
        self._tensors: dict[str, torch.Tensor] = model.state_dict()
        self._architecture: str = model.config.model_type
        self._untaken = set(self._tensors)

    def embedding(self, scale: float) -> Array:
        """[vocab, hidden]."""
        return _array(self._take(EMBEDDING), scale)

    def head(self, scale: float) -> Array:
        """[hidden, vocab]."""
        return _array(self._take(HEAD if HEAD in self._tensors else EMBEDDING).T, scale)

    def matrix(self, names: Sequence[str], scale: float = 1.0) -> Array:
        """[inputs, outputs] of linear layers that read the same input, side by side."""
        return _array(torch.cat([self._take(f"{name}.weight") for name in names]).T, scale)

    def bias(self, names: Sequence[str], scale: float = 1.0) -> Array | None:
        """[outputs] of the same layers, if they have biases."""
        if f"{names[0]}.bias" not in self._tensors:
            return None
        return _array(torch.cat([self._take(f"{name}.bias") for name in names]), scale)

    def norm(self, name: str, offset: float) -> Array:
        """[width] of an RMS norm."""
        return _array(self._take(f"{name}.weight") + offset)

    def has(self, name: str) -> bool:
        """Whether the model has a linear layer of this name."""
        return f"{name}.weight" in self._tensors

    def check_all_taken(self) -> None:
        """Nothing the model computes with was left out.

        Raises:
            ExportError: a parameter has no place in the graph.
        """
        if self._untaken:
            raise _not_understood(self._architecture, f"has '{min(self._untaken)}', which the fused graph does not use")

    def _take(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise _not_understood(self._architecture, f"has no '{name}', which the fused graph wants")
        self._untaken.discard(name)
        return self._tensors[name].detach()


def _not_understood(architecture: str, what: str) -> ExportError:
    return ExportError(f"this '{architecture}' model {what}", hint="export with '--graph optimum'")


def _array(tensor: torch.Tensor, scale: float = 1.0) -> Array:
    tensor = tensor.float() if scale == 1.0 else tensor.float() * scale
    array: Array = tensor.contiguous().cpu().numpy()
    return array
