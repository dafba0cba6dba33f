"""Quantised forms of one model: each recipe's graph with what belongs to it, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from edgedsl import atomic
from edgedsl.bundle.manifest import ModelInfo
from edgedsl.exporters.base import ExportedGraph
from edgedsl.exporters.calibration import Inputs, input_channels, input_moments
from edgedsl.exporters.fidelity import Fidelity
from edgedsl.exporters.fused.on_device import to_device
from edgedsl.exporters.passes.fuse_products import fuse_products
from edgedsl.exporters.passes.graph import save_graph
from edgedsl.exporters.passes.part_head import can_part, part_head
from edgedsl.exporters.passes.row_attention import use_row_attention
from edgedsl.exporters.passes.trim_head import trim_head
from edgedsl.exporters.prefix import write_prefix
from edgedsl.exporters.quality import Quality
from edgedsl.exporters.quantize import quantize_model
from edgedsl.exporters.recipes import HALF, RECIPES, kv_dtype
from edgedsl.exporters.smoothing import smooth
from edgedsl.exporters.w8a8 import noise, quantize_products
from edgedsl.runtime.head import FILE_NAME as HEAD_FILE
from edgedsl.runtime.head import Head

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Calibration:
    """What the recipes have to know of the model's inputs.

    Attributes:
        moments: see :func:`~edgedsl.exporters.calibration.input_moments`; empty where no recipe asks for them.
        inputs: see :func:`~edgedsl.exporters.calibration.input_channels`; the same.
    """

    moments: Mapping[str, torch.Tensor]
    inputs: Mapping[str, Inputs]

    @classmethod
    def of(cls, model: Any, names: Sequence[str], rows: Callable[[], Rows], num_prefix: int) -> Calibration:
        """Run a torch model on rows, as far as the recipes of these names need it.

        Args:
            model: merged, fp32.
            names: of recipes.
            rows: makes the token rows.
            num_prefix: leading tokens of each row that a bundle computes in fp32.
        """
        recipes = [recipe for name in names if (recipe := RECIPES[name])]
        needs_moments = any(recipe.method == "gptq" for recipe in recipes)
        needs_inputs = any(recipe.integer_for or recipe.method == "kquant" for recipe in recipes)
        return cls(
            input_moments(model, rows()) if needs_moments else {},
            input_channels(model, rows(), num_prefix) if needs_inputs else {},
        )

    @property
    def importance(self) -> dict[str, torch.Tensor]:
        """Node name -> mean squares of its input channels."""
        return {name: inputs.mean_square for name, inputs in self.inputs.items()}


@dataclass(frozen=True)
class Writer:
    """Writes candidates.

    Attributes:
        graph: the fp32 graph.
        info: of the model.
        calibration: what the recipes need.
        prefix_token_ids: tokens that every prompt begins with; empty writes no prefix.
        rows: token rows that begin with them.
        vocab_size: of the tokenizer.
        head: the tokens that have a logit; None for all.
    """

    graph: ExportedGraph
    info: ModelInfo
    calibration: Calibration
    prefix_token_ids: Sequence[int]
    rows: Rows
    vocab_size: int
    head: Head | None = None

    def info_of(self, name: str) -> ModelInfo:
        """What the manifest says of a recipe's model."""
        return replace(self.info, quantization=name, kv_dtype=kv_dtype(name))

    def write(self, name: str, folder: Path) -> None:
        """Write model.onnx, its data, the prefix, and the head's tokens and files into a new folder.

        Raises:
            ExportError: a weight that the recipe cannot take, or a prefix that is not exact.
        """
        folder.mkdir()
        recipe, path, model = RECIPES[name], self.graph.path, onnx.load(self.graph.path)
        inputs: Mapping[str, Inputs] = {}
        if recipe and recipe.integer_for:
            known = self.calibration.inputs.items()
            inputs = smooth(model, {node: found for node, found in known if recipe.is_integer(node)}, noise)
            path = folder / "model.onnx"  # the fp32 graph of this prefix; what is served takes its place
            save_graph(model, path)
            model = onnx.load(path)
        if self.prefix_token_ids and self.graph.kv_layout == "shared":
            write_prefix(path, self.info, self.prefix_token_ids, self.rows, folder, self.vocab_size)
        quantize_products(model, inputs)
        if recipe:
            quantize_model(model, recipe, self.calibration.moments, self.calibration.importance)
        if name in HALF:
            to_device(model, HALF[name], self.info.context_length)
        served = ir.from_proto(model)
        if recipe and recipe.is_native:
            fuse_products(served)
            use_row_attention(served)
        if can_part(served):
            part_head(served, folder, self.head.token_ids if self.head else None)
        elif self.head:
            trim_head(served, self.head.token_ids)
        if self.head:
            atomic.write_bytes(folder / HEAD_FILE, self.head.pack(self.vocab_size))
        save_graph(served, folder / "model.onnx")


@dataclass(frozen=True)
class Candidate:
    """A recipe as it would be served.

    Attributes:
        recipe: its name.
        quality: on the dev pairs.
        e2el_ms: median of a whole answer on this machine.
        num_bytes: of graph, weights and prefix.
        changed_share: answers that drafts change; None without drafts.
        fidelity: to the fp32 graph, where that was compared first.
    """

    recipe: str
    quality: Quality
    e2el_ms: float
    num_bytes: int
    changed_share: float | None
    fidelity: Fidelity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        measured = {"e2el_ms_p50": round(self.e2el_ms, 2), "num_bytes": self.num_bytes}
        compared = {"fidelity": self.fidelity.to_dict()} if self.fidelity else {}
        return {**self.quality.to_dict(), **measured, "drafts_change": self.changed_share, **compared}


def choose(candidates: Sequence[Candidate], least: float) -> Candidate:
    """The fastest of those whose exact match is at least ``least``, else the best."""
    good = [candidate for candidate in candidates if candidate.quality.exact_match >= least]
    if good:
        return min(good, key=lambda candidate: candidate.e2el_ms)
    return max(candidates, key=lambda candidate: candidate.quality.exact_match)
