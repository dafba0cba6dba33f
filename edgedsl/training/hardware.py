"""What the machine computes well: numbers of which width, and whether it can train at all."""

from __future__ import annotations

from pathlib import Path

import torch

from edgedsl.errors import ProviderError

_CPUINFO = Path("/proc/cpuinfo")


def choose_dtype(precision: str, device: torch.device, cpuinfo: Path = _CPUINFO) -> torch.dtype:
    """The dtype of ``auto``, ``fp32`` or ``bf16``.

    ``auto`` takes bfloat16 only where the hardware computes it: elsewhere it is emulated, and on an AVX2 machine
    30 times slower than fp32.

    Raises:
        ProviderError: bf16 was asked for on a CUDA device without it.
    """
    if precision == "fp32":
        return torch.float32
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not supported:
            raise ProviderError(
                "this CUDA device does not compute bf16", hint='set [train] precision = "fp32" or "auto"'
            )
    else:
        supported = cpu_has_bf16(cpuinfo)
    return torch.bfloat16 if precision == "bf16" or supported else torch.float32


def cpu_has_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the CPU multiplies bfloat16 (AVX512-BF16 or AMX); False where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def require_cuda_for_4bit(device: torch.device) -> None:
    """QLoRA runs on CUDA only.

    Raises:
        ProviderError: no CUDA device, or bitsandbytes is missing.
    """
    if device.type != "cuda":
        raise ProviderError("4-bit training (QLoRA) needs a CUDA device", hint='set [train] quantization = "none"')
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as exc:
        raise ProviderError(f"bitsandbytes cannot be loaded: {exc}", hint="pip install 'edgedsl[train]'") from exc
