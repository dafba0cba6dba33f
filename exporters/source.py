"""Where an export starts: a finished adapter on its base model, or a random stand-in for ``--smoke``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.basemodels import resolve
from edgedsl.basemodels.model import BaseModel, weight_files
from edgedsl.config import Config
from edgedsl.exporters.merge import check_base, load_adapted, read_run

SMOKE_LAYERS = 2


@dataclass(frozen=True)
class Source:
    """What an export needs to know of its beginning.

    Attributes:
        folder: holds tokenizer.json, prompt.json, grammar.lark and, where there is one, catalogue.json.
        load: gives the base model with the adapter attached, fp32, in evaluation mode.
        weight_bytes: fp32 size of the model's weights, roughly.
    """

    folder: Path
    load: Callable[[], Any]
    base_name: str
    base_sha256: str
    adapter_sha256: str
    licence: str
    weight_bytes: int


def adapter_source(config: Config, *, offline: bool) -> Source:
    """The adapter of the project, checked against its base model.

    Raises:
        ModelError: no finished adapter, or one of another base model.
    """
    adapter = config.path(config.export.adapter or config.train.output)
    run = read_run(adapter)
    base = resolve(config.project.base_model, offline=offline)
    base_sha256 = weights_sha256(base.path)
    check_base(run, base_sha256, base.name)
    is_qlora = run["config"]["train"]["quantization"] == "4bit"
    return Source(
        folder=adapter,
        load=(lambda: _smoke_model(base)) if config.export.smoke else (lambda: load_adapted(base.path, adapter, is_qlora=is_qlora)),
        base_name=base.name,
        base_sha256=base_sha256,
        adapter_sha256=_digest(adapter / "adapter_model.safetensors"),
        licence=f"{base.name}: {base.licence} (from {base.source})",
        weight_bytes=sum((base.path / name).stat().st_size for name in weight_files(base.path)),
    )


def weights_sha256(folder: Path) -> str:
    """One digest over the weight files of a model folder, in hex."""
    return hashlib.sha256("".join(_digest(folder / name) for name in weight_files(folder)).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _smoke_model(base: BaseModel) -> Any:
    """Two random layers of the same architecture with a random adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base.path)
    config.num_hidden_layers = SMOKE_LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:SMOKE_LAYERS]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return adapted.eval()
