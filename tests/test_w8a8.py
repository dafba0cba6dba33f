"""Products of integers: what ONNX Runtime computes, what it costs, and that rows of a call do not mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_export import CASES, CONTEXT, SHAPE, make_model, model_info

from edgedsl.exporters.calibration import Inputs, input_channels
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import RECIPES
from edgedsl.exporters.smoothing import smooth
from edgedsl.exporters.w8a8 import MAX_CODE, NUM_WIDE, activation_scale, noise, quantize_columns, quantize_products
from edgedsl.runtime.decoder import Decoder

WIDTH, OUTPUTS = 576, 40


def inputs_of(array: np.ndarray) -> Inputs:
    """What calibration says of inputs [rows, channels]."""
    parts = array.min(0), array.max(0), np.square(array).mean(0)
    return Inputs(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def product(matrix: np.ndarray, inputs: Inputs, max_noise: float = 1.0, name: str = "/proj/MatMul") -> onnx.ModelProto:
    """A graph of one product, quantised; its outputs are the product and the codes of its inputs, if there are any."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name=name)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", matrix.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(matrix, "w")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    quantize_products(model, {name: inputs}, max_noise)
    codes = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in codes)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"x": x})
    return found


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def wide_channels(model: onnx.ModelProto) -> list[int]:
    """The channels that a product keeps apart."""
    found = [weight for weight in model.graph.initializer if weight.name.endswith(".wide.channels")]
    return [int(channel) for weight in found for channel in numpy_helper.to_array(weight)]


# The weights


def test_codes_are_whole_numbers_from_minus_64_to_64() -> None:
    matrix = random(WIDTH, OUTPUTS) * np.exp(random(1, OUTPUTS, seed=1))
    matrix[:, 3] = 0
    codes, scales = quantize_columns(matrix)
    assert (codes.dtype, scales.dtype, codes.shape, scales.shape) == (np.int8, np.float32, matrix.shape, (OUTPUTS,))
    assert (np.abs(codes.astype(int)).max(0) == [0 if column == 3 else 64 for column in range(OUTPUTS)]).all()
    assert (np.abs(codes * scales - matrix) <= 0.501 * scales).all()


def test_two_products_of_codes_fit_into_16_bits() -> None:
    assert 2 * 255 * MAX_CODE <= 2**15 - 1


def test_activations_take_all_codes_and_zero_is_one_of_them() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (-1e-3, 1e4), (-2.0, 0.0)):
        scale, zero_point = activation_scale(inputs_of(np.array([[low, 0.6 * low], [high, high]])))
        reached = (np.array([min(low, 0.0), 0.0, max(high, 0.0)]) / scale).round() + zero_point
        assert (reached[0], reached[1], reached[2]) == (0, zero_point, 255), (low, high)
    scale, zero_point = activation_scale(inputs_of(np.zeros((2, 3))))
    assert (scale > 0, zero_point) == (True, 0)


# The product


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows and matrices; where they are extreme, every sum of two products is as large as it can be."""
    top = np.full((7, WIDTH), 3.0, np.float32)
    wide = random(7, WIDTH)
    wide[:, ::2] *= 50
    return {
        "random": (random(7, WIDTH), random(WIDTH, OUTPUTS, seed=1)),
        "one row": (random(1, WIDTH), random(WIDTH, OUTPUTS, seed=1)),
        "many rows, odd sizes": (random(33, 71), random(71, 13, seed=1)),
        "all at the top": (top, np.ones((WIDTH, OUTPUTS), np.float32)),
        "all at the top, negative weights": (top, -np.ones((WIDTH, OUTPUTS), np.float32)),
        "all at the bottom": (-top, np.ones((WIDTH, OUTPUTS), np.float32)),
        "wide channels": (wide, random(WIDTH, OUTPUTS, seed=2)),
        "columns of every size": (random(7, WIDTH), random(WIDTH, OUTPUTS) * np.exp(4 * random(1, OUTPUTS, seed=3))),
    }


@pytest.mark.parametrize("reach", [1.0, 5.0])  # how far the rows go beyond the calibrated ranges
@pytest.mark.parametrize("name", cases())
def test_onnxruntime_computes_the_integer_arithmetic(name: str, reach: float) -> None:
    x, matrix = cases()[name]
    inputs = inputs_of(x)
    found, codes = run(product(matrix, inputs), x * np.float32(reach))
    scale, zero_point = activation_scale(inputs)
    expected_codes = np.clip(np.rint(x * np.float32(reach) / scale) + zero_point, 0, 255)
    np.testing.assert_array_equal(codes, expected_codes)
    weight_codes, column_scales = quantize_columns(matrix)
    sums = (codes.astype(np.int64) - int(zero_point)) @ weight_codes.astype(np.int64)
    np.testing.assert_allclose(found, sums * (np.float64(scale) * column_scales), rtol=1e-6)


def test_the_product_is_close_to_the_exact_one() -> None:
    x, matrix = random(50, WIDTH), random(WIDTH, OUTPUTS, seed=1)
    found, _ = run(product(matrix, inputs_of(x)), x)
    assert np.abs(found - x @ matrix).max() < 0.05 * np.abs(x @ matrix).max()


# What is left alone


def spiky(num_spikes: int = 1) -> tuple[np.ndarray, Inputs]:
    """Channels that once were very wide make the steps coarse for all others."""
    x = random(64, 64)
    x[0, 5 : 5 + num_spikes] = 2000
    matrix = random(64, 32, seed=1)
    matrix[5 : 5 + num_spikes] *= 1e-3
    return matrix, inputs_of(x)


def test_a_product_that_would_lose_much_is_left_for_weights_only() -> None:
    matrix, inputs = spiky(NUM_WIDE[-1] + 1)
    assert noise(matrix, inputs, NUM_WIDE[-1]) > 0.01
    model = product(matrix, inputs, 0.004)
    assert operators(model) == ["MatMul"]
    integer = RECIPES["w8a8"]
    assert integer
    assert integer.is_integer
    quantize_model(model, integer)
    assert operators(model) == ["MatMulNBits"]
    x = random(3, 64, seed=4)
    np.testing.assert_allclose(run(model, x)[0], x @ matrix, atol=0.02 * np.abs(x @ matrix).max())


def test_the_limit_itself_is_allowed() -> None:
    matrix, inputs = random(64, 32, seed=1), inputs_of(random(64, 64))
    limits = [noise(matrix, inputs, num) for num in NUM_WIDE]
    assert limits[-1] < limits[0]
    assert operators(product(matrix, inputs, limits[0])) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert operators(product(matrix, inputs, 0.999 * limits[0])) == SPLIT
    assert operators(product(matrix, inputs, limits[-1])) == SPLIT
    assert operators(product(matrix, inputs, 0.999 * min(limits))) == ["MatMul"]


# Wide channels

SPLIT = ["QuantizeLinear", "MatMulIntegerToFloat", "Gather", "FusedMatMul", "Add"]


@pytest.mark.parametrize("num_spikes", [1, 4, 5, 17])
def test_wide_channels_are_multiplied_apart_and_cost_the_others_nothing(num_spikes: int) -> None:
    matrix, inputs = spiky(num_spikes)
    model = product(matrix, inputs, 0.004)
    assert operators(model) == SPLIT
    wide = wide_channels(model)
    assert len(wide) == next(num for num in NUM_WIDE if num >= num_spikes)
    assert set(range(5, 5 + num_spikes)) <= set(wide)
    integer = RECIPES["w8a8"]
    assert integer
    quantize_model(model, integer)
    assert operators(model) == SPLIT, "a later pass has to leave the wide channels exact"
    x = random(50, 64, seed=4)
    x[:, 5 : 5 + num_spikes] *= 700  # beyond what the codes of the others reach
    exact = x.astype(np.float64) @ matrix
    found, _ = run(model, x)
    lost = np.square(found - exact).sum() / np.square(exact).sum()
    assert lost < 0.004 < noise(matrix, inputs)


def test_wide_channels_do_not_mix_the_rows_of_a_call() -> None:
    matrix, inputs = spiky(4)
    model, x = product(matrix, inputs, 0.004), random(24, 64, seed=4)
    assert operators(model) == SPLIT
    together, _ = run(model, x)
    for num_rows in range(1, 24):
        np.testing.assert_array_equal(run(model, x[:num_rows])[0], together[:num_rows])


def test_a_head_stays_one_product() -> None:
    """Its columns can be cut then."""
    matrix, inputs = spiky()
    assert operators(product(matrix, inputs, 1e9, "/lm_head/MatMul")) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert operators(product(matrix, inputs, 0.004, "/lm_head/MatMul")) == ["MatMul"]


def test_a_few_channels_are_apart_where_that_halves_the_loss() -> None:
    x = random(400, 128)
    x[:, :4] *= 20
    matrix = random(128, 64, seed=1)
    matrix[:4] /= 20
    inputs = inputs_of(x)
    assert noise(matrix, inputs, 4) < noise(matrix, inputs) / 2
    assert operators(product(matrix, inputs)) == SPLIT
    even = inputs_of(random(400, 128))
    assert noise(matrix, even, 4) > noise(matrix, even) / 2
    assert operators(product(matrix, even)) == ["QuantizeLinear", "MatMulIntegerToFloat"]


def test_products_of_unknown_inputs_and_of_activations_are_left_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"], name="/unknown/MatMul"),
        helper.make_node("MatMul", ["z", "z"], ["y"], name="/known/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(random(8, 8), "w")],
    )
    model = helper.make_model(graph)
    quantize_products(model, {"/known/MatMul": inputs_of(random(4, 8))})
    assert operators(model) == ["MatMul", "MatMul"]


# The expected loss


def lossy() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rows = 400
    uneven = random(rows, 128) * np.exp(random(1, 128, seed=1))
    uniform = np.random.default_rng(2).uniform(-1, 1, (rows, 96)).astype(np.float32)
    heavy = np.random.default_rng(3).standard_t(3, (rows, 128)).astype(np.float32)
    planted = random(rows, 128)
    planted[:, 9] *= 40
    matrix = random(128, 64, seed=5)
    light = matrix.copy()
    light[9] /= 40
    return {
        "normal": (random(rows, 128), matrix),
        "uniform": (uniform, random(96, 80, seed=6)),
        "uneven channels": (uneven, matrix),
        "heavy tails": (heavy, matrix),
        "a wide channel": (planted, matrix),
        "a wide channel that counts little": (planted, light),
        "columns of every size": (random(rows, 128), matrix * np.exp(random(1, 64, seed=7))),
    }


@pytest.mark.parametrize("name", lossy())
def test_noise_is_what_a_product_of_independent_channels_loses(name: str) -> None:
    x, matrix = lossy()[name]
    inputs = inputs_of(x)
    model = product(matrix, inputs)
    found, _ = run(model, x)
    exact = x.astype(np.float64) @ matrix
    lost = np.square(found - exact).sum() / np.square(exact).sum()
    assert lost / 2 < noise(matrix, inputs, len(wide_channels(model))) < lost * 2


# Rows of a call

NAMES = ["llama", "qwen2", "gemma3", "phi3"]
ROWS = [[int(i) for i in np.random.default_rng(seed).integers(3, SHAPE["vocab_size"], 40)] for seed in range(3)]
PAST = 20


def quantised(model: Any, folder: Path) -> Decoder:
    path = FusedExporter().export(model, folder, context_length=CONTEXT).path
    graph = onnx.load(path)
    quantize_products(graph, smooth(graph, input_channels(model, ROWS), noise))
    assert operators(graph).count("MatMulIntegerToFloat") == 9
    quantize_model(graph, RECIPES["w8a8"])  # type: ignore[arg-type]
    save_graph(graph, path)
    return Decoder(path, model_info(model.config, "shared"), num_threads=1)


def call(decoder: Decoder, row: list[int], following: list[int]) -> np.ndarray:
    """Logits of a call after the row's first tokens."""
    decoder.reset()
    decoder.forward(row[:PAST])
    return decoder.forward_all(following).copy()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_others_of_its_call(name: str, tmp_path: Path) -> None:
    """To the bit, for calls of several tokens: what is decoded does not depend on what was drafted."""
    decoder = quantised(make_model(CASES[name]), tmp_path)
    others = np.random.default_rng(9)
    for row in ROWS:
        expected = call(decoder, row, row[PAST : PAST + 6])
        for num_tokens in range(2, 7):
            for num_same in range(1, num_tokens + 1):
                wrong = others.integers(3, SHAPE["vocab_size"], num_tokens - num_same)
                found = call(decoder, row, [*row[PAST : PAST + num_same], *map(int, wrong)])
                np.testing.assert_array_equal(found[:num_same], expected[:num_same])


@pytest.mark.parametrize("name", NAMES)
def test_a_call_of_one_token_differs_by_a_code_at_most(name: str, tmp_path: Path) -> None:
    """The attention operator rounds a row of its own in another way; rounding to codes hides that, but for ties."""
    decoder = quantised(make_model(CASES[name]), tmp_path)
    for row in ROWS:
        one, two = (call(decoder, row, row[PAST : PAST + num_tokens])[0] for num_tokens in (1, 2))
        assert np.abs(one - two).max() < 0.01 * np.abs(two).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_model_stays_close(name: str, tmp_path: Path) -> None:
    model = make_model(CASES[name])
    decoder = quantised(model, tmp_path)
    for row in ROWS:
        with torch.inference_mode():
            expected = model(torch.tensor([row])).logits[0].numpy()
        decoder.reset()
        difference = decoder.forward_all(row) - expected
        assert np.square(difference).mean() < 0.02 * np.square(expected).mean()
