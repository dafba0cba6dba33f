from __future__ import annotations

import pytest
import torch

from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import Recipe, quantize_weight
from edgedsl.exporters.gptq import gptq_weight

RECIPE = Recipe(4, search_steps=5, method="gptq")


def layer(channels: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [48, channels] and inputs [600, channels] that hang together, as real activations do."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, channels, generator=generator)
    mixing = torch.eye(channels) + 0.2 * torch.randn(channels, channels, generator=generator)
    return weight, torch.randn(600, channels, generator=generator) @ mixing


def output_error(weight: torch.Tensor, inputs: torch.Tensor, restored: torch.Tensor) -> float:
    return float((inputs @ (restored - weight).T).square().mean())


@pytest.mark.parametrize("bits", [4, 8])
def test_output_error_is_clearly_below_rounding(bits: int) -> None:
    weight, inputs = layer()
    moments = inputs.T @ inputs / len(inputs)
    rounded = quantize_weight(weight, RECIPE, bits).dequantized()
    calibrated = gptq_weight(weight, moments, RECIPE, bits).dequantized()
    assert output_error(weight, inputs, calibrated) < 0.7 * output_error(weight, inputs, rounded)


def test_unrelated_channels_give_plain_rounding() -> None:
    weight, _ = layer()
    calibrated = gptq_weight(weight, torch.eye(weight.shape[1]), RECIPE, 4)
    rounded = quantize_weight(weight, RECIPE, 4)
    assert torch.equal(calibrated.codes, rounded.codes)
    assert torch.equal(calibrated.scales, rounded.scales)


def test_a_last_block_may_be_shorter() -> None:
    weight, inputs = layer(channels=144)
    moments = inputs.T @ inputs / len(inputs)
    quantized = gptq_weight(weight, moments, RECIPE, 4)
    assert quantized.codes.shape == weight.shape
    assert quantized.scales.shape == quantized.zero_points.shape == (48, 5)
    rounded = quantize_weight(weight, RECIPE, 4).dequantized()
    assert output_error(weight, inputs, quantized.dequantized()) < 0.7 * output_error(weight, inputs, rounded)


def test_channels_that_are_never_used_do_not_break_it() -> None:
    weight, inputs = layer()
    inputs[:, :40] = 0
    restored = gptq_weight(weight, inputs.T @ inputs / len(inputs), RECIPE, 4).dequantized()
    assert torch.isfinite(restored).all()
    assert torch.isfinite(torch.tensor(output_error(weight, inputs, restored)))


def test_moments_that_are_not_finite_are_refused() -> None:
    weight, _ = layer()
    moments = torch.full((weight.shape[1], weight.shape[1]), float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        gptq_weight(weight, moments, RECIPE, 4)
