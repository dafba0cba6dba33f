"""Each peer's own model file, built from the merged weights once and kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedsl.bench.peers.gguf_file import write_gguf
from edgedsl.bench.peers.process import WorkerProcess
from edgedsl.bench.peers.specs import PEERS, Spec, log_of, python_of
from edgedsl.bench.peers.weights import Weights
from edgedsl.errors import ExportError, GenerationError

Say = Callable[[str], None]
_BUILD_TIMEOUT_S = 3600.0
# What onnxruntime-genai's model builder is told: activations in int8.
_GENAI_OPTIONS: dict[str, Any] = {"accuracy_level": 4, "block_size": 32}
_GRAPHS = {"enable_cuda_graph": "true"}
_LAST_LOGITS = {"prune_lm_head": "true"}  # the head on a prompt's last token only, which drafts cannot do with


def module_of(peer: str) -> Path:
    """File of a peer's half of the worker."""
    return Path(__file__).parent / PEERS[peer].module


def build(spec: Spec, folder: Path, merged: Path, weights: Weights, num_threads: int, say: Say) -> Path:
    """The model that a contestant opens, built where it is missing; the merged folder for transformers.

    Raises:
        ExportError: the peer cannot build it.
    """
    if spec.program == "transformers":
        return merged
    models = folder / spec.peer / "models" / weights.adapter_sha256[:12]
    models.mkdir(parents=True, exist_ok=True)
    if spec.program == "genai":
        device = PEERS[spec.peer].device
        settings: dict[str, Any] = {"merged": str(merged), "quantization": spec.quantization, "device": device}
        settings["options"] = _genai_options(spec)
        return _built(spec, folder, models / _genai_name(spec), settings, say)
    source = _gguf(merged, models, say)
    if spec.quantization == "f16":
        return source
    settings = {"gguf": str(source), "quantization": spec.quantization, "num_threads": num_threads}
    return _built(spec, folder, models / f"{spec.quantization}.gguf", settings, say)


def _is_drafted(spec: Spec) -> bool:
    return "speculative" in spec.settings()


def _has_graphs(spec: Spec) -> bool:
    return "cuda_graphs" in spec.settings()


def _genai_name(spec: Spec) -> str:
    traits = {"drafted": _is_drafted(spec), "graphs": _has_graphs(spec)}
    return "-".join([spec.quantization, *(name for name, is_there in traits.items() if is_there)])


def _genai_options(spec: Spec) -> dict[str, Any]:
    options = _GENAI_OPTIONS if spec.quantization.startswith("int") else {}
    if _has_graphs(spec):
        options = options | _GRAPHS
    return options if _is_drafted(spec) else options | _LAST_LOGITS


def _gguf(merged: Path, models: Path, say: Say) -> Path:
    target = models / "f16.gguf"
    if not target.exists():
        say("llama-cpp: writing the weights as GGUF, fp16")
        partial = target.with_suffix(".part")
        write_gguf(merged, partial)
        partial.rename(target)
    return target


def _built(spec: Spec, folder: Path, target: Path, settings: dict[str, Any], say: Say) -> Path:
    if target.exists():
        return target
    say(f"{spec.peer}: building {spec.quantization}")
    python, log = python_of(spec.peer, folder), log_of(spec.peer, folder)
    worker = WorkerProcess(python, module_of(spec.peer), settings.get("num_threads", 1), log)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=target.parent))
    try:
        worker.ask({"build": {**settings, "target": str(work / target.name)}}, _BUILD_TIMEOUT_S)
        (work / target.name).rename(target)
    except GenerationError as exc:
        raise ExportError(f"{spec.peer} cannot build {spec.quantization}: {exc.message}") from exc
    finally:
        worker.close()
        shutil.rmtree(work, ignore_errors=True)
    return target
