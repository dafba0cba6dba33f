"""ONNX Runtime sessions on the execution provider that was asked for, and on no other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgedsl.errors import BundleError, ProviderError, first_line
from edgedsl.runtime import kernels

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"  # for edgedsl.runtime.placement
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class ThreadSettings:
    """How a model call uses cores.

    Attributes:
        num_threads: of a call; 0 takes every core.
        is_spinning: whether threads wait for the next operator with their core in hand, during a call.
    """

    num_threads: int = 0
    is_spinning: bool = True


def make_session(
    model_path: Path,
    *,
    execution_provider: str,
    threads: ThreadSettings,
    captures_graphs: bool = False,
    is_native: bool = False,
) -> ort.InferenceSession:
    """Load a model, and check that the provider asked for is the one that runs.

    Args:
        model_path: of model.onnx.
        execution_provider: cpu or cuda.
        threads: how it uses cores.
        captures_graphs: on cuda, whether runs with a ``gpu_graph_id`` are captured and replayed.
        is_native: the graph has operators of edgedsl's own.

    Raises:
        ProviderError: unknown or unusable execution provider, or own operators that do not run here; there is no
            fall-back.
        BundleError: ONNX Runtime cannot load the model.
    """
    name = _provider_name(execution_provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.num_threads or available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.is_spinning)))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Between calls the threads must leave the box alone.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    if is_native:
        kernels.register(options)
    provider_options = {"enable_cuda_graph": "1"} if captures_graphs else {}
    try:
        session = ort.InferenceSession(str(model_path), options, providers=[(name, provider_options)])
    except Exception as exc:  # ONNX Runtime raises many classes of its own
        if execution_provider != "cpu":
            raise ProviderError(
                f"execution provider '{execution_provider}' cannot run: {first_line(exc)}", hint="run 'edgedsl doctor'"
            ) from exc
        raise BundleError(
            f"ONNX Runtime cannot load '{model_path.name}': {first_line(exc)}", hint="export the bundle again"
        ) from exc
    if session.get_providers()[0] != name:
        raise ProviderError(
            f"execution provider '{execution_provider}' was asked for, ONNX Runtime took {session.get_providers()[0]}",
            hint="run 'edgedsl doctor'",
        )
    return session


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _provider_name(execution_provider: str) -> str:
    if execution_provider not in PROVIDERS:
        raise ProviderError(f"execution provider is '{execution_provider}', expected one of {', '.join(PROVIDERS)}")
    name = PROVIDERS[execution_provider]
    if execution_provider == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    available: list[Any] = ort.get_available_providers()
    if name not in available:
        raise ProviderError(
            f"execution provider '{execution_provider}' was asked for, this ONNX Runtime has {', '.join(available)}",
            hint="install edgedsl[gpu] in a fresh environment, or ask for cpu; 'edgedsl doctor' says more",
        )
    return name
