"""From adapter to bundle: graphs, parity, the gate, and what is left behind when a step fails."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from tiny_export import CONTEXT, SHAPE, YARN, TinyOnnx, export_tiny, model_info, needs_optimum
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import edgedsl
from edgedsl.bundle.manifest import open_bundle
from edgedsl.cli import group, main
from edgedsl.config import Config, override
from edgedsl.errors import BundleError, EdgeDSLError, ExportError, GateError, ModelError
from edgedsl.exporters import hops, optimum, pipeline
from edgedsl.exporters.calibration import input_channels, input_moments
from edgedsl.exporters.merge import load_adapted
from edgedsl.exporters.nf4 import round_trip
from edgedsl.exporters.optimum import OptimumExporter, rotary_tables
from edgedsl.exporters.parity import compare
from edgedsl.exporters.passes.fuse_attention import fuse_attention, is_fusable
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.quality import Quality, check_gate
from edgedsl.exporters.source import adapter_source
from edgedsl.training.record import read_run

ROW = [int(i) for i in np.random.default_rng(1).integers(0, 120, 30)]


# Graphs

ARCHITECTURES: dict[str, tuple[Any, str]] = {
    "qwen2 with biases": (Qwen2Config(**SHAPE), "shared"),
    "mistral": (MistralConfig(**SHAPE, sliding_window=None), "shared"),
    "llama with biases": (LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), "shared"),
    "llama with scaled positions": (LlamaConfig(**SHAPE, rope_scaling=YARN), "shared"),
    "mistral with a window": (MistralConfig(**SHAPE, sliding_window=8), "growing"),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=16), "growing"),
    "gemma3 with a window": (
        Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]),
        "growing",
    ),
}


@needs_optimum
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_graphs_agree_with_torch(name: str, tmp_path: Path) -> None:
    config, layout = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    decoder = export_tiny(model, tmp_path / "graph")()
    assert decoder.info.kv_layout == layout
    with torch.inference_mode():
        expected = model(torch.tensor([ROW])).logits[0].numpy()
    np.testing.assert_allclose(decoder.forward_all(ROW), expected, atol=1e-4)
    decoder.reset()
    decoder.forward(ROW[:20])
    stepped = np.array([decoder.forward([token_id]).copy() for token_id in ROW[20:]])
    np.testing.assert_allclose(stepped, expected[20:], atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE, head_dim=8),
        LlamaConfig(**SHAPE, rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    ],
    ids=["narrow heads", "angles that depend on the length", "qwen2 with a window"],
)
def test_what_the_operator_cannot_compute_is_not_fused(config: Any) -> None:
    assert not is_fusable(config)


def test_fused_graph_appends_in_place_and_has_no_dead_parts(tiny_onnx: TinyOnnx) -> None:
    graph = onnx.load(tiny_onnx.shared().session._model_path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("GroupQueryAttention") == 2
    assert not {"Softmax", "ScatterND", "Range"} & set(operators)
    assert {value.name for value in graph.input} == {
        "input_ids", "attention_mask", "num_logits",
        *(f"past_key_values.{i}.{part}" for i in (0, 1) for part in ("key", "value")),
    }  # fmt: skip
    caches = [value for value in (*graph.input, *graph.output) if value.name.startswith(("past", "present"))]
    assert {value.type.tensor_type.shape.dim[2].dim_param for value in caches} == {"cache_length"}
    produced = {name for node in graph.node for name in node.output} | {value.name for value in graph.output}
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert {name for node in graph.node for name in node.output[:1]} <= used
    assert {weight.name for weight in graph.initializer} <= used
    assert {name for name in used if name} <= produced | {v.name for v in [*graph.input, *graph.initializer]}


def test_a_graph_without_the_expected_nodes_is_an_export_error(
    tiny_onnx: TinyOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(tiny_onnx.growing().session._model_path)

    def trace(self: OptimumExporter, model: Any, folder: Path) -> Path:
        shutil.copytree(source.parent, folder, dirs_exist_ok=True)
        graph = onnx.load(folder / "model.onnx")
        for node in graph.graph.node:
            node.name = node.name.replace("q_proj", "query")
        onnx.save(graph, folder / "model.onnx")
        return folder / "model.onnx"

    monkeypatch.setattr(OptimumExporter, "_trace", trace)
    with pytest.raises(ExportError, match=r"graph of 'llama' has no node .*q_proj"):
        OptimumExporter().export(tiny_onnx.model, tmp_path, context_length=CONTEXT)


class Unsaved:
    """A model that cannot be saved."""

    config = LlamaConfig(**SHAPE)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_pretrained(self, folder: Path) -> None:
        raise self.error


@needs_optimum
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("unknown\narchitecture"), "cannot export 'llama': unknown$"),
        (NotImplementedError(), "cannot export 'llama': NotImplementedError$"),
        (SafetensorError("I/O error: No space left"), "cannot export 'llama': I/O error: No space left$"),
    ],
)
def test_what_the_tracer_raises_is_an_export_error(error: Exception, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        OptimumExporter().export(Unsaved(error), tmp_path, context_length=32)
    assert caught.value.__cause__ is error


@needs_optimum
def test_a_full_disk_while_tracing_stays_an_os_error(tmp_path: Path) -> None:
    """The pipeline turns it into one message for every step."""
    with pytest.raises(OSError, match="full"):
        OptimumExporter().export(Unsaved(OSError(errno.ENOSPC, "full")), tmp_path, context_length=32)


def test_rotary_tables_are_the_models_own() -> None:
    config = LlamaConfig(**SHAPE, rope_scaling=YARN)
    model = AutoModelForCausalLM.from_config(config)
    cos, sin = rotary_tables(model, 40)
    assert cos.shape == sin.shape == (40, 8)
    plain = rotary_tables(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)), 40)
    angles = np.outer(np.arange(40), 10000.0 ** (-np.arange(8) / 8))
    np.testing.assert_allclose(plain[0], np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(plain[1], np.sin(angles), atol=1e-5)
    assert np.abs(cos - plain[0]).max() > 0.01


def test_a_fused_graph_needs_its_projections() -> None:
    with pytest.raises(KeyError):
        empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=10)
        fuse_attention(empty, LlamaConfig(**SHAPE), np.ones((4, 8), np.float32), np.ones((4, 8), np.float32))


# Calibration


@pytest.mark.parametrize("layout", ["shared", "growing"])
def test_calibration_names_are_the_graphs(tiny_onnx: TinyOnnx, layout: str) -> None:
    graph = onnx.load(getattr(tiny_onnx, layout)().session._model_path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    names = {node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights}
    packed = {f"/model/layers.{i}/{part}/MatMul" for i in (0, 1) for part in ("self_attn/qkv_proj", "mlp/gate_up_proj")}
    moments = input_moments(tiny_onnx.model, [[1, 2, 3]])
    assert names <= set(moments)
    assert packed <= set(moments)
    assert len(names) == 2 * (5 if layout == "shared" else 7) + 1


def test_moments_are_means_over_all_tokens(tiny_onnx: TinyOnnx) -> None:
    rows = [[1, 2, 3], [4, 5, 6, 7, 8]]
    found = input_moments(tiny_onnx.model, rows)["/lm_head/MatMul"]
    with torch.inference_mode():
        inputs = torch.cat([tiny_onnx.model.model(torch.tensor([row])).last_hidden_state[0] for row in rows])
    np.testing.assert_allclose(found.numpy(), (inputs.T @ inputs / len(inputs)).numpy(), rtol=1e-4, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in tiny_onnx.model.modules()), "the hooks are gone"


@pytest.mark.parametrize("num_skipped", [0, 2])
def test_ranges_are_of_all_tokens_but_those_of_the_prefix(tiny_onnx: TinyOnnx, num_skipped: int) -> None:
    rows = [[1, 2, 3], [1, 2, 6, 7, 8], [1, 2, 9]]
    found = input_channels(tiny_onnx.model, rows, num_skipped)
    with torch.inference_mode():
        hidden = [tiny_onnx.model.model(torch.tensor([row])).last_hidden_state[0] for row in rows]
    inputs = torch.cat([states[num_skipped:] for states in hidden])
    head = found["/lm_head/MatMul"]
    torch.testing.assert_close(head.low, inputs.amin(0))
    torch.testing.assert_close(head.high, inputs.amax(0))
    torch.testing.assert_close(head.mean_square, inputs.square().mean(0))
    torch.testing.assert_close(head.widths, inputs.abs().amax(0))
    assert set(found) == set(input_moments(tiny_onnx.model, rows))
    packed = found["/model/layers.1/self_attn/qkv_proj/MatMul"]
    assert packed is found["/model/layers.1/self_attn/q_proj/MatMul"]
    assert not any(module._forward_pre_hooks for module in tiny_onnx.model.modules()), "the hooks are gone"


# Parity and gate


def test_near_ties_are_counted_apart() -> None:
    reference = np.array([[0, 1, 5], [0, 2.00, 2.05], [0, 1, 3], [4, 0, 0]], np.float32)
    candidate = np.array([[0, 1, 5], [0, 2.05, 2.00], [0, 3, 1], [4, 0, 0.5]], np.float32)
    parity = compare([reference[:3], reference[3:]], [candidate[:3], candidate[3:]])
    assert (parity.num_tokens, parity.flips, parity.near_tie_flips) == (4, 1, 1)
    assert parity.argmax_agreement == 0.5
    assert parity.max_difference == 2.0
    assert 0 < parity.mean_difference < 1


def test_equal_logits_are_equal() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    parity = compare([logits], [logits.copy()])
    assert (parity.max_difference, parity.argmax_agreement, parity.flips, parity.near_tie_flips) == (0, 1, 0, 0)


def quality(*exact_matches: float) -> dict[str, Quality]:
    hops = ("adapter", "merged", "onnx", "quantized")
    return {hop: Quality(100, value, 1.0) for hop, value in zip(hops, exact_matches, strict=True)}


@pytest.mark.parametrize(
    ("exact_matches", "hop", "lost"),
    [
        ((0.9, 0.9, 0.9, 0.4), "onnx -> quantized", "50.0%"),
        ((0.9, 0.3, 0.4, 0.4), "adapter -> merged", "60.0%"),
        ((0.9, 0.8, 0.5, 0.4), "merged -> onnx", "30.0%"),
    ],
)
def test_the_gate_names_the_hop_that_lost(exact_matches: tuple[float, ...], hop: str, lost: str) -> None:
    with pytest.raises(GateError, match=rf"the hop {hop} lost {lost}") as caught:
        check_gate(quality(*exact_matches), 0.97)
    assert caught.value.exit_code == 9
    assert "from 90.0% (adapter, fp32) to 40.0%" in caught.value.message
    assert "no bundle was written" in caught.value.message


@pytest.mark.parametrize(
    ("served", "gate", "passes"),
    [(0.9, 1.0, True), (0.88, 0.97, True), (0.87, 0.97, False), (0.0, 0.0, True), (0.95, 1.0, True)],
)
def test_the_gate_is_a_share_of_the_adapters_exact_match(served: float, gate: float, passes: bool) -> None:
    try:
        check_gate(quality(0.9, 0.9, 0.9, served), gate)
    except GateError:
        assert not passes
    else:
        assert passes


# Adapter and base model


@pytest.fixture
def adapter(tiny_project: Config, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may spoil."""
    return Path(shutil.copytree(tiny_project.path("adapter"), tmp_path / "adapter"))


def source_of(config: Config, adapter: Path) -> Any:
    return adapter_source(override(config, "export", {"adapter": str(adapter)}), offline=True)


def test_a_source_knows_where_it_comes_from(tiny_project: Config, adapter: Path) -> None:
    source = source_of(tiny_project, adapter)
    assert source.base_name == "base"
    assert set(source.files) == {
        "tokenizer.json", "prompt.json", "grammar.lark", "catalogue.json", "licences/base-model.txt",
    }  # fmt: skip
    stored = 279 * 32 + 2 * (2 * 64 * 32 + 2 * 32 * 32 + 3 * 64 * 32 + 2 * 32) + 32
    assert source.weight_bytes == 4 * stored
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert source.adapter_sha256 == hashlib.sha256(weights).hexdigest()


def test_an_adapter_of_another_base_is_refused(tiny_project: Config, adapter: Path) -> None:
    run = json.loads((adapter / "run.json").read_text())
    run["base_model"] = {"name": "another", "sha256": "ab" * 32}
    (adapter / "run.json").write_text(json.dumps(run))
    with pytest.raises(
        ModelError, match=r"trained on 'another' \(sha256 abababababab\), the base model 'base'"
    ) as info:
        source_of(tiny_project, adapter)
    assert "[project] base_model" in info.value.hint


@pytest.mark.parametrize(
    "name", ["run.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "prompt.json"]
)
def test_an_unfinished_adapter_is_refused(tiny_project: Config, adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(ModelError, match=f"is not a finished adapter: {name} is missing") as caught:
        source_of(tiny_project, adapter)
    assert "edgedsl train" in caught.value.hint


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base_model": "x", "config": 1}', "\x00", '{"base_model": {}}'])
def test_a_broken_run_json_is_refused(adapter: Path, content: str) -> None:
    (adapter / "run.json").write_text(content)
    with pytest.raises(ModelError, match=r"run\.json cannot be used"):
        read_run(adapter)


@pytest.mark.parametrize("spoil", ["adapter_model.safetensors", "adapter_config.json", "rank", "base"])
def test_weights_that_cannot_be_read_are_model_errors(
    tiny_project: Config, adapter: Path, tmp_path: Path, spoil: str
) -> None:
    base = Path(shutil.copytree(tiny_project.path("base"), tmp_path / "base"))
    if spoil == "rank":
        settings = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, "r": 3}))
    else:
        broken = base / "model.safetensors" if spoil == "base" else adapter / spoil
        broken.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="cannot be loaded" if spoil == "base" else "does not fit its base model"):
        load_adapted(base, adapter, is_qlora=False)


def test_a_qlora_adapter_sits_on_rounded_weights(tiny_project: Config) -> None:
    folders = tiny_project.path("base"), tiny_project.path("adapter")
    plain, rounded = (load_adapted(*folders, is_qlora=is_qlora).get_base_model() for is_qlora in (False, True))
    exact = dict(plain.named_parameters())
    adapted = [name for name in exact if name.endswith("base_layer.weight")]
    assert len(adapted) == 2 * 7
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, round_trip(exact[name]) if name in adapted else exact[name]), name
    assert not torch.equal(exact[adapted[0]], dict(rounded.named_parameters())[adapted[0]])


# The whole export


def test_every_hop_is_measured_and_agrees(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert list(manifest.parity) == ["merged", "onnx", "quantized"]
    assert list(manifest.quality) == ["adapter", "merged", "onnx", "quantized", "drafted"]
    assert manifest.quality["drafted"] == manifest.quality["quantized"]
    assert manifest.config["export"]["graph"] == "fused"
    assert manifest.parity["merged"]["max_difference"] < 1e-4
    assert manifest.parity["onnx"]["max_difference"] < 1e-4
    assert 0 < manifest.parity["quantized"]["max_difference"] < 1
    assert manifest.parity["onnx"]["flips"] == 0
    assert all(hop["num_rows"] == 4 for hop in manifest.quality.values())


def test_the_bundle_is_whole_and_says_what_it_is(tiny_bundle: Path, tiny_project: Config) -> None:
    bundle = open_bundle(tiny_bundle)
    assert set(bundle.manifest.files) == {
        "model.onnx", "model.onnx.data", "tokenizer.json", "prompt.json", "grammar.lark", "catalogue.json",
        "tokenizer.bytes.json", "grammar.tables.json", "grammar.lexemes.json", "eval/dev.json",
        "licences/base-model.txt", "drafts.ngrams", "drafts.neighbours", "prefix.kv",
        "head.onnx", "head.onnx.data", "head.columns",
    }  # fmt: skip
    config = LlamaConfig.from_pretrained(tiny_project.path("base"))
    expected = model_info(config, "shared")
    for name in ("architecture", "num_layers", "num_kv_heads", "head_dim", "vocab_size", "context_length", "kv_layout"):
        assert getattr(bundle.manifest.model, name) == getattr(expected, name)
    assert bundle.manifest.model.quantization == "w8a8"
    assert str(tiny_project.root) not in (tiny_bundle / "manifest.json").read_text()
    assert {"torch", "onnxruntime", "llguidance"} <= set(bundle.manifest.versions)
    for name in ("tokenizer.json", "prompt.json", "grammar.lark", "catalogue.json"):
        assert (tiny_bundle / name).read_bytes() == tiny_project.path(f"adapter/{name}").read_bytes()


def test_every_weight_matrix_is_quantised(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    products = operators.count("MatMulIntegerToFloat")
    assert (products, operators.count("QuantizeLinear"), operators.count("GatherBlockQuantized")) == (8, 9, 1)
    assert "MatMul" not in operators  # packed: 4 a layer; the head, whose input is quantised here, is apart
    floats = {w.name for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 2}
    assert {name for name in floats if not name.endswith((".scales", ".wide.weight"))} == {
        "rotary.full_attention.cos",
        "rotary.full_attention.sin",
    }


def test_nothing_is_left_beside_the_bundle(tiny_bundle: Path) -> None:
    hidden = [path.name for path in tiny_bundle.parent.iterdir() if path.name.startswith(".")]
    assert hidden == []


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_fails_untouched(project: Config, error: type[EdgeDSLError], message: str) -> EdgeDSLError:
    before = digests(project.root)
    with pytest.raises(error, match=message) as caught:
        export(project, offline=True)
    assert digests(project.root) == before
    open_bundle(project.path("bundle"))
    return caught.value


def test_no_room_is_noticed_before_anything_is_done(project: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_Export", lambda *args: pytest.fail("the export began"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    error = assert_fails_untouched(project, ExportError, "0 MiB free")
    assert "free some space" in error.hint


@pytest.mark.parametrize(
    "place", ["exporters.candidates.save_graph", "atomic.write_bytes", "bundle.manifest.write_bytes"]
)
def test_a_disk_that_fills_up_leaves_the_old_bundle(
    project: Config, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"edgedsl.{place}", full)
    error = assert_fails_untouched(project, ExportError, "No space left on device; nothing was changed")
    assert "free some space" in error.hint
    assert error.exit_code == 8


def test_the_gate_leaves_the_old_bundle(project: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.9, 0.9, 0.9, 0.2, 0.2])
    monkeypatch.setattr(hops, "measure", lambda *args: Quality(4, next(measured), 1.0))
    strict = override(project, "export", {"gate": 0.5})
    assert_fails_untouched(strict, GateError, "onnx -> quantized")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_length": 512}, "knows positions up to 256"),
        ({"context_length": 16}, r"jsonl:\d+: the prompt has \d+"),
    ],
)
def test_a_context_that_cannot_work_is_refused(project: Config, settings: dict[str, int], message: str) -> None:
    error = assert_fails_untouched(override(project, "export", settings), ExportError, message)
    assert "context_length" in error.hint


def test_a_transformers_that_optimum_does_not_take_is_noticed_before_anything_is_measured(
    project: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimum, "version", lambda package: "5.23.0")
    monkeypatch.setattr(hops.Hops, "measure_torch", lambda *args: pytest.fail("something was measured"))
    traced = override(project, "export", {"graph": "optimum", "quantize": "int8"})
    error = assert_fails_untouched(traced, ExportError, r"needs transformers<4\.58.*, and transformers 5\.23\.0 is")
    assert error.hint.startswith("pip install 'transformers<4.58")


def test_a_new_bundle_takes_the_place_of_the_old_one(project: Config) -> None:
    before = digests(project.path("bundle"))
    said: list[str] = []
    output = export(override(project, "export", {"quantize": "int4", "eval_rows": 1}), offline=True, say=said.append)
    assert output == project.path("bundle")
    assert open_bundle(output).manifest.model.quantization == "int4"
    operators = [node.op_type for node in onnx.load(output / "model.onnx", load_external_data=False).graph.node]
    assert (operators.count("MatMulNBits"), operators.count("GatherBlockQuantized")) == (9, 1)
    assert digests(output)["model.onnx"] != before["model.onnx"]
    assert [line.split(":")[0].strip() for line in said if ": exact match" in line] == [
        "adapter", "merged", "onnx", "int4", "int4 drafted",
    ]  # fmt: skip
    assert list(open_bundle(output).manifest.quality) == ["adapter", "merged", "onnx", "quantized", "drafted"]
    assert edgedsl.load(output, num_threads=1)("off hall", max_tokens=8).completion_tokens > 0


def test_drafts_that_change_answers_are_taken_out_again(project: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model is asked the same sentence often; its drafted answers are made to differ."""
    real = hops.Hops._measure_programs

    def differing(self: Any, hop: str, generate: Any) -> None:
        real(self, hop, generate if hop != "w8a8 drafted" else lambda sentences: ["?" for _ in generate(sentences)])

    monkeypatch.setattr(hops.Hops, "_measure_programs", differing)
    said: list[str] = []
    output = export(override(project, "export", {"eval_rows": 1}), offline=True, say=said.append)
    assert [line for line in said if "drafts" in line] == [
        "  drafts change 100.0% of 1 answers",
        "drafts: taken out again, the gate is 0.5%",
    ]
    assert not [name for name in open_bundle(output).manifest.files if name.startswith("drafts")]
    engine = edgedsl.load(output, num_threads=1)
    assert (engine.drafts, engine.is_padded) == (None, False)


@pytest.mark.parametrize(
    ("graph", "recipe", "is_padded"),
    [
        pytest.param("optimum", "int8", True, marks=needs_optimum),
        ("fused", "int8", True),
        ("fused", "w8a8", True),
    ],
)
def test_a_bundle_with_either_graph_drafts(project: Config, graph: str, recipe: str, is_padded: bool) -> None:
    settings = {"graph": graph, "quantize": recipe, "eval_rows": 2}
    output = export(override(project, "export", settings), offline=True)
    assert open_bundle(output).manifest.config["export"]["graph"] == graph
    drafting, exact = edgedsl.load(output, num_threads=1), edgedsl.load(output, num_threads=1, exact=True)
    assert (exact.drafts, exact.is_padded, drafting.is_padded) == (None, is_padded, is_padded)
    pairs = [row["prompt"] for row in json.loads((output / "eval" / "dev.json").read_text(encoding="utf-8"))]
    for prompt in pairs:
        assert drafting(prompt, max_tokens=16).text == exact(prompt, max_tokens=16).text


def test_smoke_needs_no_adapter_and_spares_the_real_bundle(project: Config) -> None:
    shutil.rmtree(project.path("adapter"))
    before = digests(project.path("bundle"))
    arguments = ["export", "--project", str(project.root), "--smoke", "--quantize", "none", "--offline", "--json"]
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["bundle"] == str(project.root / "bundle-smoke")
    assert report["parity"]["quantized"]["max_difference"] == 0, "none stores the weights as they are"
    assert set(report["quality"]) == {"adapter", "merged", "onnx", "quantized", "drafted"}
    assert open_bundle(project.path("bundle-smoke")).manifest.model.adapter_sha256 == ""
    assert digests(project.path("bundle")) == before
    assert edgedsl.load(project.path("bundle-smoke"), num_threads=1)("off", max_tokens=8).completion_tokens > 0


def test_a_flipped_bit_in_any_file_is_found_and_named(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path.relative_to(tiny_bundle)) for path in tiny_bundle.rglob("*") if path.is_file()]
    assert len(names) == 18
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgedsl", "generate", "--bundle", str(bundle), "off"])
    for name in names:
        content = (bundle / name).read_bytes()
        middle = len(content) // 2
        (bundle / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == BundleError.exit_code == 3
        output = capsys.readouterr()
        assert name in output.err
        assert output.out == ""
        (bundle / name).write_bytes(content)
    open_bundle(bundle)
