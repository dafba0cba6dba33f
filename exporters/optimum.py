"""The portable exporter: optimum's traced graph, with attention fused where the architecture is known."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgedsl.errors import ExportError, first_line
from edgedsl.exporters.attention import fuse_attention, is_fusable
from edgedsl.exporters.base import ExportedGraph


class OptimumExporter:
    """Any decoder-only architecture that optimum-onnx knows."""

    name = "optimum"

    def export(self, model: Any, folder: Path, *, context_length: int) -> ExportedGraph:
        """See :class:`~edgedsl.exporters.base.Exporter`."""
        path = self._trace(model, folder)
        if not is_fusable(model.config):
            return ExportedGraph(path, "growing")
        graph = onnx.load(path)
        cos, sin = rotary_tables(model, context_length)
        try:
            fuse_attention(graph, model.config, cos, sin)
        except KeyError as exc:
            raise ExportError(
                f"the traced graph of '{model.config.model_type}' has no node {exc}",
                hint="report this with your versions",
            ) from exc
        save_graph(graph, path)
        return ExportedGraph(path, "shared")

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


def rotary_tables(model: Any, context_length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The model's own cosines and sines, [context_length, head_dim / 2] each: whatever its rotary scaling is."""
    rotary = model.model.rotary_emb
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(context_length)[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half].float().numpy().copy(), sin[0, :, :half].float().numpy().copy()


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights beside it in NAME.data."""
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)
    onnx.save(
        graph, path, save_as_external_data=True, all_tensors_to_one_file=True, location=data.name, size_threshold=1024
    )


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
