"""Keys and values of the tokens that every prompt begins with: the file, the decoder behind them, the export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BOS_TOKEN, EOS_TOKEN, PAIRS, tiny_template, tiny_tokenizer
from tiny_export import CASES, CONTEXT, SHAPE, TinyOnnx, make_model, model_info, needs_optimum, sign

import edgedsl
from edgedsl.bundle.manifest import open_bundle
from edgedsl.bundle.schema import ModelInfo
from edgedsl.config import Config, override
from edgedsl.errors import BundleError, ExportError, PromptTooLong
from edgedsl.exporters import candidates
from edgedsl.exporters.candidates import Calibration, Writer
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.prefix import write_prefix
from edgedsl.prompt import PromptTemplate, Segment
from edgedsl.runtime import call_costs
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.prefix import FILE_NAME, LAYOUT, Prefix
from edgedsl.runtime.sampling import SamplingParams

IDS = [int(i) for i in np.random.default_rng(0).integers(3, SHAPE["vocab_size"], CONTEXT)]
TOKENIZER = tiny_tokenizer()
VOCAB = TOKENIZER.vocab_size
INFO = ModelInfo(
    architecture="llama", base_model="b", base_sha256="", adapter_sha256="", num_layers=2, num_kv_heads=3, head_dim=4,
    vocab_size=VOCAB, context_length=6, kv_layout="shared", quantization="none",
)  # fmt: skip
INSTRUCTION = "turn on the lamp in the hall: a command for each sentence, and nothing else. "
LEADING = {
    "special": (Segment("special", BOS_TOKEN),),
    "text": (Segment("special", BOS_TOKEN), Segment("text", INSTRUCTION)),  # more tokens than a measured call's past
}


def template_with(*leading: Segment) -> PromptTemplate:
    return PromptTemplate((*leading, Segment("slot", "sentence"), Segment("text", "\n")), (EOS_TOKEN,))


# The tokens


@pytest.mark.parametrize("sentence", ["on", " off", "x", " ", INSTRUCTION, BOS_TOKEN])
@pytest.mark.parametrize("leading", [(), *LEADING.values(), (Segment("text", "turn"),)])
def test_every_prompt_begins_with_the_prefix(leading: tuple[Segment, ...], sentence: str) -> None:
    template = template_with(*leading)
    prefix, prompt = TOKENIZER.encode_prefix(template), TOKENIZER.encode_prompt(template, sentence)
    assert prompt[: len(prefix)] == prefix
    assert bool(prefix) == bool(leading)
    assert prompt[len(prefix) :] == TOKENIZER.encode_prompt(template_with(), sentence)


# The file


def prefix_of(num_tokens: int = 3) -> Prefix:
    shape = (2 * INFO.num_layers, INFO.num_kv_heads, num_tokens, INFO.head_dim)
    kv = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return Prefix(tuple(range(5, 5 + num_tokens)), kv)


def written(folder: Path, prefix: Prefix) -> Path:
    path = folder / FILE_NAME
    path.write_bytes(prefix.pack(VOCAB))
    return path


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_what_is_written_is_read(num_tokens: int, tmp_path: Path) -> None:
    prefix = prefix_of(num_tokens)
    found = Prefix.from_file(written(tmp_path, prefix), INFO, VOCAB)
    assert found.token_ids == prefix.token_ids
    np.testing.assert_array_equal(found.kv, prefix.kv)
    assert found.kv.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 1}, {"num_layers": 4, "num_kv_heads": 3}, {"num_kv_heads": 1}, {"head_dim": 16}],
)
def test_the_prefix_of_another_model_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    path = written(tmp_path, prefix_of())
    with pytest.raises(BundleError, match=r"it is of another model: keys and values \[4, 3, 3, 4\]"):
        Prefix.from_file(path, dataclasses.replace(INFO, **change), VOCAB)


def test_a_cache_that_grows_cannot_begin_with_it(tmp_path: Path) -> None:
    path = written(tmp_path, prefix_of())
    with pytest.raises(BundleError, match="a 'growing' cache"):
        Prefix.from_file(path, dataclasses.replace(INFO, kv_layout="growing"), VOCAB)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"made for {VOCAB} tokens, expected {VOCAB + 1}") as caught:
        Prefix.from_file(written(tmp_path, prefix_of()), INFO, VOCAB + 1)
    assert caught.value.hint == "export the bundle again"


@pytest.mark.parametrize("num_tokens", [0, 6, 7])
def test_a_prefix_of_no_tokens_or_of_the_whole_context_is_refused(num_tokens: int, tmp_path: Path) -> None:
    path = written(tmp_path, prefix_of(num_tokens))
    with pytest.raises(BundleError, match=f"keys and values for {num_tokens} tokens"):
        Prefix.from_file(path, INFO, VOCAB)


@pytest.mark.parametrize("token_id", [VOCAB, 2**32 - 1])
def test_a_token_outside_the_vocabulary_is_refused(token_id: int, tmp_path: Path) -> None:
    path = written(tmp_path, dataclasses.replace(prefix_of(), token_ids=(5, token_id, 7)))
    with pytest.raises(BundleError, match="a token or a value is out of range"):
        Prefix.from_file(path, INFO, VOCAB)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    prefix = prefix_of()
    prefix.kv[3, 1, 2, 0] = value
    with pytest.raises(BundleError, match="a token or a value is out of range"):
        Prefix.from_file(written(tmp_path, prefix), INFO, VOCAB)


@pytest.mark.parametrize("num_values", [0, 47, 145])
def test_another_number_of_values_is_refused(num_values: int, tmp_path: Path) -> None:
    fields = {"vocab_size": VOCAB, "num_layers": 2, "num_kv_heads": 3, "head_dim": 4}
    arrays = {"token_ids": np.array([1, 2, 3]), "kv": np.zeros(num_values)}
    path = tmp_path / FILE_NAME
    path.write_bytes(LAYOUT.pack(fields, arrays))
    with pytest.raises(BundleError, match=f"it has {num_values} keys and values for 3 tokens"):
        Prefix.from_file(path, INFO, VOCAB)


# The decoder


def with_prefix(decoder: Decoder, num_tokens: int) -> Decoder:
    """The same model behind the first tokens of :data:`IDS`."""
    decoder.reset()
    decoder.forward(IDS[:num_tokens])
    prefix = Prefix(tuple(IDS[:num_tokens]), decoder.cached())
    return Decoder(Path(decoder.session._model_path), decoder.info, num_threads=1, prefix=prefix)


@pytest.mark.parametrize("num_tokens", [1, 9, 30])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "phi3"])
def test_logits_are_those_of_a_whole_prefill(name: str, num_tokens: int, tmp_path: Path) -> None:
    model = make_model(CASES[name])
    path = FusedExporter().export(model, tmp_path, context_length=CONTEXT).path
    decoder = with_prefix(Decoder(path, model_info(model.config, "shared"), num_threads=1), num_tokens)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS[:50]])).logits[0, num_tokens:].numpy()
    np.testing.assert_allclose(decoder.forward_all(IDS[num_tokens:50]), expected, atol=1e-4)
    decoder.reset()
    stepped = np.array([decoder.forward([token_id]).copy() for token_id in IDS[num_tokens:50]])
    np.testing.assert_allclose(stepped, expected, atol=1e-4)


def test_a_reset_keeps_the_prefix_and_nothing_else(tiny_onnx: TinyOnnx) -> None:
    decoder = with_prefix(tiny_onnx.shared(), 7)
    assert decoder.prefix_token_ids == tuple(IDS[:7])
    kv = decoder.cached()
    assert kv.shape == (4, 2, 7, 16)
    expected = decoder.forward_all(IDS[7:20]).copy()
    assert decoder.length == 20
    decoder.forward(IDS[20:])
    decoder.reset()
    assert decoder.length == 7
    np.testing.assert_array_equal(decoder.cached(), kv)
    np.testing.assert_array_equal(decoder.forward_all(IDS[7:20]), expected)
    decoder.truncate(7)
    np.testing.assert_array_equal(decoder.forward_all(IDS[7:20]), expected)


def test_no_token_of_the_prefix_can_be_taken_back(tiny_onnx: TinyOnnx) -> None:
    decoder = with_prefix(tiny_onnx.shared(), 7)
    decoder.forward(IDS[7:9])
    with pytest.raises(AssertionError):
        decoder.truncate(6)


def test_the_context_is_that_of_prefix_and_rest(tiny_onnx: TinyOnnx) -> None:
    decoder = with_prefix(tiny_onnx.shared(), 7)
    with pytest.raises(PromptTooLong, match=rf"{CONTEXT + 1} tokens .* {CONTEXT}"):
        decoder.forward([*IDS[7:], 1])
    np.testing.assert_allclose(decoder.forward(IDS[7:]), tiny_onnx.reference(IDS)[-1], atol=1e-5)


def test_without_a_prefix_a_reset_forgets_all(tiny_onnx: TinyOnnx) -> None:
    decoder = tiny_onnx.shared()
    assert decoder.prefix_token_ids == ()
    decoder.forward(IDS[:5])
    decoder.reset()
    assert (decoder.length, decoder.cached().shape) == (0, (4, 2, 0, 16))


@pytest.mark.parametrize("num_tokens", [1, 24, 40, CONTEXT - 5, CONTEXT - 1])
def test_measuring_what_calls_cost_leaves_the_prefix_as_it_is(tiny_onnx: TinyOnnx, num_tokens: int) -> None:
    decoder = with_prefix(tiny_onnx.shared(), num_tokens)
    kv = decoder.cached()
    costs = call_costs.measure(decoder)
    assert list(costs.ms) == sorted(costs.ms)
    assert costs.ms[0] > 0
    np.testing.assert_array_equal(decoder.cached(), kv)


@pytest.mark.parametrize("context_length", [16, 30])
def test_what_calls_cost_is_measured_in_a_short_context(tiny_onnx: TinyOnnx, context_length: int) -> None:
    decoder = tiny_onnx.shared()
    info = dataclasses.replace(decoder.info, context_length=context_length)
    short = Decoder(Path(decoder.session._model_path), info, num_threads=1)
    assert call_costs.measure(short).ms[0] > 0


# Writing it


def write(tiny_onnx: TinyOnnx, folder: Path, num_tokens: int = 4) -> Prefix:
    decoder = tiny_onnx.shared()
    rows = [[*IDS[:num_tokens], *IDS[10 + n : 30 + n]] for n in range(3)]
    return write_prefix(Path(decoder.session._model_path), decoder.info, IDS[:num_tokens], rows, folder, VOCAB)


def test_the_file_holds_what_the_graph_computes(tiny_onnx: TinyOnnx, tmp_path: Path) -> None:
    prefix = write(tiny_onnx, tmp_path)
    decoder = tiny_onnx.shared()
    decoder.forward(IDS[:20])
    np.testing.assert_allclose(prefix.kv, decoder.cached()[:, :, :4], atol=1e-5)
    found = Prefix.from_file(tmp_path / FILE_NAME, decoder.info, VOCAB)
    assert found.token_ids == prefix.token_ids == tuple(IDS[:4])
    np.testing.assert_array_equal(found.kv, prefix.kv)


@pytest.mark.parametrize("change", [lambda kv: kv * 1.5, lambda kv: kv * np.nan, lambda kv: kv[:, ::-1]])
def test_a_graph_for_which_it_is_not_exact_is_refused(
    tiny_onnx: TinyOnnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]
) -> None:
    real = Decoder.cached
    monkeypatch.setattr(Decoder, "cached", lambda self: change(real(self)))
    with pytest.raises(ExportError, match=r"logits after the cached prefix differ by .* expected at most 0\.001"):
        write(tiny_onnx, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_prefix_is_that_of_the_graph_whose_channels_were_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of another scale than the served graph makes would spoil every answer."""
    model = make_model(CASES["llama"])
    graph = FusedExporter().export(model, tmp_path, context_length=CONTEXT)
    rows, info = [IDS[:50]], model_info(model.config, "shared")
    calibration = Calibration.of(model, ["w8a8"], lambda: rows, 20)
    real = candidates.smooth
    monkeypatch.setattr(  # prefer scales that are far from 1
        candidates,
        "smooth",
        lambda model, inputs, loss: real(model, inputs, lambda _, found: float(found.widths.std())),
    )
    Writer(graph, info, calibration, IDS[:20], rows, VOCAB).write("w8a8", tmp_path / "w8a8")
    prefix = Prefix.from_file(tmp_path / "w8a8" / FILE_NAME, info, VOCAB)
    decoder = Decoder(graph.path, info, num_threads=1)
    decoder.forward(IDS[:20])
    np.testing.assert_allclose(prefix.kv[0::2], decoder.cached()[0::2], atol=1e-4)  # keys
    assert np.abs(prefix.kv[1::2] - decoder.cached()[1::2]).max() > 0.1
    served = Decoder(tmp_path / "w8a8" / "model.onnx", info, num_threads=1, prefix=prefix)
    with torch.inference_mode():
        expected = model(torch.tensor(rows)).logits[0, 20:].numpy()
    difference = served.forward_all(IDS[20:50]) - expected
    assert np.square(difference).mean() < 0.02 * np.square(expected).mean()


# Bundles


def answers(bundle: Path, **flags: Any) -> list[str]:
    engine = edgedsl.load(bundle, num_threads=1, **flags)
    return [engine(prompt, max_tokens=24).text for prompt, _ in PAIRS]


def test_a_bundle_begins_with_the_prefix_of_its_template(tiny_bundle: Path) -> None:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    assert list(engine.decoder.prefix_token_ids) == TOKENIZER.encode_prefix(tiny_template()) == [VOCAB - 2]
    manifest = open_bundle(tiny_bundle).manifest
    rows = [TOKENIZER.encode_prompt(tiny_template(), p) + TOKENIZER.encode_plain(t) for p, t in PAIRS]
    compared = {hop: parity["num_tokens"] for hop, parity in manifest.parity.items()}
    assert set(compared.values()) == {sum(len(row) - 1 for row in rows)}


def test_the_prompt_is_counted_with_its_prefix_and_a_short_answer_leaves_no_trace(tiny_bundle: Path) -> None:
    engine = edgedsl.load(tiny_bundle, num_threads=1)
    fresh = edgedsl.load(tiny_bundle, num_threads=1)
    long = engine("off hall", max_tokens=40)
    assert long.prompt_tokens == len(TOKENIZER.encode_prompt(tiny_template(), "off hall"))
    assert engine("off hall", max_tokens=8).completion_tokens <= 8
    cancelled = engine.generate("set hall 5", SamplingParams(max_tokens=40), is_cancelled=lambda: True)
    assert cancelled.finish_reason == "cancelled"
    for sentence in ("kitchen off", "off hall"):
        assert engine(sentence, max_tokens=40).text == fresh(sentence, max_tokens=40).text
    assert engine("off hall", max_tokens=40).token_ids == long.token_ids
    with pytest.raises(PromptTooLong):
        engine("x" * CONTEXT)


@pytest.mark.parametrize(
    "change",
    [
        lambda prefix: dataclasses.replace(prefix, token_ids=(5,)),
        lambda prefix: Prefix((*prefix.token_ids, 5), np.repeat(prefix.kv, 2, 2)),
    ],
)
def test_a_prefix_that_the_template_does_not_begin_with_is_refused(project: Config, change: Any) -> None:
    bundle = project.path("bundle")
    path = bundle / FILE_NAME
    prefix = Prefix.from_file(path, open_bundle(bundle).manifest.model, VOCAB)
    content = change(dataclasses.replace(prefix, kv=prefix.kv.copy())).pack(VOCAB)
    path.unlink()
    path.write_bytes(content)
    sign(bundle)
    with pytest.raises(BundleError, match=r"prefix\.kv' is not what every prompt begins with") as caught:
        edgedsl.load(bundle)
    assert caught.value.hint == "export the bundle again"


def test_a_template_that_begins_otherwise_is_refused(project: Config) -> None:
    bundle = project.path("bundle")
    (bundle / "prompt.json").write_text(json.dumps(template_with().to_dict()), encoding="utf-8")
    sign(bundle)
    with pytest.raises(BundleError, match="is not what every prompt begins with"):
        edgedsl.load(bundle)


def test_a_bundle_without_the_file_computes_whole_prompts(project: Config) -> None:
    """As bundles of earlier versions do."""
    output = export(override(project, "export", {"quantize": "none"}), offline=True)
    assert open_bundle(output).manifest.parity["quantized"]["max_difference"] < 1e-4
    expected = answers(output)
    (output / FILE_NAME).unlink()
    sign(output)
    assert edgedsl.load(output, num_threads=1).decoder.prefix_token_ids == ()
    assert answers(output) == expected


def use_template(project: Config, template: PromptTemplate) -> None:
    path = project.path("adapter/prompt.json")
    path.write_text(json.dumps(template.to_dict()), encoding="utf-8")


@pytest.mark.parametrize("name", LEADING)
def test_drafted_answers_behind_a_prefix_are_the_exact_ones(project: Config, name: str) -> None:
    template = template_with(*LEADING[name])
    use_template(project, template)
    output = export(override(project, "export", {"context_length": 128}), offline=True)
    engine = edgedsl.load(output, num_threads=1)
    assert list(engine.decoder.prefix_token_ids) == TOKENIZER.encode_prefix(template)
    assert engine.drafts is not None
    kv = Prefix.from_file(output / FILE_NAME, engine.decoder.info, VOCAB).kv
    np.testing.assert_array_equal(engine.decoder.cached()[:, :, : kv.shape[2]], kv)  # after calls were measured
    assert answers(output) == answers(output, exact=True)


def test_a_template_without_leading_tokens_has_no_prefix(project: Config) -> None:
    use_template(project, template_with())
    output = export(override(project, "export", {"eval_rows": 2}), offline=True)
    assert FILE_NAME not in open_bundle(output).manifest.files
    assert edgedsl.load(output, num_threads=1).decoder.prefix_token_ids == ()
    assert all(answers(output))


@needs_optimum
def test_a_cache_that_grows_has_no_prefix(project: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedsl.exporters.optimum.is_fusable", lambda config: False)
    settings = {"graph": "optimum", "quantize": "int8", "eval_rows": 2}
    output = export(override(project, "export", settings), offline=True)
    manifest = open_bundle(output).manifest
    assert (manifest.model.kv_layout, FILE_NAME in manifest.files) == ("growing", False)
    assert all(answers(output))
