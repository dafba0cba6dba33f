"""GPTQ (Frantar et al., arXiv 2210.17323).

Rounds one input channel after the other, and lets the channels to come make up for the error.

What counts is the layer's output on real inputs, so the error of a channel is passed on along the inverse of the
inputs' second moments.
"""

from __future__ import annotations

import torch

from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, quantize_weight

DAMPING = 0.01  # of the mean diagonal; keeps the inverse stable for channels that calibration hardly used


def gptq_weight(weight: torch.Tensor, moments: torch.Tensor, recipe: Recipe, bits: int) -> QuantizedWeight:
    """Quantise fp32 [rows, channels] given the mean of x x^T over calibration inputs, fp32 [channels, channels].

    Scales and zero points of a block are searched when its turn comes, on the weights as corrected so far.

    Raises:
        ExportError: the moments are not finite.
    """
    upper = _inverse_factor(moments)
    importance = moments.diagonal().clamp(min=1e-12)
    remaining = weight.clone()
    parts = []
    for start in range(0, weight.shape[1], recipe.block_size):
        block = slice(start, start + recipe.block_size)
        grid = quantize_weight(remaining[:, block], recipe, bits, importance[block])
        codes, errors = _round_block(remaining[:, block], upper[block, block], grid)
        remaining[:, block.stop :] -= errors @ upper[block, block.stop :]
        parts.append((codes, grid.scales, grid.zero_points))
    codes, scales, zero_points = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return QuantizedWeight(codes, scales, zero_points, bits, recipe.block_size)


def _inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the damped inverse."""
    damped = moments.double()
    damped = damped + DAMPING * damped.diagonal().mean().clamp(min=1e-12) * torch.eye(len(damped), dtype=torch.float64)
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    except RuntimeError as exc:  # LinAlgError is one
        raise ExportError("calibration gave numbers that are not finite", hint="check the training pairs") from exc
    return factor


def _round_block(
    weights: torch.Tensor, upper: torch.Tensor, grid: QuantizedWeight
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 and scaled errors fp32 of one block, [rows, block_size] each."""
    weights = weights.clone()
    codes = torch.empty(weights.shape, dtype=torch.uint8)
    errors = torch.empty_like(weights)
    scale, zero_point = grid.scales[:, 0], grid.zero_points[:, 0].float()
    for column in range(weights.shape[1]):
        code = (weights[:, column] / scale + zero_point).round_().clamp_(0, 2**grid.bits - 1)
        codes[:, column] = code.to(torch.uint8)
        errors[:, column] = (weights[:, column] - (code - zero_point) * scale) / upper[column, column]
        weights[:, column + 1 :] -= errors[:, column, None] * upper[column, column + 1 :]
    return codes, errors
