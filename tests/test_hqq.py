"""Half-quadratic quantisation: smaller l_p errors than rounding, in the codes that MatMulNBits takes."""

from __future__ import annotations

import pytest
import torch

from edgedsl.exporters import hqq
from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, quantize_weight
from edgedsl.exporters.hqq import NORM, hqq_weight, lp_error, shrunk

RECIPE = Recipe(4, method="hqq")
BLOCKS = pytest.mark.parametrize("block_size", [32, 128])


def with_outliers(rows: int = 64, channels: int = 256) -> torch.Tensor:
    """Normal weights, one in fifty of them ten times as large."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(rows, channels, generator=generator)
    return torch.where(torch.rand(weight.shape, generator=generator) < 0.02, 10 * weight, weight)


def block_errors(weight: torch.Tensor, quantized: QuantizedWeight) -> torch.Tensor:
    return lp_error((quantized.dequantized() - weight).view(len(weight), -1, quantized.block_size))


def squared_errors(weight: torch.Tensor, quantized: QuantizedWeight) -> torch.Tensor:
    return (quantized.dequantized() - weight).square().view(len(weight), -1, quantized.block_size).sum(-1)


@BLOCKS
def test_the_error_is_clearly_below_plain_rounding(block_size: int) -> None:
    weight, recipe = with_outliers(), Recipe(4, method="hqq", block_size=block_size)
    plain, found = quantize_weight(weight, recipe, 4), hqq_weight(weight, recipe, 4)
    for error_of in (block_errors, squared_errors):
        assert (error_of(weight, found) <= error_of(weight, plain) * (1 + 1e-5)).all(), "in no block larger"
        assert error_of(weight, found).sum() < 0.99 * error_of(weight, plain).sum()


def test_many_turns_find_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {}
    for num_turns in (1, hqq.NUM_TURNS):
        monkeypatch.setattr(hqq, "NUM_TURNS", num_turns)
        errors[num_turns] = float(block_errors(with_outliers(), hqq_weight(with_outliers(), RECIPE, 4)).sum())
    assert errors[hqq.NUM_TURNS] < 0.995 * errors[1]


def test_a_few_outliers_pull_the_grid_less_than_least_squares_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sparse part the scale is fitted to all errors alike."""
    errors = block_errors(with_outliers(), hqq_weight(with_outliers(), RECIPE, 4)).sum()
    monkeypatch.setattr(hqq, "shrunk", lambda errors, beta: torch.zeros_like(errors))
    assert errors < 0.995 * block_errors(with_outliers(), hqq_weight(with_outliers(), RECIPE, 4)).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_and_zero_points_are_integers_in_range(bits: int) -> None:
    weight = with_outliers()
    weight[0] = weight[0].abs() + 3  # 0 is far below all of the block
    weight[1] = -weight[1].abs() - 3
    found = hqq_weight(weight, RECIPE, bits)
    assert found.codes.dtype == found.zero_points.dtype == torch.uint8
    assert int(found.codes.max()) < 2**bits
    assert int(found.zero_points.max()) < 2**bits
    assert found.codes.shape == weight.shape
    assert found.scales.shape == found.zero_points.shape == (64, 8)
    assert (found.scales > 0).all()
    assert len(found.packed_zero_points()[0]) == bits


def test_the_same_weight_gives_the_same_codes() -> None:
    one, other = (hqq_weight(with_outliers(), RECIPE, 4) for _ in range(2))
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales, other.scales)
    assert torch.equal(one.zero_points, other.zero_points)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-6, 3e4])
def test_constant_blocks_survive(value: float) -> None:
    weight = torch.full((2, 40), value)
    torch.testing.assert_close(hqq_weight(weight, RECIPE, 4).dequantized(), weight, rtol=1e-4, atol=1e-9)


def test_zero_stays_zero() -> None:
    weight = with_outliers()
    weight[:, ::3] = 0
    assert (hqq_weight(weight, RECIPE, 4).dequantized()[:, ::3] == 0).all()


def test_the_soft_threshold_keeps_large_errors_and_drops_small_ones() -> None:
    beta = 10.0
    threshold = (1 / beta) ** (1 / (2 - NORM))
    errors = torch.tensor([0.0, 0.5 * threshold, 0.99 * threshold, 1.01 * threshold, 1.0, -4.0])
    found = shrunk(errors, beta)
    assert (found[:3] == 0).all()
    assert found[3] > 0
    assert found[4].item() == pytest.approx(1 - 1 / beta)
    assert found[5].item() == pytest.approx(-(4 - 4 ** (NORM - 1) / beta))
    assert shrunk(errors, 2 * beta)[4] > found[4], "a larger beta keeps more"
