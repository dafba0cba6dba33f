"""Where an export starts: a finished adapter on its base model, or a random stand-in for ``--smoke``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from edgedsl.basemodels.load import load_config, without_old_names
from edgedsl.basemodels.model import BaseModel, digest, weight_files, weights_digest
from edgedsl.config import Config
from edgedsl.data.project import open_inputs, resolve_base
from edgedsl.exporters.merge import load_adapted
from edgedsl.grammar.trial import try_compile
from edgedsl.training.record import check_base, read_run

SMOKE_LAYERS = 2
_BY_LAYER = ("layer_types", "no_rope_layers")  # fields of a configuration with an entry for each layer
LANGUAGE_FILES = ("tokenizer.json", "prompt.json", "grammar.lark", "catalogue.json")


@dataclass(frozen=True)
class Source:
    """What an export needs to know of its beginning.

    Attributes:
        files: bundle file -> content, for everything but the model: tokenizer, prompt, grammar, catalogue, licences.
        load: gives the base model with the adapter attached, fp32, in evaluation mode.
        base_name: as the project file spells it.
        adapter_sha256: empty for ``--smoke``.
        weight_bytes: size of the base model's weights in fp32.
    """

    files: Mapping[str, bytes]
    load: Callable[[], Any]
    base_name: str
    base_sha256: str
    adapter_sha256: str
    weight_bytes: int


def adapter_source(config: Config, *, offline: bool) -> Source:
    """The adapter of the project, checked against its base model.

    Raises:
        ModelError: no finished adapter, or one of another base model.
    """
    adapter = config.path(config.export.adapter or config.train.output)
    run = read_run(adapter)
    base = resolve_base(config, offline=offline)
    base_sha256 = weights_digest(base.path)
    check_base(run, base_sha256, config.project.base_model)
    is_qlora = run["config"]["train"]["quantization"] == "4bit"
    present = [name for name in LANGUAGE_FILES if (adapter / name).is_file()]
    return Source(
        files={name: (adapter / name).read_bytes() for name in present} | _licences(config, base),
        load=lambda: load_adapted(base.path, adapter, is_qlora=is_qlora),
        base_name=config.project.base_model,
        base_sha256=base_sha256,
        adapter_sha256=digest(adapter / "adapter_model.safetensors"),
        weight_bytes=_fp32_bytes(base.path),
    )


def smoke_source(config: Config, *, offline: bool) -> Source:
    """The project's own language with two random layers of the base model's architecture; needs no adapter.

    Raises:
        EdgeDSLError: the project's files or its base model cannot be used.
    """
    catalogue = config.path(config.project.catalogue) if config.project.catalogue else None
    try_compile(config.path(config.project.grammar), catalogue)  # in a child, before it is compiled here
    inputs = open_inputs(config, offline=offline)
    files = {
        "tokenizer.json": inputs.tokenizer.json_text.encode(),
        "prompt.json": json.dumps(inputs.template.to_dict(), ensure_ascii=False).encode(),
        "grammar.lark": inputs.grammar_path.read_bytes(),
    }
    if inputs.catalogue_path:
        files["catalogue.json"] = inputs.catalogue_path.read_bytes()
    return Source(
        files=files | _licences(config, inputs.base),
        load=lambda: _smoke_model(inputs.base),
        base_name=config.project.base_model,
        base_sha256=weights_digest(inputs.base.path),
        adapter_sha256="",
        weight_bytes=_fp32_bytes(inputs.base.path),
    )


def _licences(config: Config, base: BaseModel) -> dict[str, bytes]:
    text = f"{config.project.base_model}: {base.licence} (from {base.source})\n"
    files = {"licences/base-model.txt": text.encode()}
    if (base.path / "LICENSE").is_file():
        files["licences/LICENSE"] = (base.path / "LICENSE").read_bytes()
    return files


def _fp32_bytes(folder: Path) -> int:
    """What the weights take in fp32, read from the headers of the weight files."""
    num_weights = 0
    for name in weight_files(folder):
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="np") as file:
                num_weights += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return 4 * num_weights


def _smoke_model(base: BaseModel) -> Any:
    """Two random layers of the same architecture with a random adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = load_config(base.path)
    config.num_hidden_layers = SMOKE_LAYERS
    for name in _BY_LAYER:
        if getattr(config, name, None):
            setattr(config, name, getattr(config, name)[:SMOKE_LAYERS])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with without_old_names():
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return adapted.eval()
