"""Scales folded into the fused graph: the same logits, and inputs whose channels are of one width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tiny_export import CASES, CONTEXT, SHAPE, make_model, model_info
from transformers import LlamaConfig

from edgedsl.exporters import smoothing
from edgedsl.exporters.calibration import Inputs, input_channels
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.smoothing import ALPHAS, Array, Loss, smooth
from edgedsl.exporters.w8a8 import noise
from edgedsl.runtime.decoder import Decoder

ROWS = [[int(i) for i in np.random.default_rng(seed).integers(3, SHAPE["vocab_size"], 30)] for seed in range(3)]
NAMES = ["llama", "qwen2", "gemma3", "phi3"]
PARTS = ("self_attn/qkv_proj", "self_attn/o_proj", "mlp/gate_up_proj", "mlp/down_proj")
PRODUCTS = {f"/model/layers.{layer}/{part}/MatMul" for layer in (0, 1) for part in PARTS} | {"/lm_head/MatMul"}
FACTOR = 40.0  # of a planted channel


def unevenness(matrix: Array, inputs: Inputs) -> float:
    """Least where the inputs are scaled most."""
    return float(inputs.widths.max() / inputs.widths.min().clamp(min=1e-12))


@dataclass
class Graph:
    """A fused graph with what its products read on :data:`ROWS`."""

    model: Any
    onnx: onnx.ModelProto
    inputs: dict[str, Inputs]
    folder: Path

    @classmethod
    def of(cls, model: Any, folder: Path) -> Graph:
        folder.mkdir(parents=True, exist_ok=True)
        path = FusedExporter().export(model, folder, context_length=CONTEXT).path
        return cls(model, onnx.load(path), input_channels(model, ROWS), folder)

    def smooth(self, loss: Loss = noise) -> dict[str, Inputs]:
        return smooth(self.onnx, self.inputs, loss)

    def array(self, name: str) -> Array:
        """A weight by its name, or that of a product by the node's."""
        nodes = {node.name: node.input[1] for node in self.onnx.graph.node if node.name in PRODUCTS}
        found = next(weight for weight in self.onnx.graph.initializer if weight.name == nodes.get(name, name))
        array: Array = numpy_helper.to_array(found)
        return array

    def arrays(self) -> dict[str, Array]:
        return {weight.name: numpy_helper.to_array(weight) for weight in self.onnx.graph.initializer}

    def losses(self, inputs: dict[str, Inputs]) -> dict[str, float]:
        return {name: noise(self.array(name), inputs[name]) for name in PRODUCTS}

    def decoder(self) -> Decoder:
        path = self.folder / "smoothed.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(self.onnx)
        save_graph(copy, path)
        return Decoder(path, model_info(self.model.config, "shared"), num_threads=1)

    def logits(self) -> np.ndarray:
        decoder, found = self.decoder(), []
        for row in ROWS:
            decoder.reset()
            found.append(decoder.forward_all(row).copy())
        return np.concatenate(found)

    def measured(self) -> dict[str, Inputs]:
        """The inputs of each product, asked of the graph itself."""
        products = {node.name: node.input[0] for node in self.onnx.graph.node if node.name in PRODUCTS}
        for value in sorted(set(products.values())):
            self.onnx.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        session = self.decoder().session
        info = model_info(self.model.config, "shared")
        cache = np.zeros((1, info.num_kv_heads, CONTEXT, info.head_dim), np.float32)
        past = {item.name: cache for item in session.get_inputs() if item.name.startswith("past_key_values.")}
        seen: dict[str, list[np.ndarray]] = {name: [] for name in products}
        for row in ROWS:
            tokens = np.array([row])
            fed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "num_logits": np.zeros(1, np.int64)}
            for name, value in products.items():
                seen[name].append(session.run([value], {**fed, **past})[0][0])
        return {name: channels(np.concatenate(arrays)) for name, arrays in seen.items()}


def channels(array: np.ndarray) -> Inputs:
    low, high, mean_square = array.min(0), array.max(0), np.square(array).mean(0)
    return Inputs(*(torch.from_numpy(part) for part in (low, high, mean_square)))


def scales_of(graph: Graph, found: dict[str, Inputs], name: str) -> np.ndarray:
    """What each channel was divided by."""
    scales: np.ndarray = (graph.inputs[name].widths / found[name].widths).numpy()
    return scales


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


# The graph computes the same


@pytest.mark.parametrize("name", CASES)
def test_logits_stay_and_every_product_is_reached(name: str, tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES[name]), tmp_path)
    expected = graph.logits()
    found = graph.smooth(unevenness)
    assert_near(graph.logits(), expected)
    assert {product for product in PRODUCTS if scales_of(graph, found, product).std() > 0.01} == PRODUCTS


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_query_heads_of_a_group_share_the_scales_of_their_values(num_kv_heads: int, tmp_path: Path) -> None:
    config = LlamaConfig(**{**SHAPE, "num_key_value_heads": num_kv_heads}, attention_bias=True)
    graph = Graph.of(make_model(config), tmp_path)
    expected, arrays = graph.logits(), graph.arrays()
    found = graph.smooth(unevenness)
    assert_near(graph.logits(), expected)
    width = 16 * num_kv_heads
    for layer in (0, 1):
        name = f"/model/layers.{layer}/self_attn/o_proj/MatMul"
        scales = scales_of(graph, found, name)
        groups = scales.reshape(num_kv_heads, -1, 16)
        # The widest of the group counts, on both sides.
        matrix = arrays[f"model.layers.{layer}.self_attn.o_proj.weight"]
        sides = graph.inputs[name].widths.numpy(), np.abs(matrix).max(1)
        inputs, weights = (widths.reshape(num_kv_heads, -1, 16).max(1) for widths in sides)
        candidates = [inputs**alpha / weights ** (1 - alpha) for alpha in ALPHAS[1:]]
        assert any(np.allclose(groups[:, 0], candidate, rtol=1e-3) for candidate in candidates)
        np.testing.assert_allclose(groups, np.broadcast_to(groups[:, :1], groups.shape), rtol=1e-5)
        assert scales.max() > 1.5 * scales.min()
        bias = f"model.layers.{layer}.self_attn.qkv_proj.bias"
        columns = arrays[bias] / graph.array(bias)
        np.testing.assert_allclose(columns[:-width], 1)  # of queries and keys
        np.testing.assert_allclose(columns[-width:], groups[:, 0].reshape(-1), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_returned_is_what_the_new_graph_reads(name: str, tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES[name]), tmp_path)
    found, measured = graph.smooth(unevenness), graph.measured()
    assert set(measured) == PRODUCTS
    for product, expected in measured.items():
        for part in ("low", "high", "mean_square"):
            of_found, of_measured = getattr(found[product], part).numpy(), getattr(expected, part).numpy()
            np.testing.assert_allclose(
                of_found, of_measured, rtol=2e-3, atol=1e-3 * np.abs(of_measured).max(), err_msg=f"{product} {part}"
            )


def test_dead_channels_break_nothing(tmp_path: Path) -> None:
    """One that is never anything but zero, and one that nothing reads."""
    model = make_model(CASES["llama"])
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.input_layernorm.weight[3] = 0
        layer.mlp.up_proj.weight[5] = 0
        layer.mlp.down_proj.weight[:, 7] = 0
    graph = Graph.of(model, tmp_path)
    expected = graph.logits()
    graph.smooth(unevenness)
    assert_near(graph.logits(), expected)


# The search


def planted(model: Any) -> Any:
    """Channels made wide where they are made, and taken back by the weights that read them: no logit changes."""
    config = model.config
    offset = 1.0 if config.model_type == "gemma3_text" else 0.0
    with torch.no_grad():
        for layer in model.model.layers:
            mlp_norm = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
            widen_norm(
                layer.input_layernorm, offset, linears(layer.self_attn, "qkv_proj", "q_proj", "k_proj", "v_proj")
            )
            widen_norm(mlp_norm, offset, linears(layer.mlp, "gate_up_proj", "gate_proj", "up_proj"))
            widen_up(layer.mlp)
            widen_values(layer.self_attn, config)
        if not config.tie_word_embeddings:
            widen_norm(model.model.norm, offset, [model.lm_head])
    return model


def linears(module: Any, *names: str) -> list[Any]:
    return [getattr(module, name) for name in names if hasattr(module, name)]


def widen_norm(norm: Any, offset: float, readers: list[Any]) -> None:
    norm.weight[9] = (norm.weight[9] + offset) * FACTOR - offset
    for linear in readers:
        linear.weight[:, 9] /= FACTOR


def widen_up(mlp: Any) -> None:
    (up,) = linears(mlp, "gate_up_proj", "up_proj")
    row = len(up.weight) - 4
    up.weight[row] *= FACTOR
    mlp.down_proj.weight[:, mlp.down_proj.in_features - 4] /= FACTOR


def widen_values(attention: Any, config: Any) -> None:
    (values,) = linears(attention, "qkv_proj", "v_proj")
    head_dim = attention.o_proj.in_features // config.num_attention_heads
    values.weight[-2] *= FACTOR  # of the last key-value head
    if values.bias is not None:
        values.bias[-2] *= FACTOR
    num_heads = config.num_attention_heads // config.num_key_value_heads
    for head in range(num_heads):
        attention.o_proj.weight[:, -2 - head * head_dim] /= FACTOR


@pytest.mark.parametrize("name", NAMES)
def test_planted_channels_cost_nothing_after_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale takes all of a planted factor back, whatever its alpha; so the search ends where it would without."""
    plain = Graph.of(make_model(CASES[name]), tmp_path / "plain")
    wide = Graph.of(planted(make_model(CASES[name])), tmp_path / "wide")
    expected = plain.logits()
    assert_near(wide.logits(), expected)
    lost = wide.losses(wide.inputs)
    found = wide.losses(wide.smooth())
    monkeypatch.setattr(smoothing, "ALPHAS", ALPHAS[1:])
    best = plain.losses(plain.smooth())
    assert_near(wide.logits(), expected)
    reached = PRODUCTS - ({"/lm_head/MatMul"} if wide.model.config.tie_word_embeddings else set())
    for product in reached:
        assert found[product] < 0.2 * lost[product], product
        # A projection that is searched before the wide columns among its own weights are narrowed loses a bit.
        is_last = product.endswith(("o_proj/MatMul", "down_proj/MatMul", "lm_head/MatMul"))
        assert found[product] < (1.02 if is_last else 4) * best[product], product


@pytest.mark.parametrize("name", NAMES)
def test_no_product_loses_more_than_before(name: str, tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES[name]), tmp_path)
    lost = graph.losses(graph.inputs)
    found = graph.losses(graph.smooth())
    assert all(found[product] <= lost[product] * (1 + 1e-5) for product in PRODUCTS)


def unlike(arrays: dict[str, Array], graph: Graph) -> Iterator[str]:
    """Names of the weights that changed."""
    for name, array in graph.arrays().items():
        if not np.array_equal(array, arrays[name]):
            yield name


def test_where_no_scale_is_better_the_weights_stay_as_they_are(tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES["qwen2"]), tmp_path)
    arrays = graph.arrays()
    found = graph.smooth(lambda matrix, inputs: 0.0)
    assert not list(unlike(arrays, graph))
    assert all(torch.equal(found[name].high, graph.inputs[name].high) for name in PRODUCTS)


# What is left alone


def test_a_norm_that_somebody_else_reads_is_left_alone(tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES["llama"]), tmp_path)
    name = "/model/layers.1/self_attn/qkv_proj/MatMul"
    value = next(node.input[0] for node in graph.onnx.graph.node if node.name == name)
    graph.onnx.graph.node.append(helper.make_node("Identity", [value], ["copy"]))
    graph.onnx.graph.output.append(helper.make_tensor_value_info("copy", onnx.TensorProto.FLOAT, None))
    arrays = graph.arrays()
    found = graph.smooth(unevenness)
    assert found[name] is graph.inputs[name]
    changed = set(unlike(arrays, graph))
    assert "model.layers.1.input_layernorm.weight" not in changed
    assert "model.layers.0.input_layernorm.weight" in changed


def test_a_product_of_unknown_inputs_is_left_alone(tmp_path: Path) -> None:
    graph = Graph.of(make_model(CASES["llama"]), tmp_path)
    del graph.inputs["/lm_head/MatMul"]
    arrays = graph.arrays()
    found = graph.smooth(unevenness)
    assert "/lm_head/MatMul" not in found
    assert not {"lm_head.weight", "model.norm.weight"} & set(unlike(arrays, graph))
