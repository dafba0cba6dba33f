"""The fused graph against transformers, on random models of every architecture it covers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tiny_export import CASES, CONTEXT, HAS_OPTIMUM, LONG, SHAPE, make_model, model_info
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Phi3Config

from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import Recipe
from edgedsl.exporters.calibration import input_moments
from edgedsl.exporters.fused import FusedExporter, exporter, uncovered
from edgedsl.exporters.fused.plan import plan_of
from edgedsl.exporters.quantize import quantize_model
from edgedsl.runtime.decoder import Decoder

VOCABULARY = SHAPE["vocab_size"]
ROW = [int(i) for i in np.random.default_rng(1).integers(3, VOCABULARY, 40)]
PREFILL = 20


def reference(model: Any) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = model(torch.tensor([ROW])).logits[0].numpy()
    return logits


def make_decoder(model: Any, folder: Path) -> Decoder:
    graph = FusedExporter().export(model, folder, context_length=CONTEXT, has_num_logits=False)
    return Decoder(graph.path, model_info(model.config, graph.kv_layout), num_threads=1)


def run(path: Path, model: Any, **inputs: Any) -> np.ndarray:
    """Logits of one call over an empty shared cache."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    tokens = np.array([ROW], np.int64)
    info = model_info(model.config, "shared")
    cache = np.zeros((1, info.num_kv_heads, CONTEXT, info.head_dim), np.float32)
    past = {value.name: cache for value in session.get_inputs() if value.name.startswith("past_key_values.")}
    logits: np.ndarray = session.run(
        ["logits"], {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **past, **inputs}
    )[0]
    return logits[0]


# Parity


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = make_model(CASES[name])
    expected = reference(model)
    decoder = make_decoder(model, tmp_path)
    np.testing.assert_allclose(decoder.forward_all(ROW), expected, atol=1e-4)
    for num_tokens in (1, 5):  # steps, and calls with drafts
        decoder.reset()
        decoder.forward(ROW[:PREFILL])
        starts = range(PREFILL, len(ROW), num_tokens)
        found = [decoder.forward_all(ROW[start : start + num_tokens]).copy() for start in starts]
        np.testing.assert_allclose(np.concatenate(found), expected[PREFILL:], atol=1e-4)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("mistral, window", {"windows": (9, 9)}),
    "no window": ("phi3", {"windows": (None, None)}),
    "windows of the other layers": ("gemma3", {"windows": (None, 8)}),
    "rotary where there is none": ("smollm3", {"rotary": ("full_attention",) * 2}),
    "one rotary table for all layers": ("gemma3", {"rotary": ("full_attention",) * 2}),
    "scale of the scores": ("gemma2", {"attention_scale": 32**-0.5}),
    "soft cap of the scores": ("gemma2", {"attention_softcap": 0.0}),
    "soft cap of the logits": ("gemma2", {"logits_softcap": 0.0}),
    "weights of norms": ("gemma2", {"norm_offset": 0.0}),
    "scale of embeddings": ("granite", {"embedding_scale": 1.0}),
    "scale of updates": ("granite, biases", {"residual_scale": 1.0}),
    "scale of logits": ("granite", {"logits_scale": 1.0}),
}


@pytest.mark.parametrize("name", WRONG)
def test_parity_would_see_a_wrong_plan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, change = WRONG[name]
    model = make_model(CASES[case])
    monkeypatch.setattr(exporter, "plan_of", lambda config: replace(plan_of(config), **change))
    assert np.abs(make_decoder(model, tmp_path).forward_all(ROW) - reference(model)).max() > 1e-3


def test_rows_of_different_length_share_a_step(tmp_path: Path) -> None:
    """Lengths come from the mask: a batch of one token each equals single runs."""
    model = make_model(CASES["gemma3"])
    decoder = make_decoder(model, tmp_path)
    lengths, expected, caches = (21, 12), [], []
    for length in lengths:
        decoder.reset()
        decoder.forward(ROW[: length - 1])
        expected.append(decoder.forward([ROW[length - 1]]).copy())
        caches.append([buffer.numpy().copy() for buffer in decoder._kv])
    mask = np.zeros((2, max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    names = [past for past, _ in decoder._kv_names()]
    past = {name: np.concatenate(pair) for name, pair in zip(names, zip(*caches, strict=True), strict=True)}
    tokens = np.array([[ROW[length - 1]] for length in lengths])
    found = decoder.session.run(["logits"], {"input_ids": tokens, "attention_mask": mask, **past})[0]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


# The head


@pytest.mark.parametrize("num_logits", [0, 1, 3])
def test_only_the_last_positions_have_logits(num_logits: int, tmp_path: Path) -> None:
    model = make_model(CASES["gemma2"])
    graph = FusedExporter().export(model, tmp_path, context_length=CONTEXT, has_num_logits=True)
    found = run(graph.path, model, num_logits=np.array([num_logits]))
    np.testing.assert_allclose(found, reference(model)[-num_logits:], atol=1e-4)


# The file


def test_graph_is_of_fused_operators_with_the_weights_beside_it(tmp_path: Path) -> None:
    path = (
        FusedExporter().export(make_model(CASES["llama"]), tmp_path, context_length=CONTEXT, has_num_logits=False).path
    )
    graph = onnx.load(path, load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    counts = {name: operators.count(name) for name in ("MatMul", "GroupQueryAttention", "Add", "Gather")}
    assert counts == {"MatMul": 2 * 4 + 1, "GroupQueryAttention": 2, "Add": 0, "Gather": 2}
    assert operators.count("SkipSimplifiedLayerNormalization") == 2 * 2
    large = [weight for weight in graph.initializer if weight.ByteSize() > 1024]
    assert not large  # all of them are references
    places = {entry.value for weight in graph.initializer for entry in weight.external_data if entry.key == "location"}
    assert places == {"model.onnx.data"}
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    used = {name for node in graph.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used
    assert {value.name for value in graph.input} <= used


def test_quantising_finds_every_weight_and_its_moments(tmp_path: Path) -> None:
    model = make_model(CASES["qwen2"])
    path = FusedExporter().export(model, tmp_path, context_length=CONTEXT, has_num_logits=False).path
    graph = onnx.load(path)
    moments = input_moments(model, [ROW])
    matmuls = {node.name for node in graph.graph.node if node.op_type == "MatMul"}
    assert "/model/layers.1/self_attn/qkv_proj/MatMul" in matmuls
    assert "/lm_head/MatMul" in matmuls
    assert matmuls <= set(moments)
    recipe = Recipe(bits=8, method="gptq", accuracy_level=0)
    quantize_model(graph, recipe, moments)
    operators = {node.op_type for node in graph.graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    assert "MatMul" not in operators
    quantized = tmp_path / "quantized.onnx"
    onnx.save(graph, quantized)
    np.testing.assert_allclose(run(quantized, model), reference(model), atol=0.1)


# Refusals

REFUSED: dict[str, tuple[Any, str]] = {
    "another architecture": (GPT2Config(), "architecture 'gpt2' is none of gemma2, "),
    "narrow heads": (LlamaConfig(**SHAPE, head_dim=8), "heads are 8 wide"),
    "activation": (LlamaConfig(**SHAPE, hidden_act="gelu"), "activation 'gelu'"),
    "looks ahead": (Gemma3TextConfig(**SHAPE, head_dim=16, use_bidirectional_attention=True), "looks ahead"),
    "looks ahead, said in general": (LlamaConfig(**SHAPE, is_causal=False), "looks ahead"),
    "longrope": (
        Phi3Config(**SHAPE, original_max_position_embeddings=CONTEXT - 1, rope_scaling=LONG),
        f"'longrope' changes at {CONTEXT - 1} positions",
    ),
    "dynamic": (
        LlamaConfig(
            **{**SHAPE, "max_position_embeddings": CONTEXT - 1}, rope_scaling={"rope_type": "dynamic", "factor": 2.0}
        ),
        "'dynamic' changes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_covered_is_an_export_error(name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    assert reason in uncovered(config, CONTEXT)

    class Model:
        pass

    model = Model()
    model.config = config  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match="does not cover this model") as error:
        FusedExporter().export(model, tmp_path, context_length=CONTEXT, has_num_logits=False)
    assert error.value.hint == "export with '--graph optimum'"
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(HAS_OPTIMUM, reason="transformers 4 has one configuration for all layers")
def test_layers_of_different_shape_are_not_covered() -> None:
    config = LlamaConfig(**SHAPE, per_layer_config={1: {"intermediate_size": 64, "num_key_value_heads": 1}})
    assert uncovered(config, CONTEXT) == "its layers differ in intermediate_size, num_key_value_heads"


def test_a_parameter_that_the_graph_would_leave_out_is_refused(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    model.model.layers[1].self_attn.register_parameter("sinks", torch.nn.Parameter(torch.zeros(4)))
    with pytest.raises(ExportError, match=r"has 'model\.layers\.1\.self_attn\.sinks'"):
        FusedExporter().export(model, tmp_path, context_length=CONTEXT, has_num_logits=False)


def test_a_parameter_that_is_missing_is_refused(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(ExportError, match=r"has no 'model\.layers\.1\.mlp\.down_proj\.weight'"):
        FusedExporter().export(model, tmp_path, context_length=CONTEXT, has_num_logits=False)
