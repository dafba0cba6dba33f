"""What an exporter is: a torch model in, an ONNX graph on disk out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class ExportedGraph:
    """An fp32 graph with its weights in ``path`` or beside it.

    Attributes:
        path: the .onnx file.
        kv_layout: ``shared`` or ``growing``, see :class:`edgedsl.runtime.decoder.Decoder`.
    """

    path: Path
    kv_layout: str


class Exporter(Protocol):
    """One way from a transformers causal language model to a graph.

    Inputs: ``input_ids``, ``attention_mask`` (int64), ``past_key_values.N.key`` and ``.value``; outputs: ``logits``,
    ``present.N.key`` and ``.value`` (fp32).
    """

    name: str

    def export(self, model: Any, folder: Path, *, context_length: int) -> ExportedGraph:
        """Write the graph of a merged fp32 model into ``folder``.

        Raises:
            ExportError: the architecture is not supported by this exporter.
        """
        ...
