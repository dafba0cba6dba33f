"""``edgedsl export``: adapter -> merged -> ONNX -> quantised -> bundle, each hop measured."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch

from edgedsl import atomic
from edgedsl.bundle.manifest import ModelInfo, write_manifest
from edgedsl.catalogue import Catalogue
from edgedsl.config import Config
from edgedsl.data.pairs import Pair, read_pairs
from edgedsl.errors import ExportError
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.exporters.base import ExportedGraph, Exporter
from edgedsl.exporters.calibration import channel_importance
from edgedsl.exporters.optimum import OptimumExporter, save_graph
from edgedsl.exporters.parity import Parity, collect, compare
from edgedsl.exporters.quality import Quality, check_gate, measure
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import RECIPES
from edgedsl.exporters.source import Source, adapter_source
from edgedsl.grammar import Grammar
from edgedsl.prompt import PromptTemplate
from edgedsl.runtime.decoder import Decoder
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.tokenizer import Tokenizer

PARITY_ROWS = 8
CALIBRATION_ROWS = 64
Say = Callable[[str], None]


@dataclass(frozen=True)
class Language:
    """What turns tokens into programs: the same objects for every hop."""

    tokenizer: Tokenizer
    template: PromptTemplate
    grammar: Grammar


def export(
    config: Config, *, offline: bool = False, say: Say = lambda _: None, exporter: Exporter | None = None
) -> Path:
    """Write the bundle of ``[export] output``; an older bundle stays untouched until the new one is whole.

    Raises:
        ModelError: no finished adapter, or one of another base model.
        GateError: the quantised model lost more than ``[export] gate`` allows.
        ExportError: no room, or an architecture the exporter does not know.
        DataError, GrammarError: the dev pairs, or the adapter's grammar, cannot be used.
    """
    source = adapter_source(config, offline=offline)
    output = config.path(config.export.output)
    _check_space(output.parent, source.weight_bytes)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".export-", dir=_parent(output)) as work,
            atomic.staged_directory(output) as staging,
        ):
            _Export(config, source, Path(work), staging, say, exporter or OptimumExporter()).run()
    except OSError as exc:
        raise ExportError(
            f"the bundle '{output}' could not be written: {exc.strerror or exc}; nothing was changed",
            hint="free some space and export again",
        ) from exc
    return output


class _Export:
    """One export: the steps and what they measured."""

    def __init__(self, config: Config, source: Source, work: Path, staging: Path, say: Say, exporter: Exporter) -> None:
        self.config = config
        self.source = source
        self.work = work
        self.staging = staging
        self.say = say
        self.exporter = exporter
        self.language = self._language()
        self.pairs = read_pairs(config.path(config.data.dev))[: config.export.eval_rows]
        if not self.pairs:
            raise ExportError(f"'{config.data.dev}' holds no pairs to measure the export on", hint="set [data] dev")
        self.rows = [self._token_row(pair) for pair in self.pairs[:PARITY_ROWS]]
        self.logits: list[Any] = []
        self.parity: dict[str, Parity] = {}
        self.quality: dict[str, Quality] = {}

    def run(self) -> None:
        """All steps, in order."""
        self.say("adapter: load and measure")
        model = self.source.load()
        self._measure_torch("adapter", model)
        self.say("merged: merge and measure")
        merged = model.merge_and_unload()
        merged.config.use_cache = True
        self._measure_torch("merged", merged)
        importance = channel_importance(merged, self._calibration_rows()) if self._recipe else {}
        info = self._model_info(merged, "shared")
        self.say(f"onnx: export with {self.exporter.name}")
        graph = self.exporter.export(merged, self.work, context_length=self.config.export.context_length)
        info = self._model_info(merged, graph.kv_layout)
        del model, merged
        self._measure_onnx("onnx", graph.path, info)
        self.say(f"quantized: {self.config.export.quantize}")
        self._write_model(graph, importance)
        self._measure_onnx("quantized", self.staging / "model.onnx", info)
        if not self.config.export.smoke:  # a random model has no quality to lose
            check_gate(self.quality, self.config.export.gate)
        self._write_files(info)

    @property
    def _recipe(self) -> Any:
        return RECIPES[self.config.export.quantize]

    def _language(self) -> Language:
        folder = self.source.folder
        catalogue = folder / "catalogue.json"
        grammar = Grammar.from_files(folder / "grammar.lark", catalogue if catalogue.exists() else None)
        return Language(
            Tokenizer.from_file(folder / "tokenizer.json"), PromptTemplate.from_file(folder / "prompt.json"), grammar
        )

    def _token_row(self, pair: Pair) -> list[int]:
        tokenizer = self.language.tokenizer
        row = tokenizer.encode_prompt(self.language.template, pair.prompt) + tokenizer.encode_plain(pair.target)
        return row[: self.config.export.context_length]

    def _calibration_rows(self) -> list[list[int]]:
        train = read_pairs(self.config.path(self.config.data.train))
        step = max(1, len(train) // CALIBRATION_ROWS)
        return [self._token_row(pair) for pair in train[::step][:CALIBRATION_ROWS]]

    def _measure_torch(self, hop: str, model: Any) -> None:
        language = self.language
        compiled = language.grammar.compile(language.tokenizer, language.tokenizer.end_token_ids(language.template))
        decoder = TorchDecoder(model, language.tokenizer, language.template, compiled, "cpu")
        with torch.inference_mode():
            self._compare(
                hop, collect(lambda row: model(torch.tensor([list(row)])).logits[0].float().numpy(), self.rows)
            )
        self._measure_programs(hop, partial(decoder.generate, max_tokens=self.config.generate.max_tokens))

    def _measure_onnx(self, hop: str, path: Path, info: ModelInfo) -> None:
        decoder = Decoder(path, info, num_threads=self.config.runtime.num_threads)

        def logits_of(row: Sequence[int]) -> Any:
            decoder.reset()
            return decoder.forward_all(row)

        self._compare(hop, collect(logits_of, self.rows))
        language = self.language
        engine = Engine(
            name=hop,
            tokenizer=language.tokenizer,
            template=language.template,
            grammar=language.grammar,
            decoder=decoder,
        )
        params = SamplingParams(max_tokens=self.config.generate.max_tokens)
        self._measure_programs(
            hop, lambda sentences: [engine.generate(sentence, params).text for sentence in sentences]
        )

    def _compare(self, hop: str, logits: list[Any]) -> None:
        if self.logits:
            self.parity[hop] = compare(self.logits, logits)
        self.logits = logits

    def _measure_programs(self, hop: str, generate: Any) -> None:
        self.quality[hop] = measure(generate, self.pairs, self.language.grammar)
        parity = self.parity.get(hop)
        agreement = (
            f", argmax agreement {parity.argmax_agreement:.2%}, max difference {parity.max_difference:.2g}"
            if parity
            else ""
        )
        self.say(f"  {hop}: exact match {self.quality[hop].exact_match:.1%} of {len(self.pairs)}{agreement}")

    def _write_model(self, exported: ExportedGraph, importance: dict[str, Any]) -> None:
        graph = onnx.load(exported.path)
        if self._recipe:
            quantize_model(graph, self._recipe, importance)
        save_graph(graph, self.staging / "model.onnx")

    def _write_files(self, info: ModelInfo) -> None:
        for name in ("tokenizer.json", "prompt.json", "grammar.lark", "catalogue.json"):
            if (self.source.folder / name).exists():
                shutil.copyfile(self.source.folder / name, self.staging / name)
        (self.staging / "licences").mkdir()
        atomic.write_text(self.staging / "licences" / "base-model.txt", self.source.licence + "\n")
        (self.staging / "eval").mkdir()
        rows = [{"prompt": pair.prompt, "target": pair.target} for pair in self.pairs]
        atomic.write_json(self.staging / "eval" / "dev.json", rows)
        write_manifest(
            self.staging, name=self.config.project.name, model=info, config=self.config.to_dict(),
            parity={hop: parity.to_dict() for hop, parity in self.parity.items()},
            quality={hop: quality.to_dict() for hop, quality in self.quality.items()},
            versions=_versions(),
        )  # fmt: skip

    def _model_info(self, model: Any, kv_layout: str) -> ModelInfo:
        config = model.config
        return ModelInfo(
            architecture=config.model_type, base_model=self.source.base_name, base_sha256=self.source.base_sha256,
            adapter_sha256=self.source.adapter_sha256, num_layers=config.num_hidden_layers,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size, context_length=self.config.export.context_length, kv_layout=kv_layout,
            quantization=self.config.export.quantize,
        )  # fmt: skip


def _versions() -> dict[str, str]:
    names = (
        "edgedsl",
        "torch",
        "transformers",
        "peft",
        "optimum-onnx",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "llguidance",
        "lark",
    )
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _parent(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def _check_space(folder: Path, weight_bytes: int) -> None:
    """Merged graph, its copy with fused attention and the quantised one are on disk together."""
    folder = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    needed, free = int(3.2 * weight_bytes), shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"the export needs about {needed >> 20} MiB of disk, '{folder}' has {free >> 20} MiB free",
            hint="free some space, or set [export] output",
        )


def read_report(bundle: Path) -> dict[str, Any]:
    """Parity and quality of a written bundle, for printing."""
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return {name: manifest[name] for name in ("parity", "quality")}
