"""The pairs of a run, and its identity: all that the weights depend on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgedsl.basemodels.model import digest, weights_digest
from edgedsl.config import Config
from edgedsl.data.pairs import BadRow, Pair, check_pairs, read_pairs, settle
from edgedsl.data.project import ProjectInputs
from edgedsl.errors import DataError
from edgedsl.training.checkpoint import ADAPTER_FILE

# These change neither the weights nor which of them are kept.
_FREE_TO_CHANGE = frozenset({"output", "init_adapter", "num_threads", "save_every"})


@dataclass(frozen=True)
class TrainingPairs:
    """Usable pairs, the rows left out, and name, hash and counts of the files."""

    train: list[Pair]
    dev: list[Pair]
    bad: list[BadRow]
    files: dict[str, dict[str, Any]]


def read_training_pairs(config: Config, inputs: ProjectInputs) -> TrainingPairs:
    """Read and check the training and dev pairs.

    Raises:
        DataError: a file that cannot be read, bad rows that were not to be dropped, or nothing left.
    """
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
    for name, good in found.items():
        if not good:
            raise DataError(f"no pair of [data] {name} can be used", hint="'edgedsl data check' lists the reasons")
    return TrainingPairs(found["train"], found["dev"], bad, files)


def run_identity(
    config: Config, inputs: ProjectInputs, pairs: TrainingPairs, dtype: torch.dtype, num_processes: int
) -> dict[str, Any]:
    """All that the weights depend on; a run is only resumed where none of it has changed."""
    section = {f"[train] {k}": v for k, v in asdict(config.train).items() if k not in _FREE_TO_CHANGE}
    return {
        **section,
        "[data] max_tokens": config.data.max_tokens,
        "base model sha256": weights_digest(inputs.base.path),
        "first adapter sha256": _first_adapter(config),
        "training pairs sha256": pairs.files["train"]["sha256"],
        "dev pairs sha256": pairs.files["dev"]["sha256"],
        "training rows used": len(pairs.train),
        "dev rows used": len(pairs.dev),
        "grammar sha256": hashlib.sha256(inputs.grammar.source.encode()).hexdigest(),
        "tokenizer sha256": hashlib.sha256(inputs.tokenizer.json_text.encode()).hexdigest(),
        "prompt template": inputs.template.to_dict(),
        "precision": str(dtype).removeprefix("torch."),
        "processes": num_processes,
    }


def _first_adapter(config: Config) -> str | None:
    path = config.path(config.train.init_adapter) / ADAPTER_FILE
    return digest(path) if config.train.init_adapter and path.is_file() else None
