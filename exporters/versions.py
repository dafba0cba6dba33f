"""The versions of the packages that a bundle was made with."""

from __future__ import annotations

from edgedsl.machine import version

PACKAGES = (
    "edgedsl", "torch", "transformers", "peft", "optimum-onnx", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu",
    "llguidance", "lark",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {name: version(name) for name in PACKAGES}
    return {name: text for name, text in found.items() if text}
