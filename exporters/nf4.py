"""The NF4 data type of QLoRA (Dettmers et al., arXiv 2305.14314): what bitsandbytes stores, computed without it."""

from __future__ import annotations

import torch

BLOCK_SIZE = 64
# Quantiles of a normal distribution scaled to [-1, 1], as in the paper's appendix E.
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def round_trip(weight: torch.Tensor) -> torch.Tensor:
    """Quantise a weight to NF4 (blocks of 64 in storage order, absolute maximum in fp32) and back.

    The result has the same shape and dtype.
    Training must not use double quantisation of the maxima (``bnb_4bit_use_double_quant=False``) for this to be exact.
    """
    flat = weight.detach().float().reshape(-1)
    padding = -len(flat) % BLOCK_SIZE
    blocks = torch.nn.functional.pad(flat, (0, padding)).reshape(-1, BLOCK_SIZE)
    maxima = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    levels = torch.tensor(LEVELS)
    bounds = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / maxima, bounds)
    restored = (levels[codes] * maxima).reshape(-1)[: len(flat)]
    return restored.reshape(weight.shape).to(weight.dtype)
