"""``train``: from the project file to the adapter folder."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import save_file

from edgedsl import atomic
from edgedsl._version import __version__
from edgedsl.basemodels.model import digest, fingerprint
from edgedsl.config import Config
from edgedsl.data.pairs import BadRow, Pair, check_pairs, read_pairs, rejected_lines, settle
from edgedsl.data.project import ProjectInputs, open_inputs
from edgedsl.errors import TrainingError
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.training import hardware, lora
from edgedsl.training.batches import encode
from edgedsl.training.checkpoint import ADAPTER_FILE, CheckpointStore, TrainState
from edgedsl.training.evaluate import Evaluator
from edgedsl.training.model_card import model_card
from edgedsl.training.report import report
from edgedsl.training.trainer import Interrupted, Trainer

RUN_FILE = "run.json"
# These change neither the weights nor which of them are kept.
_FREE_TO_CHANGE = frozenset({"output", "num_threads", "save_every"})


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a run, and the hashes of the files they came from."""

    train: list[Pair]
    dev: list[Pair]
    bad: list[BadRow]
    files: dict[str, dict[str, Any]]


def train(config: Config, *, resume: bool, offline: bool = False, force: bool = False) -> Path:
    """Fine-tune the base model on the project's pairs and write the adapter folder.

    Args:
        resume: go on from the newest checkpoint, or start where there is none.
        offline: open no connection.
        force: replace what an earlier run left.

    Returns:
        The adapter folder.

    Raises:
        EdgeDSLError: anything that is wrong with configuration, data, base model, machine or checkpoints.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; the checkpoint is written.
    """
    output = config.path(config.train.output)
    _check_output(output, resume=resume, force=force)
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    accelerator = Accelerator(mixed_precision="no")
    if config.train.quantization == "4bit":
        hardware.require_cuda_for_4bit(accelerator.device)
    dtype = hardware.choose_dtype(config.train.precision, accelerator.device)
    inputs = open_inputs(config, offline=offline)
    pairs = _read(config, inputs, accelerator)
    identity = _identity(config, inputs, pairs, dtype, accelerator.num_processes)
    store = CheckpointStore(output / "checkpoints", identity)
    if resume and not store.steps() and (output / RUN_FILE).exists():
        _say(accelerator, f"'{output}' is finished; nothing to resume")
        return output
    state = _start(store, accelerator, resume=resume)
    trainer = _trainer(config, inputs, pairs, accelerator, store, dtype)
    if state is not None:
        trainer.restore(state)
    _say(accelerator, _headline(trainer, pairs, accelerator, dtype, resumed_at=trainer.state.step))
    _run(trainer, accelerator)
    if accelerator.is_main_process:
        _write(output, config, inputs, pairs, trainer, identity)
    accelerator.wait_for_everyone()
    return output


def _check_output(output: Path, *, resume: bool, force: bool) -> None:
    if resume and force:
        raise TrainingError("--resume and --force exclude each other", hint="--resume goes on, --force starts again")
    if resume or force or not output.exists():
        return
    if (output / RUN_FILE).exists():
        raise TrainingError(
            f"'{output}' holds a finished adapter", hint="--force trains again; [train] output names another folder"
        )
    if list(output.glob("checkpoints/step-*")):
        raise TrainingError(
            f"'{output}' holds an unfinished run", hint="go on with --resume, or start again with --force"
        )
    if any(path.name != "checkpoints" for path in output.iterdir()):
        raise TrainingError(
            f"'{output}' exists and is not an adapter; it would be replaced", hint="[train] output names another folder"
        )


def _read(config: Config, inputs: ProjectInputs, accelerator: Accelerator) -> _Pairs:
    found: dict[str, list[Pair]] = {}
    bad: list[BadRow] = []
    files: dict[str, dict[str, Any]] = {}
    for name in ("train", "dev"):
        path = config.path(getattr(config.data, name))
        rows = read_pairs(path)
        good, rejected = check_pairs(rows, inputs.grammar, inputs.tokenizer, inputs.template, config.data.max_tokens)
        found[name] = good
        bad += rejected
        files[name] = {"file": path.name, "sha256": digest(path), "rows": len(rows), "used": len(good)}
    settle(bad, config.data.on_bad_row)
    if bad:
        _say(accelerator, f"dropped {len(bad)} rows; they are listed in rejected.jsonl")
    for name, good in found.items():
        if not good:
            raise TrainingError(f"no pair of [data] {name} can be used", hint="'edgedsl data check' lists the reasons")
    return _Pairs(found["train"], found["dev"], bad, files)


def _identity(
    config: Config, inputs: ProjectInputs, pairs: _Pairs, dtype: torch.dtype, processes: int
) -> dict[str, Any]:
    """All that the weights depend on; a run is only resumed where none of it has changed."""
    section = {f"[train] {k}": v for k, v in asdict(config.train).items() if k not in _FREE_TO_CHANGE}
    return {
        **section,
        "[data] max_tokens": config.data.max_tokens,
        "base model sha256": _base_sha256(inputs.base.path),
        "training pairs sha256": pairs.files["train"]["sha256"],
        "dev pairs sha256": pairs.files["dev"]["sha256"],
        "training rows used": len(pairs.train),
        "dev rows used": len(pairs.dev),
        "grammar sha256": hashlib.sha256(inputs.grammar.source.encode()).hexdigest(),
        "tokenizer sha256": hashlib.sha256(inputs.tokenizer.json_text.encode()).hexdigest(),
        "prompt template": inputs.template.to_dict(),
        "precision": str(dtype).removeprefix("torch."),
        "processes": processes,
    }


def _base_sha256(folder: Path) -> str:
    """Hash of model.safetensors; of the configuration and all shards where there are several."""
    weights = folder / "model.safetensors"
    return digest(weights) if weights.is_file() else fingerprint(folder).removeprefix("sha256:")


def _start(store: CheckpointStore, accelerator: Accelerator, *, resume: bool) -> TrainState | None:
    if accelerator.is_main_process:
        store.clear(leftovers_only=resume)
    accelerator.wait_for_everyone()
    return store.load_state() if resume else None


def _trainer(
    config: Config,
    inputs: ProjectInputs,
    pairs: _Pairs,
    accelerator: Accelerator,
    store: CheckpointStore,
    dtype: torch.dtype,
) -> Trainer:
    section = config.train
    base = lora.load_base(inputs.base.path, section, dtype, accelerator.device)
    model = lora.add_lora(base, section, config.project.base_model)
    order = np.random.default_rng(section.seed).permutation(len(pairs.dev))
    decoded = [pairs.dev[i] for i in order[: section.eval_rows]]
    measured = encode([pairs.dev[i] for i in order[: section.eval_loss_rows]], inputs.tokenizer, inputs.template)
    # An answer longer than every target is wrong however it goes on.
    longest = max((len(inputs.tokenizer.encode_plain(pair.target)) for pair in decoded), default=0) + 1
    decoder = TorchDecoder(model, inputs.tokenizer, inputs.template, inputs.compile(), accelerator.device)
    evaluator = Evaluator(accelerator, decoder, measured, decoded, section.batch_size, longest)
    examples = encode(pairs.train, inputs.tokenizer, inputs.template)
    return Trainer(model, examples, section, accelerator, evaluator, store, dtype)


def _run(trainer: Trainer, accelerator: Accelerator) -> None:
    try:
        trainer.run()
    except Interrupted as exc:
        _say(accelerator, f"stopped after step {exc}; go on with 'edgedsl train --resume'")
        raise


def _headline(trainer: Trainer, pairs: _Pairs, accelerator: Accelerator, dtype: torch.dtype, *, resumed_at: int) -> str:
    num_parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    start = f", resumed at step {resumed_at}" if resumed_at else ""
    return (
        f"training {num_parameters / 1e6:.1f} M LoRA parameters on {len(pairs.train)} pairs, {trainer.total_steps} steps, "
        f"{accelerator.num_processes} x {accelerator.device.type}, {str(dtype).removeprefix('torch.')}{start}"
    )


def _say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _write(
    output: Path, config: Config, inputs: ProjectInputs, pairs: _Pairs, trainer: Trainer, identity: dict[str, Any]
) -> None:
    record = _record(config, inputs, pairs, trainer.state, identity)
    weights = trainer.best_adapter()
    with atomic.staged_directory(output) as folder:
        save_file(weights, folder / ADAPTER_FILE, metadata={"format": "pt"})
        lora.write_adapter_config(trainer.model, folder)
        _copy_inputs(inputs, folder)
        atomic.write_json(folder / "prompt.json", inputs.template.to_dict())
        atomic.write_json(folder / "edgedsl.resolved.json", config.to_dict())
        atomic.write_text(folder / "rejected.jsonl", rejected_lines(pairs.bad))
        atomic.write_json(folder / RUN_FILE, record)
        atomic.write_text(folder / "report.html", report(record))
        atomic.write_text(folder / "README.md", model_card(record))


def _copy_inputs(inputs: ProjectInputs, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(inputs.base.path / name, folder / name)
    shutil.copyfile(inputs.grammar_path, folder / "grammar.lark")
    if inputs.catalogue_path is not None:
        shutil.copyfile(inputs.catalogue_path, folder / "catalogue.json")


def _record(
    config: Config, inputs: ProjectInputs, pairs: _Pairs, state: TrainState, identity: dict[str, Any]
) -> dict[str, Any]:
    best = state.best or {}
    return {
        "edgedsl_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": config.project.name,
        "base_model": {
            "name": config.project.base_model,
            "sha256": identity["base model sha256"],
            "source": inputs.base.source,
            "licence": inputs.base.licence,
        },
        "seed": config.train.seed,
        "precision": identity["precision"],
        "data": pairs.files,
        "dropped": [row.to_dict() for row in pairs.bad],
        "metrics": {
            "best_step": state.best_step,
            "exact_match": best.get("exact_match") if config.train.eval_rows else None,
            "exact_match_rows": min(config.train.eval_rows, len(pairs.dev)),
            "eval_loss": best.get("eval_loss"),
            "steps": state.step,
            "stopped_early": state.is_stopped_early,
            "tokens": state.tokens,
            "padding_share": state.padding_tokens / max(1, state.tokens + state.padding_tokens),
            "tokens_per_s": _mean_speed(state.history),
            "elapsed_s": state.elapsed_s,
        },
        "history": state.history,
        "config": config.to_dict(),
        "versions": _versions(),
    }


def _mean_speed(history: Sequence[dict[str, Any]]) -> float | None:
    """Tokens a second while training, over the whole run; evaluations do not count."""
    seconds, before = 0.0, 0
    for entry in history:
        seconds += (entry["tokens"] - before) / entry["tokens_per_s"]
        before = entry["tokens"]
    return before / seconds if seconds else None


def _versions() -> dict[str, str]:
    packages = {
        name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "tokenizers", "llguidance")
    }
    return {"python": platform.python_version(), **packages}
