"""Checkpoints: folders that appear whole, hold no pickle, and bring training back to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from edgedsl import atomic
from edgedsl.errors import TrainingError

ADAPTER_FILE = "adapter_model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_RNG_FILE = "rng.safetensors"
_STATE_FILE = "state.json"
_KEPT = 2


@dataclass
class TrainState:
    """Where training stands after ``step`` optimizer steps. ``elapsed_s`` adds up over resumptions."""

    step: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    elapsed_s: float = 0.0
    best: dict[str, Any] | None = None
    evals_without_best: int = 0
    is_stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    # Not logged yet: since the last entry of the history.
    pending: dict[str, float] = field(
        default_factory=lambda: {"loss": 0.0, "targets": 0.0, "tokens": 0.0, "elapsed_s": 0.0}
    )

    @property
    def best_step(self) -> int:
        """Step of the best evaluation; 0 when there was none."""
        return int(self.best["step"]) if self.best else 0


class CheckpointStore:
    """The ``checkpoints`` folder of a run."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self._fingerprint = dict(fingerprint)

    def save(
        self,
        state: TrainState,
        adapter: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        rng: Mapping[str, torch.Tensor],
    ) -> None:
        """Write the checkpoint of ``state.step`` and drop all but the last two and the best."""
        with atomic.staged_directory(self._path(state.step)) as folder:
            write_tensors(folder / ADAPTER_FILE, adapter)
            write_tensors(folder / _OPTIMIZER_FILE, _optimizer_tensors(optimizer))
            write_tensors(folder / _RNG_FILE, rng)
            atomic.write_json(folder / _STATE_FILE, {"fingerprint": self._fingerprint, **asdict(state)})
        for step in self.steps()[:-_KEPT]:
            if step != state.best_step:
                _remove(self._path(step))

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def load_state(self) -> TrainState | None:
        """State of the newest checkpoint; None when there is none.

        Raises:
            TrainingError: damaged, or written by a run with another configuration, data or base model.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1]) / _STATE_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document.pop("fingerprint")
            state = TrainState(**document)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise TrainingError(f"'{path}' cannot be read: {exc}", hint="start again with --force") from exc
        self._compare(found)
        return state

    def load_tensors(
        self, step: int, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Adapter and random states of a checkpoint; the optimizer is filled in place.

        Raises:
            TrainingError: missing or damaged files.
        """
        path = self._path(step)
        try:
            adapter = load_file(path / ADAPTER_FILE)
            _fill_optimizer(optimizer, load_file(path / _OPTIMIZER_FILE))
            return adapter, load_file(path / _RNG_FILE)
        except (OSError, SafetensorError, ValueError, KeyError) as exc:
            raise TrainingError(
                f"checkpoint '{path}' is damaged: {exc}", hint="remove that folder to go on from the one before"
            ) from exc

    def adapter(self, step: int) -> dict[str, torch.Tensor]:
        """Adapter weights of a checkpoint."""
        return read_tensors(self._path(step) / ADAPTER_FILE)

    def clear(self, *, leftovers_only: bool = False) -> None:
        """Remove what a killed run left half-written, and, unless ``leftovers_only``, every checkpoint."""
        for path in list(self.folder.glob(".step-*")):
            shutil.rmtree(path, ignore_errors=True)
        if not leftovers_only:
            for step in self.steps():
                _remove(self._path(step))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _compare(self, found: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(self._fingerprint))
        names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        if names:
            changes = "".join(f"\n  {name}: {found.get(name)!r} then, {expected.get(name)!r} now" for name in names)
            raise TrainingError(
                f"the checkpoints in '{self.folder}' come from another run:{changes}",
                hint="undo these changes, or start again with --force",
            )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        TrainingError: missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as exc:
        raise TrainingError(f"'{path}' is damaged: {exc}", hint="train it again with --force") from exc


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors, readable for everyone (the library's own writer makes files of mode 600)."""
    path.write_bytes(save(dict(tensors), metadata={"format": "pt"}))


def rng_state() -> dict[str, torch.Tensor]:
    """States of torch's random generators (uint8)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: Mapping[str, torch.Tensor]) -> None:
    """The inverse of :func:`rng_state`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{name}": tensor.detach().cpu().contiguous()
        for i, values in state.items()
        for name, tensor in values.items()
    }


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    document = optimizer.state_dict()
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        document["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(document)


def _remove(path: Path) -> None:
    # A name of its own first: a kill in the middle must not leave a folder that looks like a checkpoint.
    dying = path.with_name(f".{path.name}.old")
    path.rename(dying)
    shutil.rmtree(dying, ignore_errors=True)
