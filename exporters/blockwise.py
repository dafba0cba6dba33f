"""One weight matrix in blocks of few bits.

Each row is cut into blocks; a block keeps one scale and one zero point, w ~ scale * (q - zero_point). The scale is
searched below the plain min/max one (k-quant's idea in llama.cpp) for the least squared error, weighted by the mean
square of the input channel where that is known, so that channels that carry large activations are kept best.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

_ROWS_AT_ONCE = 4096
_LAYER = re.compile(r"layers\.(\d+)/")


@dataclass(frozen=True)
class Recipe:
    """How each weight is stored, and how it is rounded.

    Attributes:
        bits: 4 or 8, of ordinary weights.
        high_bits_for: substrings of node names whose weights take 8 bits all the same.
        high_layers: layers whose weights do too; negative ones count from the last.
        block_size: input channels that share a scale; a power of two, 16 to 256.
        method: ``rtn`` rounds each weight to the nearest; ``kquant`` weighs errors by what the layer's inputs are on
            training pairs; ``hqq`` see :mod:`edgedsl.exporters.hqq`; ``gptq`` see :mod:`edgedsl.exporters.gptq`.
        search_steps: scales tried per block; 1 is the plain one.
        accuracy_level: 4 lets the kernel round activations to int8 per block, 0 keeps them fp32.
        integer_for: substrings of node names whose products are of integers (:mod:`edgedsl.exporters.w8a8`) where
            they lose little; the rest as above.
        is_native: products of 4 bits are done by edgedsl's own operator (:mod:`edgedsl.exporters.w4a8`).
        has_embedding: the embedding is quantised too.
    """

    bits: int
    high_bits_for: tuple[str, ...] = ()
    high_layers: tuple[int, ...] = ()
    block_size: int = 32
    method: str = "rtn"
    search_steps: int = 1
    accuracy_level: int = 4
    integer_for: tuple[str, ...] = ()
    is_native: bool = False
    has_embedding: bool = True

    def bits_of(self, node_name: str, num_layers: int = 0) -> int:
        """Bits of one weight of a model of so many layers."""
        if any(part in node_name for part in self.high_bits_for):
            return 8
        layer = layer_of(node_name)
        return 8 if layer is not None and {layer, layer - num_layers} & set(self.high_layers) else self.bits

    def is_integer(self, node_name: str) -> bool:
        """Whether a product is one of integers, if it loses little."""
        return any(part in node_name for part in self.integer_for)

    @property
    def layout(self) -> Recipe:
        """The same with plain rounding: all recipes of one layout take the same time and the same room."""
        return replace(self, method="rtn", search_steps=1)


@dataclass(frozen=True)
class QuantizedWeight:
    """codes uint8 [rows, channels], scales fp32 [rows, blocks], zero_points uint8 [rows, blocks].

    The last block is shorter where the block size does not divide the channels.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    bits: int
    block_size: int

    def dequantized(self) -> torch.Tensor:
        """fp32 [rows, channels], what the kernel computes with."""
        return (self.codes.float() - self._spread(self.zero_points.float())) * self._spread(self.scales)

    def packed_blocks(self) -> NDArray[np.uint8]:
        """[rows, blocks, block_size * bits / 8], whole blocks; with 4 bits the low half of a byte comes first."""
        rows, channels = self.codes.shape
        missing = -channels % self.block_size
        filling = self.zero_points[:, -1:].expand(rows, missing)  # weights of 0
        return _pack(torch.cat([self.codes, filling], dim=1), self.bits).reshape(rows, self.scales.shape[1], -1)

    def packed_rows(self) -> NDArray[np.uint8]:
        """[rows, ceil(channels * bits / 8)], the same without the filling of the last block."""
        return _pack(self.codes, self.bits)

    def packed_zero_points(self) -> NDArray[np.uint8]:
        """[rows, ceil(blocks * bits / 8)]."""
        return _pack(self.zero_points, self.bits)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """[rows, blocks] -> [rows, channels]."""
        return values.repeat_interleave(self.block_size, dim=1)[:, : self.codes.shape[1]]


def layer_of(node_name: str) -> int | None:
    """Number of the layer that a node belongs to; None for the embedding and the head."""
    found = _LAYER.search(node_name)
    return int(found[1]) if found else None


def quantize_weight(
    weight: torch.Tensor, recipe: Recipe, bits: int, importance: torch.Tensor | None = None
) -> QuantizedWeight:
    """Quantise fp32 [rows, channels] with the recipe's blocks and search; one step of it is plain rounding.

    ``importance`` fp32 [channels] weighs the error.
    """
    weights = None if importance is None else in_blocks(importance[None], recipe.block_size)
    return quantize_rows(weight, recipe, bits, lambda blocks: _searched(blocks, recipe.search_steps, bits, weights))


def quantize_rows(
    weight: torch.Tensor, recipe: Recipe, bits: int, quantize: Callable[[torch.Tensor], Sequence[torch.Tensor]]
) -> QuantizedWeight:
    """Quantise fp32 [rows, channels], a part of the rows at a time.

    Args:
        weight: of a layer.
        recipe: says the block size.
        bits: of the codes.
        quantize: fp32 [rows, blocks, block_size] -> codes of that shape, scales and zero points [rows, blocks].
    """
    parts = [
        quantize(in_blocks(weight[i : i + _ROWS_AT_ONCE], recipe.block_size))
        for i in range(0, len(weight), _ROWS_AT_ONCE)
    ]
    codes, scales, zero_points = (torch.cat([part[i] for part in parts]) for i in range(3))
    codes = codes.reshape(len(weight), -1)[:, : weight.shape[1]]
    return QuantizedWeight(codes.to(torch.uint8), scales, zero_points.to(torch.uint8), bits, recipe.block_size)


def in_blocks(values: torch.Tensor, block_size: int) -> torch.Tensor:
    """[rows, channels] -> [rows, blocks, block_size]; zeros, which no grid rounds, fill the last block."""
    missing = -values.shape[1] % block_size
    return torch.nn.functional.pad(values, (0, missing)).reshape(len(values), -1, block_size)


def grid_of(blocks: torch.Tensor, bits: int, shrink: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points [rows, blocks] that span a share of each block's range, with 0 on the grid."""
    top = 2**bits - 1
    low = blocks.amin(-1).clamp(max=0)
    high = blocks.amax(-1).clamp(min=0)
    scales = ((high - low) * shrink / top).clamp(min=1e-10)
    return scales, (-low * shrink / scales).round().clamp(0, top)


def take_better(best: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Of two (codes, scales, zero points, error), block by block that of the lower error."""
    is_better = other[3] < best[3]
    codes = torch.where(is_better[..., None], other[0], best[0])
    return (codes, *(torch.where(is_better, new, old) for new, old in zip(other[1:], best[1:], strict=True)))


def _searched(
    blocks: torch.Tensor, num_steps: int, bits: int, weights: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """Codes, scales and zero points of the least squared error."""
    best: tuple[torch.Tensor, ...] = ()
    for shrink in torch.linspace(1.0, 0.8, num_steps).tolist():
        scales, zero_points = grid_of(blocks, bits, shrink)
        codes = (blocks / scales[..., None]).add_(zero_points[..., None]).round_().clamp_(0, 2**bits - 1)
        error = ((codes - zero_points[..., None]) * scales[..., None] - blocks).square_()
        candidate = (codes, scales, zero_points, (error if weights is None else error * weights).sum(-1))
        best = take_better(best, candidate) if best else candidate
    return best[:3]


def _pack(values: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    array = values.numpy()
    if bits == 8:
        return array
    if array.shape[1] % 2:
        array = np.pad(array, ((0, 0), (0, 1)))
    packed: NDArray[np.uint8] = array[:, 0::2] | (array[:, 1::2] << 4)
    return packed
