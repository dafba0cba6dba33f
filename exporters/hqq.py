"""HQQ: half-quadratic quantization (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog), without calibration.

Looks for the grid at which the rounding errors of a block have the least l_p norm, p < 1: many errors near zero, a few
large ones, so that outliers do not decide how all others are rounded. The errors are split into a sparse part, found by
a generalised soft threshold, and a rest, for which the best grid has a closed form; the two take turns.

HQQ fits the zero point, a fraction, and keeps the scale. MatMulNBits packs zero points as integers, its fast kernels
take no others; an integer moves the window of the codes and not the places of the grid, and in our trials no turn ever
moved one. So the closed form here is that of the scale, and the zero point stays that of plain rounding.

The norm alone would cut outliers off, which costs a model more than it gains: a grid is only taken where the squared
error of its block is not above that of plain rounding.
"""

from __future__ import annotations

import torch

from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, grid_of, quantize_rows, take_better

NORM = 0.7  # p
NUM_TURNS = 20
# How close the split has to come to the errors, and by how much more each turn. In steps of the grid: with 10, errors
# beyond 0.17 steps count as outliers.
BETA, BETA_GROWTH = 10.0, 1.01
_LEAST = 1e-10


def hqq_weight(weight: torch.Tensor, recipe: Recipe, bits: int) -> QuantizedWeight:
    """Quantise fp32 [rows, channels]; neither the l_p nor the squared error of a block is above plain rounding's."""
    return quantize_rows(weight, recipe, bits, lambda blocks: _quantized(blocks, bits))


def lp_error(errors: torch.Tensor) -> torch.Tensor:
    """Sum of |x|^p over the last axis."""
    return errors.abs().pow_(NORM).sum(-1)


def shrunk(errors: torch.Tensor, beta: float) -> torch.Tensor:
    """The sparse part of errors: what is left of each after the generalised soft threshold of the l_p norm."""
    sizes = errors.abs()
    return errors.sign() * (sizes - sizes.clamp(min=_LEAST).pow_(NORM - 1).div_(beta)).clamp_(min=0)


def _quantized(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, ...]:
    scales, zero_points = grid_of(blocks, bits)
    plain = _rounded(blocks, scales, zero_points, bits)
    most = (_restored(*plain[:3]) - blocks).square_().sum(-1)
    fitted = _fitted(blocks, scales, zero_points, bits)
    return take_better(plain, _rounded(blocks, fitted, zero_points, bits, most))[:3]


def _rounded(
    blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, bits: int, most: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Codes, scales, zero points and l_p errors of a grid; infinite where the squared error is above ``most``."""
    codes = _codes(blocks / scales[..., None], zero_points, bits)
    errors = _restored(codes, scales, zero_points) - blocks
    error = lp_error(errors)
    if most is not None:
        error[errors.square_().sum(-1) > most] = torch.inf
    return codes, scales, zero_points, error


def _restored(codes: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor) -> torch.Tensor:
    return (codes - zero_points[..., None]) * scales[..., None]


def _fitted(blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, bits: int) -> torch.Tensor:
    """Scales after all turns."""
    beta = BETA
    for _ in range(NUM_TURNS):
        in_steps = blocks / scales[..., None]
        centred = _codes(in_steps, zero_points, bits) - zero_points[..., None]
        rest = in_steps - shrunk(in_steps - centred, beta)
        factors = (rest * centred).sum(-1) / centred.square().sum(-1).clamp(min=_LEAST)  # least squares
        scales = (scales * factors).clamp(min=_LEAST)
        beta *= BETA_GROWTH
    return scales


def _codes(in_steps: torch.Tensor, zero_points: torch.Tensor, bits: int) -> torch.Tensor:
    return (in_steps + zero_points[..., None]).round_().clamp_(0, 2**bits - 1)
