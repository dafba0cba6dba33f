"""The weights that all contestants share: adapter and base model merged, fp32, as a Hugging Face folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.basemodels.model import check_folder, digest
from edgedsl.bundle.manifest import Manifest
from edgedsl.config import Config
from edgedsl.errors import ConfigError, ModelError
from edgedsl.prompt import PromptTemplate

_IDENTITY = "weights.json"


@dataclass(frozen=True)
class Weights:
    """What a merged folder was made from.

    Attributes:
        adapter_sha256: of the adapter's weights; a bundle's manifest has it too.
    """

    base_model: str
    base_sha256: str
    adapter_sha256: str


def write_weights(config: Config, output: Path, *, offline: bool = False) -> Weights:
    """Merge a project's adapter into its base model, unless ``output`` holds just that.

    The folder gets the tokenizer of the adapter, which is the one that the bundle has.

    Raises:
        ModelError: no finished adapter, or one of another base model.
    """
    from edgedsl.exporters.source import adapter_source

    adapter = config.path(config.export.adapter or config.train.output)
    try:
        found = read_weights(output)
        if found.adapter_sha256 == digest(adapter / "adapter_model.safetensors"):
            return found
    except (ConfigError, OSError):
        pass
    source = adapter_source(config, offline=offline)
    weights = Weights(source.base_name, source.base_sha256, source.adapter_sha256)
    merged = source.load().merge_and_unload()
    merged.config.use_cache = True
    with atomic.staged_directory(output) as staging:
        merged.save_pretrained(staging)
        (staging / "tokenizer.json").write_bytes(source.files["tokenizer.json"])
        atomic.write_json(staging / "tokenizer_config.json", _settings(json.loads(source.files["prompt.json"])))
        atomic.write_json(staging / _IDENTITY, asdict(weights))
    return weights


def _settings(template: Any) -> dict[str, Any]:
    """What transformers needs to load just that tokenizer, with the end token of our prompt."""
    end = PromptTemplate.from_dict(template).end[0]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
    }


def read_weights(folder: Path) -> Weights:
    """What a merged folder was made from.

    Raises:
        ConfigError: no such folder.
    """
    try:
        check_folder(folder)
        return Weights(**json.loads((folder / _IDENTITY).read_text(encoding="utf-8")))
    except (ModelError, OSError, ValueError, TypeError) as exc:
        raise ConfigError(
            f"'{folder}' holds no merged weights: {exc}",
            hint="python -m edgedsl.bench.peers weights --project PROJECT --output FOLDER",
        ) from exc


def check_same(weights: Weights, manifest: Manifest) -> None:
    """Refuse a bundle of other weights.

    Raises:
        ConfigError: the adapter is another one.
    """
    if manifest.model.adapter_sha256 != weights.adapter_sha256:
        raise ConfigError(
            f"bundle '{manifest.name}' was made from another adapter than the merged weights",
            hint="export the project again, or merge the adapter that the bundle was made from",
        )
