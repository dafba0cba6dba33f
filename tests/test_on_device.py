"""The graph for GPUs: parity, choice of tokens, calls of fixed shape. On the CPU, and on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tiny import CATALOGUE, GRAMMAR, PAIRS, tiny_template, tiny_tokenizer
from tiny_export import CASES, CONTEXT, SHAPE, make_model, model_info
from transformers import LlamaConfig

from edgedsl.bundle.schema import ModelInfo
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import ExportError, GenerationError, LogitsError, PromptTooLong, ProviderError
from edgedsl.exporters.calibration import input_moments
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.fused.on_device import to_device
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import HALF, RECIPES
from edgedsl.grammar import Grammar
from edgedsl.runtime import kv_cache
from edgedsl.runtime.call_costs import measure
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.device_calls import CAPTURED_SIZES, DeviceCalls
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.prefix import Prefix
from edgedsl.runtime.rows import DeviceRow
from edgedsl.runtime.sampling import SamplingParams

VOCABULARY = SHAPE["vocab_size"]
IDS = [int(i) for i in np.random.default_rng(2).integers(3, VOCABULARY, CONTEXT)]
# What half precision changes of logits whose standard deviation is about 1.
CLOSE = {"float32": 1e-5, "float16": 0.05, "bfloat16": 0.4}
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
Make = Callable[[Any, str], Decoder]


def graph_of(model: Any, folder: Path) -> onnx.ModelProto:
    folder.mkdir()
    return onnx.load(FusedExporter().export(model, folder, context_length=CONTEXT).path)


def written(model: Any, folder: Path, dtype: str) -> Path:
    graph = graph_of(model, folder)
    to_device(graph, dtype, CONTEXT)
    path = folder / "device.onnx"
    save_graph(graph, path)
    return path


def info_of(model: Any, dtype: str) -> ModelInfo:
    return replace(model_info(model.config, "shared"), kv_dtype=dtype, quantization="test")


def plain(model: Any, folder: Path) -> Decoder:
    folder.mkdir()
    path = FusedExporter().export(model, folder, context_length=CONTEXT).path
    return Decoder(path, model_info(model.config, "shared"), num_threads=1)


def on_device(model: Any, folder: Path, dtype: str = "float32", device: str = "cpu", **options: Any) -> Decoder:
    return Decoder(
        written(model, folder, dtype), info_of(model, dtype), execution_provider=device, num_threads=1, **options
    )


def steps(decoder: Decoder, token_ids: list[int], chunk: int) -> np.ndarray:
    rows = [decoder.forward_all(token_ids[i : i + chunk]).copy() for i in range(0, len(token_ids), chunk)]
    return np.concatenate(rows)


# Parity


@pytest.mark.parametrize("name", CASES)
def test_inputs_for_a_gpu_leave_the_logits_as_they_are(name: str, tmp_path: Path) -> None:
    """Lengths of a cache of constant width in place of a mask; parts of heads by slices; positions gathered."""
    model = make_model(CASES[name])
    expected = plain(model, tmp_path / "plain").forward_all(IDS[:60])
    decoder = on_device(model, tmp_path / "device")
    np.testing.assert_allclose(decoder.forward_all(IDS[:60]), expected, atol=1e-4)
    for chunk in (1, 5, 17):  # 5 is filled up to 6, 17 has no size
        decoder.reset()
        decoder.forward(IDS[:20])
        np.testing.assert_allclose(steps(decoder, IDS[20:60], chunk), expected[20:], atol=1e-4)


@DEVICES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama, biases", "qwen2", "qwen3", "gemma2", "gemma3", "granite", "phi3"])
def test_half_precision_is_close(name: str, dtype: str, device: str, tmp_path: Path) -> None:
    if (device, dtype) == ("cpu", "bfloat16"):
        pytest.skip("the CPU has no attention in bfloat16")
    model = make_model(CASES[name])
    expected = plain(model, tmp_path / "plain").forward_all(IDS[:60])
    decoder = on_device(model, tmp_path / "half", dtype, device)
    scale = expected.std()
    for chunk in (60, 1, 5):
        decoder.reset()
        found = steps(decoder, IDS[:60], chunk)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found / scale, expected / scale, atol=CLOSE[dtype])
        assert np.abs(found - expected).mean() / scale < CLOSE[dtype] / 10
        assert np.abs(found - expected).max() > 1e-6  # it is another arithmetic


@DEVICES
@pytest.mark.parametrize("recipe", ["fp16", "int4-fp16"])
def test_recipes_in_half_precision_run(recipe: str, device: str, tmp_path: Path) -> None:
    model = make_model(CASES["qwen2"])
    expected = plain(model, tmp_path / "plain").forward_all(IDS[:40])
    graph = graph_of(model, tmp_path / "graph")
    if settings := RECIPES[recipe]:
        quantize_model(graph, settings, input_moments(model, [IDS[:40]]))
    to_device(graph, HALF[recipe], CONTEXT)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("MatMulNBits") == (0 if recipe == "fp16" else 2 * 4 + 1)
    assert "GatherBlockQuantized" not in operators
    save_graph(graph, tmp_path / "device.onnx")
    decoder = Decoder(tmp_path / "device.onnx", info_of(model, HALF[recipe]), execution_provider=device)
    scale = expected.std()
    np.testing.assert_allclose(
        decoder.forward_all(IDS[:40]) / scale, expected / scale, atol=0.02 if recipe == "fp16" else 1
    )


def test_bfloat16_has_the_types_that_the_operators_want(tmp_path: Path) -> None:
    """ONNX Runtime infers and checks every type before it looks for kernels; the CPU has none for the first of them."""
    path = written(make_model(CASES["qwen3"]), tmp_path / "graph", "bfloat16")
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    graph = onnx.load(path)
    table = next(weight for weight in graph.graph.initializer if weight.name == "model.embed_tokens.weight")
    table.CopyFrom(onnx.numpy_helper.from_array(np.zeros(list(table.dims), np.float16), table.name))
    with pytest.raises(Exception, match=r"INVALID_GRAPH|Type Error|Type parameter"):
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def test_nothing_is_left_that_a_gpu_would_give_to_the_cpu(tmp_path: Path) -> None:
    graph = onnx.load(written(make_model(CASES["gemma3"]), tmp_path / "graph", "float16"), load_external_data=False)
    names = {value.name for value in graph.graph.input}
    assert {"input_ids", "seqlens_k", "logit_positions"} == {n for n in names if not n.startswith("past_key_values.")}
    assert [value.name for value in graph.graph.output if not value.name.startswith("present.")] == [
        "logits", "best_token", "check",
    ]  # fmt: skip
    operators = {node.op_type for node in graph.graph.node}
    assert operators <= {
        "Add", "ArgMax", "Cast", "FastGelu", "Gather", "GroupQueryAttention", "MatMul", "Mul", "ReduceSum", "Reshape",
        "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "Slice", "Split", "Tanh",
    }  # fmt: skip
    assert all(len(node.input) == 1 for node in graph.graph.node if node.op_type == "Split")
    used = {name for node in graph.graph.node for name in node.input}
    assert {weight.name for weight in graph.graph.initializer} <= used
    assert names <= used
    floats = {w.name for w in graph.graph.initializer if w.data_type == onnx.TensorProto.FLOAT}
    assert floats == {"choice.zero"}


def test_a_weight_out_of_range_is_an_error(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 70_000.0
    graph = graph_of(model, tmp_path / "graph")
    with pytest.raises(ExportError, match=r"'model\.layers\.1\.mlp\.gate_up_proj\.weight' .* float16") as caught:
        to_device(graph, "float16", CONTEXT)
    assert "bf16" in caught.value.hint


# The cache


@pytest.mark.parametrize("dtype", kv_cache.ELEMENT_TYPES)
def test_a_cache_holds_what_torch_would_round_to(dtype: str) -> None:
    values = np.random.default_rng(0).normal(0, 100, (2, 3, 5)).astype(np.float32)
    values[0, 0] = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-9, -(1 + 2**-11)]  # ties among them
    buffer = kv_cache.allocate(values.shape, dtype, "cpu")
    kv_cache.write(buffer, values, dtype)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(kv_cache.read(buffer, dtype), expected)


@DEVICES
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prefix_in_fp32_serves_every_type(dtype: str, device: str, tmp_path: Path) -> None:
    if (device, dtype) in (("cpu", "bfloat16"), ("cuda", "float32")):
        pytest.skip(f"there is no attention in {dtype} on {device}")
    model = make_model(CASES["llama"])
    source = plain(model, tmp_path / "plain")
    expected = source.forward_all(IDS[:40]).copy()
    source.reset()
    source.forward(IDS[:9])
    prefix = Prefix(tuple(IDS[:9]), source.cached())
    decoder = on_device(model, tmp_path / "device", dtype, device, prefix=prefix)
    for _ in range(2):
        decoder.reset()
        assert decoder.length == 9
        found = decoder.forward_all(IDS[9:40])
        np.testing.assert_allclose(found / expected.std(), expected[9:] / expected.std(), atol=CLOSE[dtype] + 1e-4)
    # bfloat16 keeps 8 bits of each value.
    np.testing.assert_allclose(decoder.cached()[:, :, :9], prefix.kv, rtol=2**-8, atol=1e-6)


# Calls of fixed shape


@DEVICES
def test_calls_of_a_size_keep_their_addresses(device: str, tmp_path: Path) -> None:
    dtype = "float16" if device == "cuda" else "float32"
    decoder = on_device(make_model(CASES["llama"]), tmp_path / "device", dtype, device)
    calls = decoder._device_calls
    assert calls
    decoder.forward(IDS[:20])
    addresses: dict[int, set[int]] = {}
    for count in (1, 2, 5, 6, 1, 5, 2, 13, 16):
        decoder.rows(IDS[:count], count)
        decoder.truncate(20)
        for size, call in calls._fixed.items():
            values = (call.tokens, call.last, call.positions, call.logits, call.best, call.check)
            addresses.setdefault(size, set()).add(hash(tuple(value.data_ptr() for value in values)))
    assert set(addresses) == {1, 2, 6, 16}
    assert all(len(found) == 1 for found in addresses.values())
    assert set(addresses) <= set(CAPTURED_SIZES)


def test_each_size_has_a_graph_of_its_own_and_prompts_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(CASES["llama"])
    decoder = on_device(model, tmp_path / "device")
    asked: list[tuple[int, str]] = []

    class Watched:
        """The session; remembers which graph each call asked for."""

        def io_binding(self) -> Any:
            return decoder.session.io_binding()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            asked.append((decoder.length, options.get_run_config_entry("gpu_graph_id")))
            decoder.session.run_with_iobinding(binding, options)

    decoder._device_calls = DeviceCalls(Watched(), decoder.info, "cpu", True, decoder.bind_cache)  # type: ignore[arg-type]
    decoder.forward(IDS[:20])
    for count in (1, 2, 3, 4, 5, 7, 9, 13, 16, 17, 1):
        decoder.rows(IDS[:count], count)
        decoder.truncate(20)
    graphs = [graph for _, graph in asked]
    assert [graphs.index(graph) for graph in graphs] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0, 1]
    assert graphs[0] == "-1"
    # At the end of the context there is no room to fill a call up.
    decoder.reset()
    decoder.forward(IDS[: CONTEXT - 5])
    decoder.rows(IDS[:5], 5)
    assert asked[-1][1] == "-1"
    assert decoder.length == CONTEXT
    # Other buffers have other graphs, of a step of several sequences too.
    other = DeviceCalls(Watched(), decoder.info, "cpu", True, decoder.bind_cache)  # type: ignore[arg-type]
    other.run(IDS[:2], 0, 1)
    other.step([3], [0])
    other.step([4], [1])
    assert len({*graphs, *(graph for _, graph in asked[-3:])}) == len(set(graphs)) + 2
    assert asked[-1][1] == asked[-2][1] != "-1"


def test_the_whole_context_can_be_used_and_no_more(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    expected = plain(model, tmp_path / "plain").forward_all(IDS)
    decoder = on_device(model, tmp_path / "device")
    with pytest.raises(PromptTooLong):
        decoder.forward([*IDS, 0])
    np.testing.assert_allclose(decoder.forward_all(IDS), expected, atol=1e-4)
    for chunk in (1, 5, 7):
        decoder.reset()
        np.testing.assert_allclose(steps(decoder, IDS, chunk), expected, atol=1e-4)
    with pytest.raises(PromptTooLong):
        decoder.rows([0], 1)
    assert decoder.length == CONTEXT


def test_a_failed_step_is_an_error_and_leaves_the_sequence_usable(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    expected = plain(model, tmp_path / "plain").forward_all(IDS[:5])
    decoder = on_device(model, tmp_path / "device")
    decoder.forward(IDS[:2])
    with pytest.raises(GenerationError, match="failed to run one step"):
        decoder.rows([10**6], 1)
    assert decoder.length == 2
    np.testing.assert_allclose(decoder.forward_all(IDS[2:5]), expected[2:], atol=1e-4)


@DEVICES
def test_costs_of_calls_are_measured(device: str, tmp_path: Path) -> None:
    dtype = "float16" if device == "cuda" else "float32"
    costs = measure(on_device(make_model(CASES["llama"]), tmp_path / "device", dtype, device))
    assert costs.ms[0] > 0


# The choice


@DEVICES
@pytest.mark.parametrize("chunk", [1, 5, 40])
def test_the_best_token_is_that_of_the_logits(chunk: int, device: str, tmp_path: Path) -> None:
    dtype = "float16" if device == "cuda" else "float32"
    decoder = on_device(make_model(CASES["gemma2"]), tmp_path / "device", dtype, device)
    for start in range(0, 40, chunk):
        num_rows = min(chunk, 3)
        rows = decoder.rows(IDS[start : start + chunk], num_rows)
        assert len(rows) == num_rows
        for row in rows:
            assert isinstance(row, DeviceRow)
            assert row.best_token == row.fetch().argmax()
            assert row.is_finite


def test_of_equal_logits_the_first_is_best(tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[[40, 90]] = 1.0  # alike, and above or below the zeros
    decoder = on_device(model, tmp_path / "device")
    (row,) = decoder.rows(IDS[:8], 1)
    assert isinstance(row, DeviceRow)
    assert row.best_token == (40 if row.fetch()[40] > 0 else 0)


@DEVICES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_check_sees_one_logit_that_is_no_number(value: float, device: str, tmp_path: Path) -> None:
    model = make_model(CASES["llama"])
    dtype = "float16" if device == "cuda" else "float32"
    graph = graph_of(model, tmp_path / "graph")
    to_device(graph, dtype, CONTEXT)
    # Only one position's hidden state reaches the faulty column: all others have 0 there.
    head = next(weight for weight in graph.graph.initializer if weight.name == "lm_head.weight")
    matrix = onnx.numpy_helper.to_array(head).copy()
    matrix[:, 77] = 0
    matrix[5, 77] = value
    head.CopyFrom(onnx.numpy_helper.from_array(matrix, head.name))
    save_graph(graph, tmp_path / "device.onnx")
    decoder = Decoder(tmp_path / "device.onnx", info_of(model, dtype), execution_provider=device, num_threads=1)
    rows = decoder.rows(IDS[:6], 6)
    assert [row.is_finite for row in rows] == [bool(np.isfinite(row.fetch()).all()) for row in rows]  # type: ignore[union-attr]
    assert not any(row.is_finite for row in rows)  # type: ignore[union-attr]


# The loop


TOKENIZER = tiny_tokenizer()
LANGUAGE = Grammar(bind(GRAMMAR, Catalogue.from_lists(CATALOGUE)), name="tiny")
PADDING = 24


@pytest.fixture(scope="module")
def talker() -> Any:
    """A random model with a head wider than the tokenizer, which likes the padding now and then."""
    config = LlamaConfig(**{**SHAPE, "vocab_size": TOKENIZER.vocab_size + PADDING})
    return make_model(config)


def engine_on(decoder: Decoder) -> Engine:
    return Engine(name="tiny", tokenizer=TOKENIZER, template=tiny_template(), grammar=LANGUAGE, decoder=decoder)


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_programs_are_the_same_token_for_token(
    talker: Any, temperature: float, is_padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [engine_on(plain(talker, tmp_path / "plain")), engine_on(on_device(talker, tmp_path / "device"))]
    answers = []
    for engine in engines:
        engine.is_padded = is_padded
        answers.append(
            [
                (answer.token_ids, answer.finish_reason, answer.model_calls)
                for seed in range(4)
                for sentence, _ in PAIRS
                for answer in [
                    engine.generate(sentence, SamplingParams(max_tokens=12 + seed, temperature=temperature, seed=seed))
                ]
            ]
        )
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


class Wishes:
    """Rows of a decoder on a device whose best tokens spell a text; counts what is fetched."""

    execution_provider = "cuda"
    prefix_token_ids = ()

    def __init__(self, token_ids: list[int], *, is_finite: bool = True) -> None:
        self.info = model_info(CASES["llama"], "shared")
        self.token_ids = token_ids
        self.is_finite = is_finite
        self.num_fetched = 0
        self.step = -1

    def reset(self) -> None:
        self.step = -1

    def rows(self, token_ids: list[int], num_logits: int) -> list[DeviceRow]:
        self.step += 1
        logits = np.zeros(TOKENIZER.vocab_size + PADDING, np.float32)
        best = self.token_ids[self.step]
        logits[best] = 9.0

        def fetch() -> np.ndarray:
            self.num_fetched += 1
            return logits

        return [DeviceRow(best, self.is_finite, fetch)]


END = TOKENIZER.end_token_ids(tiny_template())[0]
LEGAL = [*TOKENIZER.encode_plain("off hall"), END]


def test_a_best_token_that_is_legal_needs_no_logits() -> None:
    decoder = Wishes(LEGAL)
    answer = engine_on(decoder).generate("x", SamplingParams(max_tokens=32))  # type: ignore[arg-type]
    assert answer.text == "off hall"
    assert decoder.num_fetched == 0


@pytest.mark.parametrize(
    "wish", [TOKENIZER.vocab_size, TOKENIZER.vocab_size + PADDING - 1, TOKENIZER.encode_plain("%")[0]]
)
def test_the_logits_are_fetched_where_padding_or_an_illegal_token_is_best(wish: int) -> None:
    decoder = Wishes([wish, *LEGAL[1:]])
    answer = engine_on(decoder).generate("x", SamplingParams(max_tokens=64))  # type: ignore[arg-type]
    assert LANGUAGE.accepts(answer.text)
    assert decoder.num_fetched >= 1
    assert wish not in answer.token_ids


def test_sampling_fetches_every_row() -> None:
    decoder = Wishes(LEGAL)
    engine_on(decoder).generate("x", SamplingParams(max_tokens=32, temperature=1e-6))  # type: ignore[arg-type]
    assert decoder.num_fetched == len(LEGAL)


def test_a_row_that_is_not_finite_is_an_error_without_its_logits() -> None:
    decoder = Wishes(LEGAL, is_finite=False)
    with pytest.raises(LogitsError):
        engine_on(decoder).generate("x", SamplingParams(max_tokens=32))  # type: ignore[arg-type]
    assert decoder.num_fetched == 0


# What cannot run


def test_a_bundle_for_the_cpu_is_not_loaded_on_cuda(tmp_path: Path) -> None:
    info = replace(model_info(CASES["llama"], "shared"), quantization="w8a8")
    with pytest.raises(ProviderError, match="for the CPU \\('w8a8'\\)") as caught:
        Decoder(tmp_path / "model.onnx", info, execution_provider="cuda")
    assert "--quantize fp16" in caught.value.hint


def test_bfloat16_is_not_loaded_on_the_cpu(tmp_path: Path) -> None:
    info = replace(model_info(CASES["llama"], "shared"), quantization="bf16", kv_dtype="bfloat16")
    with pytest.raises(ProviderError, match="no attention in bfloat16") as caught:
        Decoder(tmp_path / "model.onnx", info)
    assert "cuda" in caught.value.hint


class OpenedError(Exception):
    """With what a session was asked for."""


@pytest.mark.parametrize("captures", [True, False])
def test_a_session_on_cuda_captures_graphs_unless_told_otherwise(
    captures: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, options: ort.SessionOptions, providers: Any) -> None:
        raise OpenedError(providers)

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(ProviderError) as caught:
        Decoder(
            tmp_path / "model.onnx",
            info_of(make_model(CASES["llama"]), "float16"),
            execution_provider="cuda",
            captures_graphs=captures,
        )
    options = {"enable_cuda_graph": "1"} if captures else {}
    assert caught.value.__cause__.args == ([("CUDAExecutionProvider", options)],)  # type: ignore[union-attr]


@pytest.mark.parametrize("captures", [True, False])
def test_cuda_graphs_can_be_switched_off(captures: bool, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, captures_graphs: bool, **__: Any) -> None:
        raise OpenedError(captures_graphs)

    monkeypatch.setattr("edgedsl.runtime.calibration.Decoder", refuse)
    with pytest.raises(OpenedError) as caught:
        Engine.from_bundle(tiny_bundle, num_threads=1, cuda_graphs=captures)
    assert caught.value.args == (captures,)


# On a GPU only


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_replayed_graphs_say_what_eager_calls_say(name: str, dtype: str, tmp_path: Path) -> None:
    path, model = written(make_model(CASES[name]), tmp_path / "graph", dtype), make_model(CASES[name])
    decoders = [
        Decoder(path, info_of(model, dtype), execution_provider="cuda", captures_graphs=captures)
        for captures in (False, True)
    ]
    for decoder in decoders:
        decoder.forward(IDS[:20])
    for count in (1, 5, 1, 2, 16, 1, 5):  # captured at the first, replayed at the second
        eager, replayed = (decoder.rows(IDS[30 : 30 + count], count) for decoder in decoders)
        for one, other in zip(eager, replayed, strict=True):
            assert isinstance(one, DeviceRow)
            assert isinstance(other, DeviceRow)
            assert one.best_token == other.best_token
            np.testing.assert_array_equal(one.fetch(), other.fetch())


@pytest.mark.gpu
def test_every_node_is_on_the_gpu(tmp_path: Path) -> None:
    decoder = on_device(make_model(CASES["gemma3"]), tmp_path / "graph", "float16", "cuda")
    assert set(decoder.placement.num_nodes) == {"CUDAExecutionProvider"}
    assert decoder.placement.on_cpu == ()
