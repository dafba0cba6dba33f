"""The adapter folder: a standard PEFT adapter with everything that made it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl._version import __version__
from edgedsl.config import Config
from edgedsl.data.pairs import rejected_lines
from edgedsl.data.project import ProjectInputs
from edgedsl.training.checkpoint import ADAPTER_FILE, TrainState, write_tensors
from edgedsl.training.lora import write_adapter_config
from edgedsl.training.model_card import model_card
from edgedsl.training.pairs import TrainingPairs
from edgedsl.training.record import RUN_FILE
from edgedsl.training.report import report
from edgedsl.training.trainer import Trainer


def write_adapter(
    output: Path,
    config: Config,
    inputs: ProjectInputs,
    pairs: TrainingPairs,
    trainer: Trainer,
    identity: Mapping[str, Any],
) -> None:
    """Write the folder in one piece; it takes the place of the checkpoints."""
    record = _record(config, inputs, pairs, trainer.state, identity)
    weights = trainer.best_adapter()
    with atomic.staged_directory(output) as folder:
        write_tensors(folder / ADAPTER_FILE, weights)
        write_adapter_config(trainer.model, folder)
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
    config: Config, inputs: ProjectInputs, pairs: TrainingPairs, state: TrainState, identity: Mapping[str, Any]
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
