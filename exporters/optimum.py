"""The portable exporter: optimum's traced graph, rewritten by the passes of :mod:`edgedsl.exporters.passes`."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from packaging.requirements import Requirement

from edgedsl.errors import ExportError, first_line
from edgedsl.exporters.base import ExportedGraph
from edgedsl.exporters.passes.fold_constants import fold_constants
from edgedsl.exporters.passes.fuse_attention import fuse_attention, is_fusable
from edgedsl.exporters.passes.fuse_norm import fuse_norm
from edgedsl.exporters.passes.graph import load_graph, save_graph
from edgedsl.exporters.passes.last_logits import take_last_logits
from edgedsl.exporters.passes.pack_qkv import pack_qkv
from edgedsl.exporters.passes.untie_head import untie_head
from edgedsl.machine import version


class OptimumExporter:
    """Any decoder-only architecture that optimum-onnx knows."""

    name = "optimum"

    def __init__(self) -> None:
        """Look before anything is measured.

        Raises:
            ExportError: optimum-onnx does not take the installed transformers.
        """
        _check_transformers()

    def export(self, model: Any, folder: Path, *, context_length: int) -> ExportedGraph:
        """See :class:`~edgedsl.exporters.base.Exporter`."""
        path = self._trace(model, folder)
        graph = load_graph(path)
        is_shared = is_fusable(model.config)
        if is_shared:
            _fuse_attention(graph, model, context_length)
        fold_constants(graph)
        fuse_norm(graph)
        pack_qkv(graph)
        untie_head(graph)
        take_last_logits(graph)
        save_graph(graph, path)
        return ExportedGraph(path, "shared" if is_shared else "growing")

    def _trace(self, model: Any, folder: Path) -> Path:
        from optimum.exporters.onnx import main_export

        # optimum prepares a model that it loads itself for tracing with a cache; one handed over in memory loses the
        # cache inputs.
        merged = folder / "merged"
        try:
            with _quiet():
                model.save_pretrained(merged)
                main_export(
                    str(merged), folder, task="text-generation-with-past", opset=18, dtype="fp32", device="cpu",
                    do_validation=False, no_post_process=True, local_files_only=True,
                )  # fmt: skip
        except OSError:  # the disk, which the pipeline speaks about
            raise
        except Exception as exc:  # optimum, torch and safetensors raise many classes
            raise ExportError(
                f"optimum cannot export '{model.config.model_type}': {first_line(exc)}",
                hint="take a base model of an architecture that optimum-onnx knows",
            ) from exc
        shutil.rmtree(merged)
        return folder / "model.onnx"


def _check_transformers() -> None:
    try:
        lines = metadata.requires("optimum-onnx") or []
    except metadata.PackageNotFoundError:  # the import says which extra brings it
        return
    found = version("transformers")
    for wanted in map(Requirement, lines):
        if found and wanted.name == "transformers" and not wanted.marker and found not in wanted.specifier:
            raise ExportError(
                f"optimum's graph needs {wanted}, and transformers {found} is installed",
                hint=f"pip install '{wanted}', or take a base model that the fused graph covers",
            )


def _fuse_attention(graph: ir.Model, model: Any, context_length: int) -> None:
    try:
        fuse_attention(graph, model.config, *rotary_tables(model, context_length))
    except KeyError as exc:
        raise ExportError(
            f"the traced graph of '{model.config.model_type}' has no node {exc}", hint="report this with your versions"
        ) from exc


def rotary_tables(model: Any, context_length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The model's own cosines and sines, [context_length, head_dim / 2] each: whatever its rotary scaling is."""
    rotary = model.model.rotary_emb
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(context_length)[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().numpy().copy(), sin[0, :, :half].float().numpy().copy()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the tracer says about every traced branch; real failures are exceptions."""
    loggers = [logging.getLogger(name) for name in ("optimum", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
