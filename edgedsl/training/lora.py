"""The model that learns: a frozen base with LoRA matrices, and logits only where a target token is predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from transformers import BitsAndBytesConfig

from edgedsl import atomic
from edgedsl.basemodels.load import load_causal_lm, without_old_names
from edgedsl.config import TrainSection
from edgedsl.errors import ModelError, TrainingError
from edgedsl.training.batches import Batch


def load_base(folder: Path, section: TrainSection, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a causal language model from a folder, in 4 bits where the section says so.

    Raises:
        ModelError: the folder holds no such model.
    """
    quantization = None
    if section.quantization == "4bit":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            # The export puts the adapter on these weights again, computed without bitsandbytes: plain maxima make
            # that exact.
            bnb_4bit_use_double_quant=False,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return load_causal_lm(
        folder, dtype, quantization_config=quantization, device_map={"": device} if quantization else None
    )


def add_lora(model: Any, section: TrainSection, base_name: str) -> PeftModel:
    """Freeze the base and add LoRA matrices (fp32), initialised from the seed.

    Raises:
        TrainingError: ``target_modules`` names no layer of the model.
    """
    if section.quantization == "4bit":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if section.gradient_checkpointing:
        _recompute_activations(model)
    names = section.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=names if names == "all-linear" else [name.strip() for name in names.split(",") if name.strip()],
    )
    torch.manual_seed(section.seed)
    try:
        with without_old_names():
            peft_model = get_peft_model(model, config)
    except ValueError as exc:
        raise TrainingError(
            f"LoRA cannot be added to [train] target_modules = '{names}': {exc}", hint='"all-linear" fits every model'
        ) from exc
    # peft wrote down the folder of this machine.
    peft_model.peft_config["default"].base_model_name_or_path = base_name
    return peft_model


def _recompute_activations(model: Any) -> None:
    # Of the two names of one thing, transformers 4 has only the first, and 5 warns of it.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The LoRA matrices under their standard names, on the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def load_adapter_tensors(model: PeftModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of :func:`adapter_tensors`.

    Raises:
        TrainingError: the tensors belong to another adapter.
    """
    known = adapter_tensors(model)
    if {name: t.shape for name, t in known.items()} != {name: t.shape for name, t in tensors.items()}:
        raise TrainingError(
            "the weights to go on from are those of another adapter: other layers, or another rank",
            hint="set [train] target_modules and r to what they were, or start again with --force",
        )
    set_peft_model_state_dict(model, dict(tensors))


def write_adapter_config(model: PeftModel, folder: Path) -> None:
    """Write adapter_config.json as peft does, but with its sets in a fixed order."""
    document = model.peft_config["default"].to_dict()
    document["inference_mode"] = True
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in document.items()}
    atomic.write_text(folder / "adapter_config.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")


class TargetHead:
    """Makes the model's output layer see only the positions that predict a target token.

    The output layer is a fifth of a small model's work and its logits are the largest tensor of a step. A hook on
    the layer works for every architecture, also for those that scale or cap the logits afterwards.
    """

    def __init__(self, model: PeftModel) -> None:
        head = model.get_base_model().get_output_embeddings()
        if head is None:
            raise ModelError("the model has no output layer", hint="choose a decoder-only language model")
        self._positions: torch.Tensor | None = None
        head.register_forward_pre_hook(self._gather)

    @contextmanager
    def only(self, positions: torch.Tensor) -> Iterator[None]:
        """Inside, logits have the shape [1, num_positions, vocab]; positions count in the flattened batch."""
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def _gather(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        hidden = args[0]  # [batch, width, hidden]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions).unsqueeze(0), *args[1:])


def target_loss(model: Any, head: TargetHead, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """Sum of the cross-entropy over the target tokens of a batch, in nats (0-d fp32)."""
    device = batch.input_ids.device
    with head.only(batch.positions), torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits[0]  # [num_targets, vocab]
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
