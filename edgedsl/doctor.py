"""What is wrong with this machine for edgedsl, and how to mend each thing. Looks; changes nothing, fetches nothing."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgedsl import machine, provider_probe
from edgedsl.provider_probe import Probe
from edgedsl.runtime import kernels

GIB = 1024**3
MIN_CUDA_DRIVER = 580  # the first driver series of CUDA 13, which onnxruntime-gpu 1.31 is built for
_PYTHONS = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Problem:
    """``error``: programs cannot be generated here. ``warning``: they can, but something is worse or absent."""

    level: Literal["error", "warning"]
    message: str
    mend: str


@dataclass(frozen=True)
class Part:
    """An extra of the package, or its core (empty name).

    Attributes:
        missing: names of requirements that are not installed.
        mismatched: requirement and installed version of those that do not agree.
    """

    name: str
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    facts: dict[str, Any]
    probes: tuple[Probe, ...]
    parts: tuple[Part, ...]
    problems: tuple[Problem, ...]

    @property
    def can_run(self) -> bool:
        """Whether an execution provider works and every library of the run wing is there."""
        return not any(problem.level == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"can_run": self.can_run, **asdict(self)}


def diagnose(folder: Path, cache: Path) -> Report:
    """Collect facts, try the execution providers, and judge. ``folder`` and ``cache`` are looked at for free space."""
    facts = {
        **machine.fingerprint(),
        "memory": machine.memory(),
        "disk_free": {"here": machine.disk_free(folder), "cache": machine.disk_free(cache)},
        **_nvidia(),
        "wheel_providers": list(provider_probe.available()),
        "operators_missing": kernels.is_covered() and not kernels.LIBRARY.exists(),
    }
    wanted = provider_probe.PROVIDERS if _wants_cuda(facts) else provider_probe.PROVIDERS[:1]
    probes = tuple(provider_probe.probe(provider) for provider in wanted)
    parts = tuple(
        _part(name) for name in ("", "gpu" if machine.version("onnxruntime-gpu") else "cpu", "serve", "train", "bench")
    )
    return Report(facts, probes, parts, tuple(find_problems(facts, probes, parts)))


def find_problems(facts: dict[str, Any], probes: tuple[Probe, ...], parts: tuple[Part, ...]) -> list[Problem]:
    """Judge what was found; pure, so that every machine can be told about on every machine."""
    return [*_python(facts), *_wheels(facts), *_providers(facts, probes), *_requirements(parts), *_hardware(facts)]


def _python(facts: dict[str, Any]) -> list[Problem]:
    major, minor = (int(item) for item in facts["python"].split(".")[:2])
    if _PYTHONS[0] <= (major, minor) <= _PYTHONS[1]:
        return []
    return [
        Problem(
            "warning", f"Python {facts['python']} is not among 3.11 to 3.13", "make the environment with one of these"
        )
    ]


def _wheels(facts: dict[str, Any]) -> list[Problem]:
    versions, has_gpu = facts["versions"], bool(facts["gpus"])
    problems = []
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        mend = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgedsl[{'gpu' if has_gpu else 'cpu'}]'"
        problems.append(
            Problem(
                "warning", "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files", mend
            )
        )
    elif "onnxruntime" in versions and has_gpu:
        mend = "pip uninstall -y onnxruntime && pip install 'edgedsl[gpu]'"
        problems.append(
            Problem("warning", f"{facts['gpus'][0]} is not used: the installed onnxruntime is the CPU build", mend)
        )
    if has_gpu and versions.get("torch", "").endswith("+cpu"):
        mend = "pip uninstall -y torch && pip install torch, a build with CUDA (no '+cpu' in its version)"
        problems.append(
            Problem(
                "warning", f"training will not use {facts['gpus'][0]}: torch {versions['torch']} is a CPU build", mend
            )
        )
    return problems


def _providers(facts: dict[str, Any], probes: tuple[Probe, ...]) -> list[Problem]:
    if not {"onnxruntime", "onnxruntime-gpu"} & facts["versions"].keys():
        mend = f"pip install 'edgedsl[{'gpu' if facts['gpus'] else 'cpu'}]'"
        return [Problem("error", "ONNX Runtime is not installed", mend)]
    failed = [item for item in probes if not item.works]
    level: Literal["error", "warning"] = "error" if len(failed) == len(probes) else "warning"
    return [Problem(level, f"{item.provider} does not run: {item.reason}", _mend(facts, item)) for item in failed]


def _mend(facts: dict[str, Any], probe: Probe) -> str:
    if probe.provider == "CPUExecutionProvider":
        return "pip install --force-reinstall --no-deps onnxruntime (or onnxruntime-gpu, whichever is installed)"
    driver = facts["nvidia_driver"]
    if driver is None:
        return (
            "install the NVIDIA driver, or start the container with its GPU (docker run --gpus all); or stay with cpu"
        )
    if int(driver.split(".")[0]) < MIN_CUDA_DRIVER:
        return f"the NVIDIA driver is {driver}; CUDA 13 needs {MIN_CUDA_DRIVER} or newer: update it"
    return "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgedsl[gpu]' (brings the CUDA 13 libraries)"


def _requirements(parts: tuple[Part, ...]) -> list[Problem]:
    problems = []
    for part in parts:
        if not part.name and part.missing:
            problems.append(Problem("error", f"not installed: {', '.join(part.missing)}", "pip install edgedsl"))
        for wanted, found in part.mismatched:
            problems.append(
                Problem("warning", f"'{wanted}' is needed, and version {found} is installed", f"pip install '{wanted}'")
            )
    return list(dict.fromkeys(problems))


def _hardware(facts: dict[str, Any]) -> list[Problem]:
    problems = []
    cores, memory, disk = facts["cores"], facts["memory"], facts["disk_free"]
    if facts["machine"] == "x86_64" and "avx2" not in facts["instruction_sets"]:
        problems.append(
            Problem(
                "warning",
                "the CPU shows no AVX2, which the fast kernels for quantised models need",
                "in a VM, pass the host's CPU through",
            )
        )
    if facts["operators_missing"]:
        problems.append(
            Problem(
                "warning",
                "edgedsl was installed without its own operators, which bundles of w4a8 need",
                "pip install --force-reinstall --no-deps edgedsl, the wheel for Linux on x86-64",
            )
        )
    if cores["cgroup_limit"] and cores["cgroup_limit"] < (cores["usable"] or 1):
        threads = max(1, int(cores["cgroup_limit"]))
        message = f"the container may use {cores['cgroup_limit']:g} cores but sees {cores['usable']}"
        problems.append(
            Problem(
                "warning", message, f"[runtime] num_threads = {threads} in edgedsl.toml, or docker run --cpuset-cpus"
            )
        )
    if memory["available"] is not None and memory["available"] < GIB:
        mend = "stop other programs, or take a smaller base model"
        problems.append(Problem("warning", f"{memory['available'] / GIB:.1f} GiB of memory are free", mend))
    for where, free in disk.items():
        if free is not None and free < 5 * GIB:
            place = "in the cache of base models" if where == "cache" else "in this folder"
            mend = (
                "make room, or set EDGEDSL_CACHE to another disk"
                if where == "cache"
                else "make room, or work on another disk"
            )
            problems.append(
                Problem(
                    "warning",
                    f"{free / GIB:.1f} GiB are free {place}; training and export write whole copies of the model",
                    mend,
                )
            )
    return problems


def _wants_cuda(facts: dict[str, Any]) -> bool:
    return "CUDAExecutionProvider" in facts["wheel_providers"]


def _nvidia() -> dict[str, Any]:
    """GPUs and driver as nvidia-smi tells them, else as the kernel does (a container may have only one of the two)."""
    names, driver = machine.gpus(), machine.nvidia_driver()
    if tool := shutil.which("nvidia-smi"):
        command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        rows = (
            [line.rsplit(", ", 1) for line in done.stdout.splitlines() if ", " in line]
            if done and done.returncode == 0
            else []
        )
        names = names or [row[0] for row in rows]
        driver = driver or (rows[0][1] if rows else None)
    return {"gpus": names, "nvidia_driver": driver}


def _part(extra: str) -> Part:
    """Compare the requirements in our own metadata with what is installed."""
    from packaging.requirements import Requirement

    missing, mismatched = [], []
    for line in importlib.metadata.requires("edgedsl") or []:
        requirement = Requirement(line)
        is_ours = ("extra" in str(requirement.marker)) == bool(extra)
        if not is_ours or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found = machine.version(requirement.name)
        if found is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(found, prereleases=True):
            mismatched.append((f"{requirement.name}{requirement.specifier}", found))
    return Part(extra, tuple(missing), tuple(mismatched))
