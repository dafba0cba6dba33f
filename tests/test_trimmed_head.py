"""Bundles whose head was trimmed: the same programs as from a whole one, and no other grammar than one it can spell."""

from __future__ import annotations

import json
import keyword
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from outlines.types import regex
from tiny import CATALOGUE, GRAMMAR, MERGED_WORDS, PAIRS, tiny_template, tiny_tokenizer
from tiny_export import CONTEXT, needs_optimum, sign
from transformers import AutoModelForCausalLM, LlamaConfig

import edgedsl
from edgedsl.bundle.manifest import open_bundle
from edgedsl.bundle.schema import ModelInfo
from edgedsl.catalogue import Catalogue, bind
from edgedsl.config import Config, override
from edgedsl.errors import BundleError, ExportError, RequestError
from edgedsl.exporters.base import Exporter
from edgedsl.exporters.candidates import Calibration, Writer
from edgedsl.exporters.fused import FusedExporter
from edgedsl.exporters.head import choose_head
from edgedsl.exporters.optimum import OptimumExporter
from edgedsl.exporters.pipeline import export
from edgedsl.exporters.recipes import HALF, RECIPES
from edgedsl.grammar import Grammar, Subset
from edgedsl.grammar.authoring.language import open_language
from edgedsl.outlines_model import OutlinesModel
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.head import FILE_NAME, Head
from edgedsl.runtime.lm_head import CODES_FILE, NO_LOGIT
from edgedsl.runtime.sampling import SamplingParams

CPU_RECIPES = [name for name in RECIPES if name not in HALF]
# Words of both languages, and some that neither can hold.
WORDS = (*MERGED_WORDS, "kitchen", " kitchen", "hall", "MON-FRI", "*/15", "0 0", " *", "@daily", *keyword.kwlist)
TOKENIZER, TEMPLATE = tiny_tokenizer(WORDS), tiny_template()
SENTENCES = ("every hour", "set the kitchen to 20", "at noon, Mondays to Fridays")
SAMPLINGS = (
    SamplingParams(max_tokens=24),
    SamplingParams(max_tokens=24, temperature=1.0, seed=1),
    SamplingParams(max_tokens=24, temperature=3.0, top_k=40, top_p=0.95, seed=2),
)


def with_catalogue() -> Grammar:
    catalogue = Catalogue.from_lists(CATALOGUE)
    return Grammar(bind(GRAMMAR, catalogue), catalogue=catalogue)


LANGUAGES: dict[str, Callable[[], Grammar]] = {
    "with a catalogue": with_catalogue,
    "cron": lambda: open_language("cron").grammar(),
}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size + 9,  # heads are padded to round widths
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


class Written:
    """The model in each recipe, whole and trimmed for a language."""

    def __init__(self, model: Any, exporter: Exporter, folder: Path) -> None:
        self._graph = exporter.export(model, folder, context_length=CONTEXT)
        self._folder = folder
        self._rows = [TOKENIZER.encode_prompt(TEMPLATE, sentence) for sentence in SENTENCES]
        self._calibration = Calibration.of(model, CPU_RECIPES, lambda: self._rows, 0)
        config = model.config
        self.info = ModelInfo(
            architecture="llama", base_model="tiny", base_sha256="", adapter_sha256="", num_layers=2, num_kv_heads=2,
            head_dim=16, vocab_size=config.vocab_size, context_length=CONTEXT, kv_layout=self._graph.kv_layout,
            quantization="none",
        )  # fmt: skip

    def decoder(self, recipe: str, head: Head | None, name: str) -> Decoder:
        folder = self._folder / f"{recipe} {name}"
        writer = Writer(self._graph, self.info, self._calibration, [], self._rows, TOKENIZER.vocab_size, head)
        writer.write(recipe, folder)
        assert (folder / FILE_NAME).exists() == (head is not None)
        return Decoder(folder / "model.onnx", writer.info_of(recipe), num_threads=1)


@pytest.fixture(scope="module")
def written(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(model, FusedExporter(), tmp_path_factory.mktemp("fused"))


@pytest.fixture(scope="module")
def traced(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(model, OptimumExporter(), tmp_path_factory.mktemp("traced"))


def engine_of(decoder: Decoder, grammar: Grammar) -> Engine:
    return Engine(name="tiny", tokenizer=TOKENIZER, template=TEMPLATE, grammar=grammar, decoder=decoder)


def head_for(grammar: Grammar) -> Head:
    compiled = grammar.compile(TOKENIZER, TOKENIZER.end_token_ids(TEMPLATE))
    head = choose_head(compiled, TOKENIZER.vocab_size, "always", ["int8"], lambda _: None)
    assert head
    assert len(head.token_ids) < 0.8 * TOKENIZER.vocab_size
    return head


def assert_same(written: Written, recipe: str, language: str) -> None:
    grammar = LANGUAGES[language]()
    head = head_for(grammar)
    whole, trimmed = written.decoder(recipe, None, f"{language}, whole"), written.decoder(recipe, head, language)
    row = TOKENIZER.encode_prompt(TEMPLATE, SENTENCES[0])
    expected, found = whole.forward_all(row).copy(), trimmed.forward_all(row)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, head.token_ids], expected[:, head.token_ids], atol=1e-5)
    assert (np.delete(found, head.token_ids, axis=1) == np.float32(NO_LOGIT)).all()
    engines = [engine_of(decoder, grammar) for decoder in (whole, trimmed)]
    for sentence in SENTENCES:
        for params in SAMPLINGS:
            first, second = (engine.generate(sentence, params) for engine in engines)
            assert first.token_ids == second.token_ids
            assert first.finish_reason == second.finish_reason


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("recipe", CPU_RECIPES)
def test_programs_are_those_of_the_whole_head(recipe: str, language: str, written: Written) -> None:
    assert_same(written, recipe, language)


@needs_optimum
@pytest.mark.parametrize("recipe", ["none", "int8", "int4"])
def test_traced_graphs_are_trimmed_too(recipe: str, traced: Written) -> None:
    assert_same(traced, recipe, "cron")


def test_without_the_grammar_only_kept_tokens_come(written: Written) -> None:
    grammar = LANGUAGES["cron"]()
    head = head_for(grammar)
    engine = engine_of(written.decoder("none", head, "unconstrained"), grammar)
    for seed in range(3):
        params = SamplingParams(max_tokens=24, temperature=5.0, seed=seed)
        assert set(engine.generate("x", params, constrained=False).token_ids) <= set(head.token_ids.tolist())


@pytest.mark.parametrize(
    ("wanted", "vocab_size", "is_trimmed"),
    [("never", 10_000, False), ("always", 1, False), ("auto", 10_000, True), ("auto", 0, False), ("always", 0, True)],
)
def test_auto_trims_where_much_is_saved(wanted: str, vocab_size: int, is_trimmed: bool) -> None:
    grammar = LANGUAGES["cron"]()
    compiled = grammar.compile(TOKENIZER, TOKENIZER.end_token_ids(TEMPLATE))
    said: list[str] = []
    num_reached = len(compiled.reachable)
    sizes = {0: num_reached + 1, 1: num_reached}  # one token more than is reached, and none
    size = sizes.get(vocab_size, vocab_size)
    head = choose_head(compiled, size, wanted, ["w8a8", "int8"], said.append)
    assert (head is not None) == is_trimmed
    assert len(said) == (wanted != "never")
    if said:
        assert f"programs can hold {num_reached:,} of {size:,} tokens" in said[0]
        assert said[0].endswith("it is trimmed to these" if is_trimmed else "it stays whole")


def test_a_graph_for_cuda_keeps_its_head() -> None:
    grammar = LANGUAGES["cron"]()
    compiled = grammar.compile(TOKENIZER, TOKENIZER.end_token_ids(TEMPLATE))
    assert choose_head(compiled, 10_000, "auto", ["fp16"], pytest.fail) is None
    with pytest.raises(ExportError, match="'always', and graphs of the recipe fp16 keep their head"):
        choose_head(compiled, 10_000, "always", ["int8", "fp16"], pytest.fail)


# The bundle


@pytest.fixture(scope="module")
def trimmed_bundle(tiny_project: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with a head that never is whole; its answers are in ``whole`` beside it."""
    root = Path(shutil.copytree(tiny_project.root, tmp_path_factory.mktemp("project") / "copy"))
    said: list[str] = []
    for output, wanted in (("bundle", "always"), ("whole", "never")):
        settings = {"output": str(root / output), "trim_head": wanted, "eval_rows": 2}
        export(override(tiny_project, "export", settings), offline=True, say=said.append)
    assert sum(line.startswith("head: programs can hold ") for line in said) == 1
    return root / "bundle"


def test_the_bundle_says_what_was_trimmed(trimmed_bundle: Path) -> None:
    bundle, whole = open_bundle(trimmed_bundle), open_bundle(trimmed_bundle.parent / "whole")
    head = Head.from_file(trimmed_bundle / FILE_NAME, tiny_tokenizer().vocab_size)
    assert bundle.manifest.model.num_head_tokens == len(head.token_ids) < bundle.manifest.model.vocab_size
    assert FILE_NAME in bundle.manifest.files
    assert (whole.manifest.model.num_head_tokens, FILE_NAME in whole.manifest.files) == (0, False)
    assert bundle.manifest.config["export"]["trim_head"] == "always"
    assert bundle.manifest.parity["quantized"]["max_difference"] < 1, "compared on the tokens that are left"
    width = onnx.load(trimmed_bundle / "model.onnx").graph.output[-1].type.tensor_type.shape.dim[-1].dim_value
    assert (trimmed_bundle / CODES_FILE).stat().st_size == width * len(head.token_ids)
    assert edgedsl.load(trimmed_bundle.parent / "whole", num_threads=1).head is None


def test_a_trimmed_bundle_answers_like_a_whole_one(trimmed_bundle: Path) -> None:
    trimmed, whole = (
        edgedsl.load(folder, num_threads=1) for folder in (trimmed_bundle, trimmed_bundle.parent / "whole")
    )
    for prompt, _ in PAIRS:
        for sampling in ({}, {"temperature": 2.0, "seed": 3}, {"subsets": Subset.from_lists(["hall"])}):
            params = {"max_tokens": 16, **sampling}
            assert trimmed(prompt, **params).token_ids == whole(prompt, **params).token_ids


def test_a_grammar_with_other_tokens_is_refused(trimmed_bundle: Path) -> None:
    engine = edgedsl.load(trimmed_bundle, num_threads=1)
    model = OutlinesModel(engine)
    assert model("the hall", regex("[0-9;]{2,4}"), max_tokens=8)  # single bytes are always there
    for call in (model, lambda *args, **kwargs: list(model.stream(*args, **kwargs))):
        with pytest.raises(
            RequestError, match=r"'output type' may need [\d,]+ tokens .* trimmed of, '.*' among"
        ) as info:
            call("the hall", regex("[a-z ]{2,9}"), max_tokens=8)
        assert "--trim-head never" in info.value.hint
    whole = OutlinesModel(edgedsl.load(trimmed_bundle.parent / "whole", num_threads=1))
    assert whole("the hall", regex("[a-z ]{2,9}"), max_tokens=12)


def remove(bundle: Path) -> None:
    (bundle / FILE_NAME).unlink()


def shorten(bundle: Path) -> None:
    size = tiny_tokenizer().vocab_size
    head = Head.from_file(bundle / FILE_NAME, size)
    (bundle / FILE_NAME).write_bytes(Head(head.token_ids[1:]).pack(size))


def forget(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["model"]["num_head_tokens"] = 0
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(remove, "cannot be read"), (shorten, "the manifest says"), (forget, "the manifest says 0")],
)
def test_a_bundle_whose_head_and_manifest_differ_is_refused(
    spoil: Callable[[Path], None], message: str, trimmed_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(trimmed_bundle, tmp_path / "bundle"))
    spoil(bundle)
    sign(bundle)
    with pytest.raises(BundleError, match=message):
        edgedsl.load(bundle, num_threads=1)


@pytest.mark.parametrize("token_ids", [[], [3, 3], [4, 3], [5, 10]])
def test_the_file_holds_ascending_tokens_of_the_vocabulary(token_ids: list[int], tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(Head(np.array(token_ids, np.int64)).pack(10))
    with pytest.raises(BundleError, match="do not ascend inside the vocabulary"):
        Head.from_file(tmp_path / FILE_NAME, 10)


def test_a_token_beyond_the_model_is_an_export_error(written: Written) -> None:
    with pytest.raises(ExportError, match="cannot be cut"):
        written.decoder("none", Head(np.array([5, written.info.vocab_size])), "beyond")
