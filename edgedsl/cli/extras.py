"""Which extra brings a package, for commands that need more than is installed."""

from __future__ import annotations

from edgedsl.errors import ConfigError

# Top-level module -> extra of pyproject.toml.
EXTRAS = {
    "onnxruntime": "cpu",
    **dict.fromkeys(("accelerate", "filelock", "gguf", "huggingface_hub", "onnx", "onnx_ir"), "train"),
    **dict.fromkeys(("optimum", "peft", "safetensors", "torch", "transformers"), "train"),
    "bitsandbytes": "qlora",
    **dict.fromkeys(("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"), "serve"),
    **dict.fromkeys(("httpx", "psutil"), "bench"),
}


def missing_extra(exc: ModuleNotFoundError) -> ConfigError | None:
    """The error to show for a package of an extra that is not installed; ``None`` for any other module."""
    package = (exc.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    hint = f"pip install 'edgedsl[{EXTRAS[package]}]'"
    return ConfigError(f"this command needs the package '{package}', which is not installed", hint=hint)
