"""The fused exporter: our own graph of ONNX Runtime's fused operators, written from the weights without tracing."""

from edgedsl.exporters.fused.exporter import FusedExporter
from edgedsl.exporters.fused.plan import uncovered

__all__ = ["FusedExporter", "uncovered"]
