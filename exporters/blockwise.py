"""One weight matrix in blocks of few bits.

Each row is cut into blocks; a block keeps one scale and one zero point, w ~ scale * (q - zero_point). The scale is
searched below the plain min/max one (k-quant's idea in llama.cpp) for the least squared error, weighted by the mean
square of the input channel where that is known, so that channels that carry large activations are kept best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgedsl.errors import ExportError

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Recipe:
    """How each weight is stored.

    Attributes:
        bits: 4 or 8, of ordinary weights.
        high_bits_for: substrings of node names whose weights take 8 bits all the same.
        block_size: input channels that share a scale; a power of two, 16 to 256.
        search_steps: scales tried per block; 1 is plain rounding.
        is_calibrated: round by GPTQ, with the second moments of each layer's inputs on training pairs.
        accuracy_level: 4 lets the kernel round activations to int8 per block, 0 keeps them fp32.
        is_integer: products of integers (:mod:`edgedsl.exporters.w8a8`) wherever they lose little; the rest as above.
    """

    bits: int
    high_bits_for: tuple[str, ...] = ()
    block_size: int = 32
    search_steps: int = 1
    is_calibrated: bool = False
    accuracy_level: int = 4
    is_integer: bool = False

    def bits_of(self, node_name: str) -> int:
        """Bits of one weight."""
        return 8 if any(part in node_name for part in self.high_bits_for) else self.bits


@dataclass(frozen=True)
class QuantizedWeight:
    """codes uint8 [rows, channels], scales fp32 [rows, blocks], zero_points uint8 [rows, blocks]."""

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    bits: int
    block_size: int

    def dequantized(self) -> torch.Tensor:
        """fp32 [rows, channels], what the kernel computes with."""
        rows, channels = self.codes.shape
        blocks = self.codes.view(rows, -1, self.block_size).float() - self.zero_points[..., None].float()
        return (blocks * self.scales[..., None]).view(rows, channels)

    def packed_codes(self) -> NDArray[np.uint8]:
        """[rows, blocks, block_size * bits / 8]; with 4 bits the low half of a byte comes first."""
        rows, channels = self.codes.shape
        return _pack(self.codes, self.bits).reshape(rows, channels // self.block_size, -1)

    def packed_zero_points(self) -> NDArray[np.uint8]:
        """[rows, ceil(blocks * bits / 8)]."""
        return _pack(self.zero_points, self.bits)


def quantize_weight(
    weight: torch.Tensor, recipe: Recipe, bits: int, importance: torch.Tensor | None = None
) -> QuantizedWeight:
    """Quantise fp32 [rows, channels]; ``importance`` fp32 [channels] weighs the error.

    Raises:
        ExportError: ``channels`` is no multiple of the block size.
    """
    rows, channels = weight.shape
    if channels % recipe.block_size:
        raise ExportError(
            f"a weight of {channels} input channels cannot be cut into blocks of {recipe.block_size}",
            hint="take '--quantize none'",
        )
    parts = [
        _quantize_rows(weight[i : i + _ROWS_AT_ONCE], recipe, bits, importance) for i in range(0, rows, _ROWS_AT_ONCE)
    ]
    codes, scales, zero_points = (torch.cat([part[i] for part in parts]) for i in range(3))
    return QuantizedWeight(codes, scales, zero_points, bits, recipe.block_size)


def _quantize_rows(
    weight: torch.Tensor, recipe: Recipe, bits: int, importance: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    top = 2**bits - 1
    blocks = weight.reshape(weight.shape[0], -1, recipe.block_size)
    weights = torch.ones(1, *blocks.shape[1:]) if importance is None else importance.reshape(1, -1, recipe.block_size)
    low = blocks.amin(-1).clamp(max=0)
    high = blocks.amax(-1).clamp(min=0)
    best: tuple[torch.Tensor, ...] | None = None
    for shrink in torch.linspace(1.0, 0.8, recipe.search_steps).tolist():
        scales = ((high - low) * shrink / top).clamp(min=1e-10)
        zero_points = (-low * shrink / scales).round().clamp(0, top)
        codes = (blocks / scales[..., None]).add_(zero_points[..., None]).round_().clamp_(0, top)
        error = (((codes - zero_points[..., None]) * scales[..., None] - blocks).square_() * weights).sum(-1)
        candidate = (codes, scales, zero_points, error)
        best = candidate if best is None else _better(best, candidate)
    assert best is not None
    codes, scales, zero_points, _ = best
    return codes.reshape(weight.shape).to(torch.uint8), scales, zero_points.to(torch.uint8)


def _better(best: tuple[torch.Tensor, ...], candidate: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    is_better = candidate[3] < best[3]
    codes = torch.where(is_better[..., None], candidate[0], best[0])
    return (codes, *(torch.where(is_better, new, old) for new, old in zip(candidate[1:], best[1:], strict=True)))


def _pack(values: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    array = values.numpy()
    if bits == 8:
        return array
    if array.shape[1] % 2:
        array = np.pad(array, ((0, 0), (0, 1)))
    packed: NDArray[np.uint8] = array[:, 0::2] | (array[:, 1::2] << 4)
    return packed
