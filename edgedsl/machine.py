"""What this machine is, for bench results, run.json and ``edgedsl doctor``. Holds no host name and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

# The instruction sets that decide which kernels of ONNX Runtime and torch run.
INSTRUCTION_SETS = {
    "avx2": "avx2", "f16c": "f16c", "fma": "fma", "avx_vnni": "avx_vnni",
    "avx512f": "avx512f", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx_tile", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16",
    "asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve", "sve2": "sve2",
}  # fmt: skip

PACKAGES = (
    "edgedsl", "onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "llguidance", "outlines", "lark",
    "torch", "transformers", "peft", "bitsandbytes", "onnx", "optimum-onnx", "fastapi", "uvicorn",
)  # fmt: skip


def fingerprint() -> dict[str, Any]:
    """Facts that a measurement depends on: system, CPU, cores, memory (bytes), GPUs, versions. Plain JSON data."""
    return {
        "os": f"{platform.system()} {platform.release().split('-')[0]}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu_model": cpu_model(),
        "instruction_sets": instruction_sets(),
        "cores": cores(),
        "memory": {"total": memory()["total"]},
        "gpus": gpus(),
        "versions": {name: found for name in PACKAGES if (found := version(name))},
    }


def version(package: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The name the CPU gives itself, or the architecture where it gives none (many ARM boards)."""
    info = _cpuinfo()
    return (
        info.get("model name")
        or info.get("Model")
        or info.get("Hardware")
        or platform.processor()
        or platform.machine()
    )


def instruction_sets() -> list[str]:
    """Those of :data:`INSTRUCTION_SETS` that the CPU has and the kernel shows."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in flags]


def cores() -> dict[str, Any]:
    """``logical`` and ``physical`` cores; those this process may run on; the CPU time a cgroup allows, in cores."""
    return {
        "logical": os.cpu_count(),
        "physical": _physical_cores(),
        "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cgroup_limit": _cgroup_cpus(),
    }


def memory() -> dict[str, int | None]:
    """Bytes: ``total`` (the smaller of the machine's and the cgroup's limit) and ``available``."""
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(Path("/proc/meminfo")), re.MULTILINE))
    total = int(sizes["MemTotal"]) * 1024 if "MemTotal" in sizes else None
    available = int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None
    limit, used = _cgroup_memory()
    if limit and total and limit < total:
        total = limit
        available = min(available or limit, max(limit - used, 0))
    return {"total": total, "available": available}


def disk_free(path: Path) -> int | None:
    """Bytes free where ``path`` is or would be made; None when that cannot be told."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def gpus() -> list[str]:
    """Models of the NVIDIA GPUs that the kernel driver shows."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [found[1].strip() for file in files if (found := re.search(r"^Model:\s*(.+)$", _read(file), re.MULTILINE))]


def nvidia_driver() -> str | None:
    """Version of the NVIDIA kernel driver."""
    found = re.search(r"Kernel Module\D*?(\d+\.\d[\d.]*)", _read(Path("/proc/driver/nvidia/version")))
    return found[1] if found else None


@cache
def _cpuinfo() -> dict[str, str]:
    """First value of each key: the cores of a machine rarely differ, and then the first is the one that boots."""
    info: dict[str, str] = {}
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return info


def _physical_cores() -> int | None:
    pattern = "cpu[0-9]*/topology/thread_siblings_list"
    return len({_read(file) for file in Path("/sys/devices/system/cpu").glob(pattern)}) or None


def _cgroup_cpus() -> float | None:
    limits = []
    for folder in _cgroup_folders("cpu"):
        if found := re.match(r"(\d+) (\d+)", _read(folder / "cpu.max")):
            limits.append(int(found[1]) / int(found[2]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            limits.append(quota / period)
    return round(min(limits), 3) if limits else None


def _cgroup_memory() -> tuple[int | None, int]:
    """The tightest limit and what is used of it, in bytes."""
    found = []
    for folder in _cgroup_folders("memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            if limit := _number(folder / limit_name):
                found.append((limit, _number(folder / used_name) or 0))
    return min(found) if found else (None, 0)


def _cgroup_folders(controller: str, root: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Folders of this process's cgroup (v2, or v1 of one controller) from the leaf up: each may hold a limit."""
    folders: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, controllers, name = [*line.split(":", 2), "", ""][:3]
        if number == "0" or controller in controllers.split(","):
            base = root if number == "0" else root / controller
            leaf = base / name.lstrip("/")
            # Inside a container the name may be that of the host, and then only the root is to be seen.
            folders += [folder for folder in (leaf, *leaf.parents) if folder == base or base in folder.parents]
    return folders


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
