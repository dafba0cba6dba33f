"""``train``: from the project file to the adapter folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from edgedsl.basemodels.model import weights_digest
from edgedsl.config import Config
from edgedsl.data.pairs import spread
from edgedsl.data.project import ProjectInputs, open_inputs
from edgedsl.errors import DataError, TrainingError
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.training import hardware, lora
from edgedsl.training.adapter import write_adapter
from edgedsl.training.batches import Example, encode
from edgedsl.training.checkpoint import ADAPTER_FILE, CheckpointStore, TrainState, read_tensors
from edgedsl.training.evaluate import Evaluator
from edgedsl.training.pairs import TrainingPairs, read_training_pairs, run_identity
from edgedsl.training.record import RUN_FILE, check_base, read_run
from edgedsl.training.trainer import Interrupted, Trainer


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
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; a checkpoint is written.
    """
    output = config.path(config.train.output)
    _check_output(output, resume=resume, force=force)
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    accelerator = Accelerator(mixed_precision="no")
    dtype = _dtype(config, accelerator)
    inputs = open_inputs(config, offline=offline)
    pairs = read_training_pairs(config, inputs)
    if pairs.bad:
        _say(accelerator, f"dropped {len(pairs.bad)} rows; rejected.jsonl in the output lists them")
    identity = run_identity(config, inputs, pairs, dtype, accelerator.num_processes)
    store = CheckpointStore(output / "checkpoints", identity)
    if resume and not store.steps() and (output / RUN_FILE).exists():
        _say(accelerator, f"'{output}' is finished; nothing to resume")
        return output
    with _only_run(store.folder, accelerator):
        state = _start(store, accelerator, resume=resume)
        trainer = _trainer(config, inputs, pairs, accelerator, store, dtype)
        if state is not None:
            trainer.restore(state)
        _say(accelerator, _headline(trainer, pairs, accelerator, dtype))
        _run(trainer, accelerator)
        if accelerator.is_main_process:
            write_adapter(output, config, inputs, pairs, trainer, identity)
    accelerator.wait_for_everyone()
    _say(accelerator, f"adapter written to '{output}'; next: edgedsl export")
    return output


def _check_output(output: Path, *, resume: bool, force: bool) -> None:
    if resume and force:
        raise TrainingError("--resume and --force exclude each other", hint="--resume goes on, --force starts again")
    if not output.exists():
        return
    if not output.is_dir() or any(path.name not in _names_of_a_run(output) for path in output.iterdir()):
        raise TrainingError(
            f"'{output}' exists and is not an adapter of edgedsl; it would be replaced",
            hint="let [train] output name another folder",
        )
    if resume or force:
        return
    if (output / RUN_FILE).exists():
        raise TrainingError(
            f"'{output}' holds a finished adapter", hint="--force trains again; [train] output names another folder"
        )
    if list(output.glob("checkpoints/step-*")):
        raise TrainingError(f"'{output}' holds an unfinished run", hint="go on with --resume, or start with --force")


def _names_of_a_run(output: Path) -> set[str]:
    """What may be in the folder: anything when a finished run wrote it, else its checkpoints."""
    finished = (output / RUN_FILE).exists() and (output / "adapter_config.json").exists()
    return {path.name for path in output.iterdir()} if finished else {"checkpoints"}


def _dtype(config: Config, accelerator: Accelerator) -> torch.dtype:
    device = accelerator.device
    if config.train.quantization == "4bit":
        hardware.require_cuda_for_4bit(device)
    dtype = hardware.choose_dtype(config.train.precision, device)
    if dtype == torch.bfloat16 and device.type == "cpu" and not hardware.cpu_has_bf16():
        _say(accelerator, "warning: this CPU emulates bf16, which is many times slower than fp32")
    return dtype


@contextmanager
def _only_run(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep a second process from training into the same folder; the lock dies with the process."""
    if not accelerator.is_main_process:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise TrainingError(
            f"another process is training into '{folder.parent}'", hint="wait for it, or set [train] output"
        ) from exc
    finally:
        os.close(descriptor)


def _start(store: CheckpointStore, accelerator: Accelerator, *, resume: bool) -> TrainState | None:
    if accelerator.is_main_process:
        store.clear(leftovers_only=resume)
        output = store.folder.parent
        for path in output.parent.glob(f".{output.name}.new-*"):
            shutil.rmtree(path, ignore_errors=True)
    accelerator.wait_for_everyone()
    return store.load_state() if resume else None


def _trainer(
    config: Config,
    inputs: ProjectInputs,
    pairs: TrainingPairs,
    accelerator: Accelerator,
    store: CheckpointStore,
    dtype: torch.dtype,
) -> Trainer:
    section = config.train
    examples = encode(pairs.train, inputs.tokenizer, inputs.template)
    base = lora.load_base(inputs.base.path, section, dtype, accelerator.device)
    _check_fit(base, examples)
    model = lora.add_lora(base, section, config.project.base_model)
    if section.init_adapter:
        _go_on_from(config.path(section.init_adapter), model, config, inputs)
    decoded = spread(pairs.dev, section.eval_rows)
    measured = encode(spread(pairs.dev, section.eval_loss_rows), inputs.tokenizer, inputs.template)
    # An answer longer than every target is wrong however it goes on.
    longest = max((len(inputs.tokenizer.encode_plain(pair.target)) for pair in decoded), default=0) + 1
    decoder = TorchDecoder(model, inputs.tokenizer, inputs.template, inputs.compile(), accelerator.device)
    evaluator = Evaluator(accelerator, decoder, measured, decoded, section.batch_size, longest)
    return Trainer(model, examples, section, accelerator, evaluator, store, dtype)


def _go_on_from(adapter: Path, model: Any, config: Config, inputs: ProjectInputs) -> None:
    run = read_run(adapter)
    check_base(run, weights_digest(inputs.base.path), config.project.base_model)
    before = run["config"]["train"]
    # lora_alpha and quantization leave no trace in the shapes, but the weights mean nothing under others.
    for name in ("r", "lora_alpha", "quantization"):
        if before[name] != getattr(config.train, name):
            raise TrainingError(
                f"the adapter '{adapter}' was trained with [train] {name} = {before[name]!r}, "
                f"the project has {getattr(config.train, name)!r}",
                hint=f"set [train] {name} = {json.dumps(before[name])}, or leave init_adapter out",
            )
    lora.load_adapter_tensors(model, read_tensors(adapter / ADAPTER_FILE))


def _check_fit(model: Any, examples: Sequence[Example]) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(example.num_tokens for example in examples)
    if context is not None and longest > context:
        raise DataError(
            f"the longest pair has {longest} tokens, the model's context {context}",
            hint=f"set [data] max_tokens = {context}",
        )


def _run(trainer: Trainer, accelerator: Accelerator) -> None:
    try:
        trainer.run()
    except Interrupted as exc:
        _say(accelerator, f"stopped after step {exc}; go on with 'edgedsl train --resume'")
        raise
    except torch.OutOfMemoryError as exc:
        raise TrainingError(
            f"out of memory at step {trainer.state.step + 1}",
            hint="lower batch_size (and raise gradient_accumulation), or set gradient_checkpointing = true, in [train]",
        ) from exc


def _headline(trainer: Trainer, pairs: TrainingPairs, accelerator: Accelerator, dtype: torch.dtype) -> str:
    num_parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    resumed = f", resumed after step {trainer.state.step}" if trainer.state.step else ""
    return (
        f"training {num_parameters / 1e6:.1f} M LoRA parameters on {len(pairs.train)} pairs, "
        f"{trainer.total_steps} steps, {accelerator.num_processes} x {accelerator.device.type}, "
        f"{str(dtype).removeprefix('torch.')}{resumed}"
    )


def _say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
