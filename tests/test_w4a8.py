"""Graphs with edgedsl's own operators: what the passes fuse, and that they compute what ONNX Runtime's operators do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from test_kernels import quantized, runs_here
from tiny_export import CASES, CONTEXT, make_model, model_info

from edgedsl.bundle.manifest import open_bundle
from edgedsl.config import override
from edgedsl.errors import ExportError
from edgedsl.exporters.blockwise import Recipe
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.passes.fuse_products import fuse_products, gated_panels
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.passes.row_attention import use_row_attention
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.w4a8 import packed_panels
from edgedsl.runtime import kernels
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.streams import Streams

RECIPE = Recipe(bits=4, block_size=64, accuracy_level=0)
NOT_COVERED = {"gemma2", "gemma3", "qwen3"}  # soft caps; norms between the projections and attention
ROW = [3, 17, 40, 9, 77, 101, 5, 60, 33, 2, 90, 14, 8]


def written(path: Path, folder: Path, *, is_native: bool, is_fused: bool = False) -> Path:
    model = onnx.load(path)
    quantize_model(model, replace(RECIPE, is_native=is_native))
    served = ir.from_proto(model)
    if is_fused:
        fuse_products(served)
    folder.mkdir()
    save_graph(served, folder / "model.onnx")
    return folder / "model.onnx"


def logits_of(path: Path, info: Any, *, is_native: bool = True) -> np.ndarray:
    decoder = Decoder(path, replace(info, quantization="w4a8" if is_native else "int4"), num_threads=2)
    whole = decoder.forward_all(ROW).copy()
    decoder.truncate(len(ROW) - 4)
    return np.concatenate([whole, decoder.forward_all(ROW[-4:])])


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@runs_here
@pytest.mark.parametrize("case", CASES)
def test_own_operators_compute_what_onnx_runtimes_do(case: str, tmp_path: Path) -> None:
    model = make_model(CASES[case])
    graph = FusedExporter().export(model, tmp_path, context_length=CONTEXT)
    info = model_info(CASES[case], graph.kv_layout)
    expected = logits_of(written(graph.path, tmp_path / "blocks", is_native=False), info, is_native=False)
    plain = logits_of(written(graph.path, tmp_path / "plain", is_native=True), info)
    fused_path = written(graph.path, tmp_path / "fused", is_native=True, is_fused=True)
    fused = logits_of(fused_path, info)
    # Activations of 8 bits beside activations of 32: a few hundredths of the spread.
    spread = float(expected.std())
    assert np.abs(plain - expected).mean() < 0.06 * spread
    assert np.abs(fused - expected).mean() < 0.06 * spread
    assert np.abs(fused - plain).mean() < 0.04 * spread
    found = operators(fused_path)
    assert found["NormMatMul4Bits"] + found["SkipNormMatMul4Bits"] > 0


@runs_here
def test_a_llama_layer_is_five_operators(tmp_path: Path) -> None:
    graph = FusedExporter().export(make_model(CASES["llama"]), tmp_path, context_length=CONTEXT)
    found = operators(written(graph.path, tmp_path / "fused", is_native=True, is_fused=True))
    layers = CASES["llama"].num_hidden_layers
    assert found["NormMatMul4Bits"] == 1, "the first norm has no residual sum before it"
    assert found["SkipNormMatMul4Bits"] == 2 * layers - 1, "every other norm but that of the head"
    assert found["MatMul4Bits"] == 2 * layers + 1, "behind attention, behind the gate, and the head"
    assert found["GroupQueryAttention"] == layers
    assert found["SkipSimplifiedLayerNormalization"] == 1
    assert not {"Split", "QuickGelu", "Mul"} & set(found)


def product_graph(*tail: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> ir.Model:
    """A gated product before its fusion, of 32 outputs, and more nodes."""
    helper = onnx.helper
    panels = packed_panels(quantized(64, 64))
    first = helper.make_node(
        "MatMul4Bits", ["x", "weights"], ["both"], domain=kernels.DOMAIN, K=64, N=64, is_gated=0, epsilon=0.0
    )
    split = helper.make_node("Split", ["both"], ["gate", "up"], axis=-1, num_outputs=2)
    graph = helper.make_graph(
        [first, split, *tail], "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(panels, "weights")],
    )  # fmt: skip
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in (("", 21), ("com.microsoft", 1), ("edgedsl", 1))
    ]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def silu(alpha: float = 1.0) -> onnx.NodeProto:
    return onnx.helper.make_node("QuickGelu", ["gate"], ["act"], domain="com.microsoft", alpha=alpha)


MULTIPLY = onnx.helper.make_node("Mul", ["act", "up"], ["y"])


@pytest.mark.parametrize(
    ("tail", "outputs", "is_fused"),
    [
        ([silu(), MULTIPLY], ("y",), True),
        ([silu(1.702), MULTIPLY], ("y",), False),
        ([silu(), MULTIPLY], ("y", "act"), False),
        ([silu(), MULTIPLY], ("y", "both"), False),
        ([onnx.helper.make_node("Relu", ["gate"], ["act"]), MULTIPLY], ("y",), False),
        ([silu(), onnx.helper.make_node("Add", ["act", "up"], ["y"])], ("y",), False),
    ],
)
def test_only_what_is_a_gate_is_fused(tail: list[onnx.NodeProto], outputs: tuple[str, ...], is_fused: bool) -> None:
    model = product_graph(*tail, outputs=outputs)
    fuse_products(model)
    products = [node for node in model.graph if node.domain == kernels.DOMAIN]
    assert [node.attributes["is_gated"].as_int() for node in products] == [int(is_fused)]
    assert products[0].attributes["N"].as_int() == (32 if is_fused else 64)
    assert len(model.graph) == (1 if is_fused else 4)


def test_gated_panels_hold_eight_gates_and_what_they_gate() -> None:
    plain = packed_panels(quantized(96, 128))
    mixed = gated_panels(plain)
    assert mixed.shape == plain.shape
    codes, tables = plain[..., :512], plain[..., 512:].copy().view(np.float16).reshape(6, 2, 2, 16)
    for panel in range(6):
        source, is_high = divmod(panel, 2)
        for half, first in ((0, 0), (1, 3)):
            there = codes[first + source] >> 4 if is_high else codes[first + source] & 15
            here = mixed[panel, :, :512] >> 4 if half else mixed[panel, :, :512] & 15
            assert np.array_equal(here, there)
            table = mixed[panel, :, 512:].copy().view(np.float16).reshape(2, 2, 2, 8)[:, :, half]
            assert np.array_equal(table, tables[first + source].reshape(2, 2, 2, 8)[:, :, is_high])


def test_where_they_do_not_run_auto_says_so_and_w4a8_is_refused(
    project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(ExportError, match="w4a8 cannot be measured here") as caught:
        export(override(project, "export", {"quantize": "w4a8"}), offline=True)
    assert "w8a8" in (caught.value.hint or "")
    said: list[str] = []
    export(
        override(project, "export", {"quantize": "auto", "output": str(tmp_path / "b")}), offline=True, say=said.append
    )
    assert any("w4a8 left out" in line for line in said)
    assert "quantized: w4a8" not in said


def has_own_attention(path: Path) -> bool:
    return "RotaryCachedAttention" in operators(path) or "CachedAttention" in operators(path)


@runs_here
@pytest.mark.parametrize("case", CASES)
def test_own_attention_computes_what_onnx_runtimes_does(case: str, tmp_path: Path) -> None:
    graph = FusedExporter().export(make_model(CASES[case]), tmp_path, context_length=CONTEXT)
    info = model_info(CASES[case], graph.kv_layout)
    expected = logits_of(graph.path, info, is_native=False)
    model = ir.load(graph.path)
    is_covered = use_row_attention(model)
    assert is_covered == (case not in NOT_COVERED)
    save_graph(model, tmp_path / "rows.onnx")
    assert has_own_attention(tmp_path / "rows.onnx") == is_covered
    names = {value.name for value in onnx.load(tmp_path / "rows.onnx", load_external_data=False).graph.input}
    assert ("attention_mask" in names, "row_slots" in names) == (not is_covered, is_covered)
    np.testing.assert_allclose(logits_of(tmp_path / "rows.onnx", info), expected, atol=3e-4)


@runs_here
def test_a_bundle_of_w4a8_is_exact_whoever_shares_its_calls(project: Any, tmp_path: Path) -> None:
    config = override(project, "export", {"quantize": "w4a8", "output": str(tmp_path / "b")})
    said: list[str] = []
    output = export(config, offline=True, say=said.append)
    manifest = open_bundle(output).manifest
    assert manifest.model.quantization == "w4a8"
    assert any("drafts change 0.0% of" in line for line in said)
    engine, exact = (Engine.from_bundle(output, num_threads=2, num_slots=3, exact=exact) for exact in (False, True))
    assert engine.decoder.has_rows
    assert exact.drafts, "nothing that a draft does can be seen, so that --exact keeps them"
    assert not engine.is_padded
    plain = Engine.from_bundle(output, num_threads=1)
    plain.drafts = None
    sentences = [pair[0] for pair in engine.dev][:12]
    params = [SamplingParams(max_tokens=24, temperature=0.7 * (n % 2), seed=n) for n in range(len(sentences))]
    expected = [plain.generate(*one).token_ids for one in zip(sentences, params, strict=True)]
    assert [engine.generate(*one).token_ids for one in zip(sentences, params, strict=True)] == expected
    streams, waiting, found = Streams(engine), list(range(len(sentences))), {}
    running: dict[Any, int] = {}
    counts: list[int] = []
    call = streams._slots.call
    streams._slots.call = lambda tokens: counts.extend(map(len, tokens.values())) or call(tokens)  # type: ignore[method-assign]
    while waiting or running:
        while waiting and streams.num_free:
            number = waiting.pop(0)
            running[streams.start(sentences[number], params[number])] = number
        for stream in streams.step():
            found[running.pop(stream)] = stream.outcome
    assert [found[number].token_ids for number in range(len(sentences))] == expected
    assert max(counts) > 1, "calls for several had drafts"
