"""The arithmetic of quantisation against slow references and against ONNX Runtime's kernels."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgedsl.cli.export import command
from edgedsl.exporters.blockwise import QuantizedWeight, Recipe, quantize_weight
from edgedsl.exporters.nf4 import BLOCK_SIZE, LEVELS, round_trip
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import AUTO, HALF, RECIPES, families

BITS = pytest.mark.parametrize("bits", [4, 8])
ROWS, CHANNELS = 20, 96  # three blocks of 32: an odd number of 4-bit zero points


def weights(rows: int = ROWS, channels: int = CHANNELS, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, generator=generator) * torch.rand(rows, 1, generator=generator)


def unpack(packed: np.ndarray, bits: int, number: int) -> list[int]:
    """The slow, obvious reference."""
    values: list[int] = []
    for byte in packed.reshape(-1).tolist():
        values += [byte] if bits == 8 else [byte & 15, byte >> 4]
    return values[:number]


def squared_error(weight: torch.Tensor, quantized: QuantizedWeight, importance: torch.Tensor | None = None) -> float:
    error = (quantized.dequantized() - weight).square()
    return float((error if importance is None else error * importance).sum())


def run(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], feed: np.ndarray, recipe: Recipe) -> np.ndarray:
    kind = TensorProto.INT64 if feed.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(feed.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    quantize_model(model, recipe)
    assert [node.domain for node in model.graph.node] == ["com.microsoft"]
    assert not {"w"} & {weight.name for weight in model.graph.initializer}, "the fp32 weight is gone"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"x": feed})[0]
    return output


@BITS
def test_packed_codes_unpack_to_what_was_packed(bits: int) -> None:
    quantized = quantize_weight(weights(), Recipe(bits), bits)
    assert quantized.packed_blocks().shape == (ROWS, 3, 32 * bits // 8)
    assert unpack(quantized.packed_blocks(), bits, ROWS * CHANNELS) == quantized.codes.reshape(-1).tolist()
    assert quantized.packed_zero_points().shape == (ROWS, -(-3 * bits // 8))
    for row in range(ROWS):
        assert unpack(quantized.packed_zero_points()[row], bits, 3) == quantized.zero_points[row].tolist()


@BITS
def test_plain_rounding_matches_the_definition(bits: int) -> None:
    weight = weights()
    quantized = quantize_weight(weight, Recipe(bits), bits)
    top = 2**bits - 1
    for row in range(ROWS):
        for block in range(3):
            values = weight[row, 32 * block : 32 * (block + 1)].double()
            low, high = min(values.min().item(), 0), max(values.max().item(), 0)
            scale = (high - low) / top
            zero_point = round(-low / scale)
            codes = [min(max(round(value / scale) + zero_point, 0), top) for value in values.tolist()]
            assert quantized.scales[row, block].item() == pytest.approx(scale, rel=1e-6)
            assert quantized.zero_points[row, block].item() == zero_point
            difference = quantized.codes[row, 32 * block : 32 * (block + 1)].int() - torch.tensor(codes)
            assert difference.abs().max() <= 1  # ties and fp32
            assert (difference != 0).sum() <= 1


@BITS
def test_dequantised_weights_are_within_one_step(bits: int) -> None:
    weight = weights()
    quantized = quantize_weight(weight, Recipe(bits), bits)
    steps = quantized.scales.repeat_interleave(32, dim=1)
    assert ((quantized.dequantized() - weight).abs() <= 1.01 * steps).all()


@BITS
@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_matmul_of_onnxruntime_equals_the_dequantised_product(bits: int, block_size: int) -> None:
    recipe = Recipe(bits, block_size=block_size, search_steps=3, accuracy_level=0)
    matrix = weights(40, 192, seed=1)
    x = np.random.default_rng(0).normal(size=(2, 5, 192)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/proj/MatMul")
    output = run([node], {"w": matrix.numpy().T.copy()}, x, recipe)
    expected = x @ quantize_weight(matrix, recipe, bits).dequantized().numpy().T
    np.testing.assert_allclose(output, expected, atol=1e-3)
    assert np.abs(output - x @ matrix.numpy().T).max() > 1e-3, "the comparison can fail"


@BITS
def test_rounded_activations_stay_close(bits: int) -> None:
    matrix = weights(40, 192, seed=1)
    x = np.random.default_rng(0).normal(size=(5, 192)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/proj/MatMul")
    output = run([node], {"w": matrix.numpy().T.copy()}, x, Recipe(bits, accuracy_level=4))
    expected = x @ quantize_weight(matrix, Recipe(bits), bits).dequantized().numpy().T
    assert np.abs(output - expected).max() < 0.02 * np.abs(expected).max()


@BITS
@pytest.mark.parametrize("block_size", [16, 32])
def test_gather_of_onnxruntime_equals_dequantised_rows(bits: int, block_size: int) -> None:
    recipe = Recipe(bits, block_size=block_size)
    table = weights(50, CHANNELS, seed=2)
    ids = np.array([[0, 7, 49, 7]], np.int64)
    node = helper.make_node("Gather", ["w", "x"], ["y"], name="/embed_tokens/Gather")
    output = run([node], {"w": table.numpy()}, ids, recipe)
    expected = quantize_weight(table, recipe, bits).dequantized().numpy()[ids]
    np.testing.assert_allclose(output, expected, atol=1e-6)


@BITS
def test_the_search_is_never_worse_than_plain_rounding(bits: int) -> None:
    for seed in range(5):
        weight = weights(seed=seed)
        plain = quantize_weight(weight, Recipe(bits), bits)
        searched = quantize_weight(weight, Recipe(bits, search_steps=9), bits)
        errors = [((q.dequantized() - weight).square().view(ROWS, 3, 32)).sum(-1) for q in (plain, searched)]
        assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
        assert bits == 8 or errors[1].sum() < 0.99 * errors[0].sum()


@BITS
def test_importance_lowers_the_weighted_error(bits: int) -> None:
    recipe = Recipe(bits, search_steps=9)
    weight = weights(64)
    importance = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(3)) ** 8
    blind = squared_error(weight, quantize_weight(weight, recipe, bits), importance)
    informed = squared_error(weight, quantize_weight(weight, recipe, bits, importance), importance)
    assert informed < blind


def test_eight_bits_are_better_than_four() -> None:
    weight = weights()
    errors = {bits: squared_error(weight, quantize_weight(weight, Recipe(bits), bits)) for bits in (4, 8)}
    assert errors[8] < errors[4] / 100


@BITS
@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-6, 3e4])
def test_constant_blocks_survive(value: float, steps: int, bits: int) -> None:
    weight = torch.full((2, 32), value)
    restored = quantize_weight(weight, Recipe(bits, search_steps=steps), bits).dequantized()
    torch.testing.assert_close(restored, weight, rtol=1e-5, atol=1e-9)


@BITS
def test_zero_stays_zero(bits: int) -> None:
    weight = weights()
    weight[:, ::3] = 0
    restored = quantize_weight(weight, Recipe(bits, search_steps=5), bits).dequantized()
    assert (restored[:, ::3] == 0).all()


def test_many_rows_are_the_same_as_few() -> None:
    """Rows are quantised in slices."""
    weight = weights(4096 + 3, 32)
    whole = quantize_weight(weight, Recipe(4), 4)
    last = quantize_weight(weight[4090:], Recipe(4), 4)
    assert torch.equal(whole.codes[4090:], last.codes)
    assert torch.equal(whole.scales[4090:], last.scales)


@BITS
@pytest.mark.parametrize(("channels", "block_size"), [(40, 32), (32, 128), (192, 128), (144, 64)])
def test_a_last_block_may_be_shorter(channels: int, block_size: int, bits: int) -> None:
    recipe = Recipe(bits, block_size=block_size, search_steps=3, accuracy_level=0)
    matrix = weights(24, channels, seed=1)
    importance = torch.rand(channels, generator=torch.Generator().manual_seed(3))
    quantized = quantize_weight(matrix, recipe, bits, importance)
    whole = channels // block_size * block_size
    for part in (slice(0, whole), slice(whole, channels)):
        alone = quantize_weight(matrix[:, part], recipe, bits, importance[part])
        assert torch.equal(quantized.codes[:, part], alone.codes)
    x = np.random.default_rng(0).normal(size=(3, channels)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/proj/MatMul")
    output = run([node], {"w": matrix.numpy().T.copy()}, x, recipe)
    expected = x @ quantize_weight(matrix, recipe, bits).dequantized().numpy().T
    np.testing.assert_allclose(output, expected, atol=1e-3)
    rounding = run([node], {"w": matrix.numpy().T.copy()}, x, replace(recipe, accuracy_level=4))
    np.testing.assert_allclose(rounding, expected, atol=0.05 * np.abs(expected).max())


@BITS
def test_the_filling_of_a_last_block_is_weights_of_zero(bits: int) -> None:
    quantized = quantize_weight(weights(4, 40), Recipe(bits), bits)
    for row, packed in enumerate(quantized.packed_blocks()):
        codes = unpack(packed, bits, 64)
        assert codes[:40] == quantized.codes[row].tolist()
        assert codes[40:] == [quantized.zero_points[row, 1].item()] * 24


@BITS
@pytest.mark.parametrize(("channels", "block_size"), [(40, 32), (32, 128), (144, 64)])
def test_an_embedding_with_a_shorter_last_block(channels: int, block_size: int, bits: int) -> None:
    recipe = Recipe(bits, block_size=block_size)
    table = weights(50, channels, seed=2)
    ids = np.array([[0, 7, 49, 7]], np.int64)
    node = helper.make_node("Gather", ["w", "x"], ["y"], name="/embed_tokens/Gather")
    output = run([node], {"w": table.numpy()}, ids, recipe)
    np.testing.assert_allclose(output, quantize_weight(table, recipe, bits).dequantized().numpy()[ids], atol=1e-6)


def test_products_of_activations_and_other_ranks_are_left_alone() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["z"]), helper.make_node("MatMul", ["z", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 32, 32), np.float32), "w")],
    )
    model = helper.make_model(graph)
    quantize_model(model, Recipe(8))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul"]


# The recipes


def test_every_recipe_is_in_the_help() -> None:
    listed = {word.rstrip(",") for line in (command.help or "").splitlines() for word in line.split()[:2]}
    assert set(RECIPES) <= listed


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("int4")])
def test_head_and_embedding_have_eight_bits(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe
    assert recipe.bits_of("/lm_head/MatMul", 4) == 8
    assert not recipe.has_embedding or recipe.bits_of("/model/embed_tokens/Gather", 4) == 8
    ends = 8 if name == "int4-mixed" else 4
    layers = [recipe.bits_of(f"/model/layers.{layer}/self_attn/q_proj/MatMul", 12) for layer in range(12)]
    assert layers == [ends, *[4] * 10, ends]


def test_families_are_what_takes_the_same_time() -> None:
    int4 = ["int4", "int4-kquant", "int4-hqq", "int4-rtn"]
    assert families(AUTO) == [["w4a8"], ["w8a8"], ["int8"], int4, ["int4-mixed"], ["int4-128"]]
    assert families(tuple(HALF)) == [["fp16"], ["bf16"], ["int4-fp16"]]
    assert families(["int4-rtn", "int8", "int4"]) == [["int4-rtn", "int4"], ["int8"]]


def two_layers() -> onnx.ModelProto:
    """Products of three layers and a head, each of 64 channels."""
    names = [f"/model/layers.{layer}/mlp/up_proj/MatMul" for layer in range(3)] + ["/lm_head/MatMul"]
    values = ["x", *(f"v{n}" for n in range(len(names) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [values[n], f"w{n}"], [values[n + 1]], name=name) for n, name in enumerate(names)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights(64, 64, seed=n).T.numpy().copy(), f"w{n}") for n in range(len(names))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def codes_of(model: onnx.ModelProto) -> list[bytes]:
    return [tensor.raw_data for tensor in model.graph.initializer if tensor.name.endswith(".codes")]


def bits_in(model: onnx.ModelProto) -> list[int]:
    return [next(item.i for item in node.attribute if item.name == "bits") for node in model.graph.node]


@pytest.mark.parametrize(("name", "bits"), [("int4", [4, 4, 4, 8]), ("int4-mixed", [8, 4, 8, 8]), ("int8", [8] * 4)])
def test_bits_of_each_layer(name: str, bits: list[int]) -> None:
    model, recipe = two_layers(), RECIPES[name]
    assert recipe
    quantize_model(model, recipe)
    assert bits_in(model) == bits


def test_each_method_rounds_in_its_own_way() -> None:
    names = [node.name for node in two_layers().graph.node]
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(400, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    moments = dict.fromkeys(names, inputs.T @ inputs / 400)
    importance = dict.fromkeys(names, inputs.square().mean(0) ** 4)
    found = {}
    for name in ("int4", "int4-kquant", "int4-hqq", "int4-rtn"):
        model, recipe = two_layers(), RECIPES[name]
        assert recipe
        quantize_model(model, recipe, moments, importance)
        found[name] = codes_of(model)
    assert len({codes[0] for codes in found.values()}) == 4
    assert found["int4-hqq"][3] == found["int4-rtn"][3], "8 bits are rounded plainly"
    kquant = RECIPES["int4-kquant"]
    assert kquant
    expected = quantize_weight(weights(64, 64), kquant, 4, importance[names[0]])
    assert found["int4-kquant"][0] == expected.packed_blocks().tobytes()


# NF4


def slow_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The definition: blocks of 64 in storage order, scaled to [-1, 1], each value to the nearest level."""
    flat = weight.reshape(-1).tolist()
    restored: list[float] = []
    for start in range(0, len(flat), BLOCK_SIZE):
        block = flat[start : start + BLOCK_SIZE]
        largest = max(abs(value) for value in block)
        restored += [
            largest * min(LEVELS, key=lambda level: abs(level - value / largest)) if largest else 0.0 for value in block
        ]
    return torch.tensor(restored).reshape(weight.shape)


@pytest.mark.parametrize("shape", [(8, 64), (5, 40), (1, 3), (16, 128)])
def test_nf4_is_the_nearest_level(shape: tuple[int, int]) -> None:
    weight = weights(*shape)
    torch.testing.assert_close(round_trip(weight), slow_nf4(weight), rtol=1e-6, atol=0)


def test_nf4_keeps_zeros_extremes_shape_and_dtype() -> None:
    weight = weights(4, 64).bfloat16()
    weight[2] = 0
    restored = round_trip(weight)
    assert (restored.shape, restored.dtype) == (weight.shape, weight.dtype)
    assert (restored[2] == 0).all()
    assert restored.abs().max() == weight.abs().max()
    assert torch.equal(round_trip(restored), restored)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_nf4_equals_bitsandbytes() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = weights(64, 128)
    packed, state = quantize_4bit(weight, blocksize=BLOCK_SIZE, quant_type="nf4", compress_statistics=False)
    torch.testing.assert_close(round_trip(weight), dequantize_4bit(packed, state), rtol=1e-6, atol=1e-7)
