"""``edgedsl export``: adapter -> merged -> ONNX -> quantised -> bundle, each hop measured."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedsl import atomic, token_bytes
from edgedsl.bundle.manifest import ModelInfo, write_manifest
from edgedsl.config import Config
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.errors import BundleError, ExportError
from edgedsl.exporters.base import Exporter
from edgedsl.exporters.candidates import Calibration, Candidate, Writer, choose
from edgedsl.exporters.drafts import has_drafts, remove_drafts, write_drafts
from edgedsl.exporters.first_round import Contender, FirstRound, folder_bytes
from edgedsl.exporters.fused.exporter import FusedExporter
from edgedsl.exporters.fused.plan import uncovered
from edgedsl.exporters.head import choose_head
from edgedsl.exporters.hops import PARITY_ROWS, Hops, Language, Say
from edgedsl.exporters.optimum import OptimumExporter
from edgedsl.exporters.pareto import picture
from edgedsl.exporters.quality import check_gate
from edgedsl.exporters.recipes import HALF, kv_dtype, recipes_to_try
from edgedsl.exporters.source import Source, adapter_source, smoke_source
from edgedsl.exporters.versions import versions
from edgedsl.grammar import Grammar, lark_tables, lexemes
from edgedsl.grammar.trial import try_compile
from edgedsl.prompt import PromptTemplate
from edgedsl.provider_probe import check_runs
from edgedsl.runtime import kernels
from edgedsl.tokenizer import Tokenizer

CALIBRATION_ROWS = 128
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
    source = (smoke_source if config.export.smoke else adapter_source)(config, offline=offline)
    output = _output(config)
    _check_space(output.parent, source.weight_bytes)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as work,
            atomic.staged_directory(output) as staging,
        ):
            _Export(config, source, Path(work), staging, say, exporter).run()
    except OSError as exc:
        hint = "free some space and export again" if exc.errno in _DISK_FULL else "set [export] output"
        raise _not_written(output, str(exc.strerror or exc), hint) from exc
    except BundleError as exc:
        raise _not_written(output, exc.message, exc.hint) from exc
    return output


class _Export:
    """One export: the steps and what they measured."""

    def __init__(
        self, config: Config, source: Source, work: Path, staging: Path, say: Say, exporter: Exporter | None
    ) -> None:
        self.config = config
        self.source = source
        self.work = work
        self.staging = staging
        self.say = say
        self.exporter = exporter
        self.language = self._language()
        self.pairs = self._dev_pairs()
        self.hops = Hops(config, self.language, self.pairs, say)

    def run(self) -> None:
        """All steps, in order."""
        self.say("adapter: load and measure")
        model = self.source.load()
        self._check_context(model)
        self.exporter = self.exporter or self._choose_exporter(model)
        recipes = self._recipes(self.exporter)
        self.hops.head = choose_head(
            self.language.compiled, model.config.vocab_size, self.config.export.trim_head, recipes, self.say
        )
        self.hops.measure_torch("adapter", model)
        self.say("merged: merge and measure")
        merged = model.merge_and_unload()
        merged.config.use_cache = True
        self.hops.measure_torch("merged", merged)
        calibration = Calibration.of(merged, recipes, self._calibration_rows, len(self.hops.prefix_token_ids))
        self.say(f"onnx: export with {self.exporter.name}")
        graph = self.exporter.export(merged, self.work, context_length=self.config.export.context_length)
        info = self._model_info(merged, graph.kv_layout)
        del model, merged
        self.hops.measure_onnx("onnx", graph.path.parent, info)
        if self.config.export.drafts:
            self._write_drafts(info)
        vocab_size = self.language.tokenizer.vocab_size
        writer = Writer(
            graph, info, calibration, self.hops.prefix_token_ids, self.hops.rows, vocab_size, self.hops.head
        )
        self._take(*self._measured(writer, recipes), info)

    def _choose_exporter(self, model: Any) -> Exporter:
        wanted = self.config.export.graph
        reason = "" if wanted == "optimum" else uncovered(model.config, self.config.export.context_length)
        if reason and wanted == "auto":
            self.say(f"onnx: the fused graph does not cover this model ({reason}); optimum's is taken, which is slower")
        return OptimumExporter() if wanted == "optimum" or (reason and wanted == "auto") else FusedExporter()

    def _write_drafts(self, info: ModelInfo) -> None:
        if info.kv_layout != "shared":
            self.say("drafts: none, this graph's cache cannot take tokens back")
            return
        train = read_pairs(self.config.path(self.config.data.train))
        write_drafts(self.staging, train, self.language.tokenizer, self.language.compiled)

    @property
    def _has_drafts(self) -> bool:
        return has_drafts(self.staging)

    def _recipes(self, exporter: Exporter) -> Sequence[str]:
        """Names of the recipes to try; a GPU that they need is there."""
        provider = self.config.runtime.execution_provider
        recipes = recipes_to_try(self.config.export.quantize, exporter.name, provider)
        if provider == "cuda" and set(recipes) & set(HALF):
            check_runs("cuda")
        return self._that_run_here(recipes)

    def _that_run_here(self, recipes: Sequence[str]) -> Sequence[str]:
        """Without those whose operators this machine cannot run."""
        own, reason = [name for name in recipes if name in kernels.RECIPES], kernels.why_not()
        if not own or not reason:
            return recipes
        if len(own) == len(recipes):
            raise ExportError(f"{own[0]} cannot be measured here: {reason}", hint="take '--quantize w8a8'")
        self.say(f"quantized: {', '.join(own)} left out, edgedsl's own operators do not run here: {reason}")
        return [name for name in recipes if name not in own]

    def _measured(self, writer: Writer, names: Sequence[str]) -> tuple[list[Candidate], list[Contender]]:
        """The candidates, and those that the first round left behind."""
        contenders = {contender.recipe: contender for contender in FirstRound(writer, self.hops, self.work).run(names)}
        beaten = [contender for contender in contenders.values() if contender.beaten_by]
        finalists = [name for name in names if name not in {contender.recipe for contender in beaten}]
        if beaten:
            self.say(f"quantized: {', '.join(finalists)} are measured in full")
        candidates = [self._try(writer, name) for name in finalists]
        fidelities = [contenders[name].fidelity if name in contenders else None for name in finalists]
        return [replace(one, fidelity=found) for one, found in zip(candidates, fidelities, strict=True)], beaten

    def _try(self, writer: Writer, name: str) -> Candidate:
        """Write one quantised model, unless the first round did; measure it, with the drafts too if there are any."""
        self.say(f"quantized: {name}")
        folder = self.work / name
        if not folder.exists():
            writer.write(name, folder)
        info = writer.info_of(name)
        self.hops.measure_onnx(name, folder, info)
        hop, changed = name, None
        if self._has_drafts:
            drafted = f"{name} drafted"
            self.hops.measure_onnx(drafted, folder, info, drafts=self.staging)
            changed = self.hops.changed_share(name, drafted)
            self.say(f"  drafts change {changed:.1%} of {len(self.pairs)} answers")
            hop = drafted if changed <= self.config.export.drafts_gate else name
        return Candidate(name, self.hops.quality[name], self.hops.e2el_ms[hop], folder_bytes(folder), changed)

    def _take(self, candidates: Sequence[Candidate], beaten: Sequence[Contender], info: ModelInfo) -> None:
        """Put the chosen model into the bundle, unless it lost too much."""
        hops, gate = self.hops, self.config.export.gate
        chosen = choose(candidates, gate * hops.quality["adapter"].exact_match)
        if len(candidates) > 1:
            self.say(f"quantized: {chosen.recipe} is taken, {chosen.e2el_ms:.0f} ms an answer")
            atomic.write_text(self.staging / "eval" / "recipes.html", picture(candidates, chosen, beaten))
        for file in (self.work / chosen.recipe).iterdir():
            file.rename(self.staging / file.name)
        info = replace(info, quantization=chosen.recipe, kv_dtype=kv_dtype(chosen.recipe))
        hops.serve(chosen.recipe)
        if chosen.changed_share is not None and chosen.changed_share > self.config.export.drafts_gate:
            self.say(f"drafts: taken out again, the gate is {self.config.export.drafts_gate:.1%}")
            remove_drafts(self.staging)
            hops.is_padded = False  # and the bundle is measured as it will decode
            hops.measure_onnx("quantized", self.staging, info)
        if not self.config.export.smoke:  # a random model has no quality to lose
            check_gate(hops.quality, gate)
        self._write_files(info, [*candidates, *beaten] if len(candidates) > 1 else [])

    def _language(self) -> Language:
        """What the bundle will hold, read from where it will be; the grammar after a trial in a child process."""
        folder = self.staging
        for name, content in self.source.files.items():
            atomic.write_bytes(folder / name, content)
        catalogue = folder / "catalogue.json" if "catalogue.json" in self.source.files else None
        token_file, spelled = folder / "tokenizer.json", folder / token_bytes.FILE_NAME
        atomic.write_text(spelled, token_bytes.to_json(Tokenizer.from_file(token_file).json_text))
        tokenizer = Tokenizer.from_file(token_file, spelled)
        template = PromptTemplate.from_file(folder / "prompt.json")
        tried = try_compile(
            folder / "grammar.lark",
            catalogue,
            token_file,
            end_token_ids=tokenizer.end_token_ids(template),
        )
        self.say(f"grammar: compiled on trial in {tried}")
        tables, grammar = folder / lark_tables.FILE_NAME, Grammar.from_files(folder / "grammar.lark", catalogue)
        atomic.write_text(tables, lark_tables.to_json(grammar.lark, grammar.source))
        # Read as it will be served: what follows is measured with the tables of the file.
        language = Language(tokenizer, template, Grammar.from_files(folder / "grammar.lark", catalogue, tables))
        shortest = language.compiled.planner.lexemes
        atomic.write_text(folder / lexemes.FILE_NAME, lexemes.to_json(shortest, grammar.source, tokenizer.json_text))
        return language

    def _dev_pairs(self) -> list[Pair]:
        num_rows = PARITY_ROWS if self.config.export.smoke else self.config.export.eval_rows
        pairs = spread(read_pairs(self.config.path(self.config.data.dev)), num_rows)
        language, context = self.language, self.config.export.context_length
        for pair in pairs:
            num_tokens = len(language.tokenizer.encode_prompt(language.template, pair.prompt))
            if num_tokens >= context:
                raise ExportError(
                    f"{pair.source}: the prompt has {num_tokens} tokens, the bundle's context would hold {context}",
                    hint="raise [export] context_length",
                )
        return pairs

    def _check_context(self, model: Any) -> None:
        known = getattr(model.config, "max_position_embeddings", None)
        wanted = self.config.export.context_length
        if known and wanted > known:
            raise ExportError(
                f"[export] context_length is {wanted}, the base model knows positions up to {known}",
                hint=f"set context_length to at most {known}",
            )

    def _calibration_rows(self) -> list[list[int]]:
        train = read_pairs(self.config.path(self.config.data.train))
        return [self.hops.token_row(pair) for pair in spread(train, CALIBRATION_ROWS)]

    def _write_files(self, info: ModelInfo, tried: Sequence[Candidate | Contender]) -> None:
        rows = [{"prompt": pair.prompt, "target": pair.target} for pair in self.pairs]
        atomic.write_json(self.staging / "eval" / "dev.json", rows)
        write_manifest(
            self.staging, name=self.config.project.name, model=info, config=self._resolved_config(),
            parity={hop: parity.to_dict() for hop, parity in self.hops.parity.items()},
            quality={
                **{hop: quality.to_dict() for hop, quality in self.hops.quality.items()},
                **{one.recipe: one.to_dict() for one in tried},
            },
            versions=versions(),
        )  # fmt: skip

    def _resolved_config(self) -> dict[str, Any]:
        """With the graph that was taken in place of "auto"."""
        document = self.config.to_dict()
        assert self.exporter
        document["export"]["graph"] = self.exporter.name
        return document

    def _model_info(self, model: Any, kv_layout: str) -> ModelInfo:
        config = model.config
        return ModelInfo(
            architecture=config.model_type, base_model=self.source.base_name, base_sha256=self.source.base_sha256,
            adapter_sha256=self.source.adapter_sha256, num_layers=config.num_hidden_layers,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size, context_length=self.config.export.context_length, kv_layout=kv_layout,
            quantization=self.config.export.quantize,
            num_head_tokens=len(self.hops.head.token_ids) if self.hops.head else 0,
        )  # fmt: skip


def _output(config: Config) -> Path:
    """A random model never takes the place of a real one."""
    output = config.path(config.export.output)
    return output.with_name(f"{output.name}-smoke") if config.export.smoke else output


def _not_written(output: Path, reason: str, hint: str) -> ExportError:
    return ExportError(f"the bundle '{output}' could not be written: {reason}; nothing was changed", hint=hint)


def _check_space(folder: Path, weight_bytes: int) -> None:
    """At the peak, three copies of the fp32 weights are on disk: merged, traced and fused, or two and the bundle's."""
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
