"""Who takes part: each peer with its packages, its quantisations and its settings for this work."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl.errors import ConfigError

LARK, GBNF = "lark", "gbnf"
FLAT = "flat"
_LLGUIDANCE = (
    "llguidance reads edgedsl's Lark text, the catalogue's scopes written out as rules; "
    "what Lark's lexer reads otherwise is allowed, and a program may be cut off at the budget"
)
_GBNF = (
    "GBNF, made from the same text, knows no lexer: it cannot say that keywords come before names and that the longest "
    "match wins, and a program may be cut off at the budget"
)
FLAT_ALLOWS = "flat: any name of the catalogue wherever a name of its kind may stand, whosever it is"


@dataclass(frozen=True)
class Peer:
    """A program that decodes under a grammar too.

    Attributes:
        label: its name in tables.
        packages: what its environment needs, pinned.
        module: file of the worker's half.
        quantizations: of its own; the first is the default.
        notation: of the grammar that it reads.
        allows: what its grammar allows beyond ours.
        features: name after ``+`` -> settings for its worker.
        from_source: the package that is compiled here.
        has_slots: whether it answers several streams at a time.
        device: cpu or cuda, where its model runs.
    """

    label: str
    packages: tuple[str, ...]
    module: str
    quantizations: tuple[str, ...]
    notation: str
    allows: str
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    from_source: str = ""
    has_slots: bool = False
    device: str = "cpu"


_TORCH = ("torch==2.13.0", "transformers==5.23.0")
_ON_CPU = {
    "llama-cpp": Peer(
        "llama.cpp",
        ("llama-cpp-python==0.3.36",),
        "llama_cpp_peer.py",
        ("q8_0", "q4_0", "q4_1", "q5_0", "q4_k_m", "q5_k_m", "q6_k", "f16"),
        GBNF,
        _GBNF,
        from_source="llama-cpp-python==0.3.36",
        has_slots=True,
    ),
    "genai": Peer(
        "onnxruntime-genai",
        ("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1", "onnx==1.23.2", "onnx-ir==1.1.0", *_TORCH),
        "genai_peer.py",
        ("int8", "int4", "fp32"),
        LARK,
        _LLGUIDANCE,
        features={
            "ngram": {"speculative": {"ngram_size": 3, "max_draft_tokens": 4}},
            "forced": {"forced_tokens": True},
        },
    ),
    "transformers": Peer(
        "transformers + Outlines",
        ("outlines==1.3.3", "llguidance==1.9.1", *_TORCH),
        "transformers_peer.py",
        ("fp32", "bf16"),
        LARK,
        _LLGUIDANCE + "; Outlines compiles the grammar anew for each answer",
    ),
}
_CUDA = "-cuda"
_ON_CUDA = {
    "llama-cpp": replace(_ON_CPU["llama-cpp"], quantizations=("f16", *_ON_CPU["llama-cpp"].quantizations[:-1])),
    "genai": replace(
        _ON_CPU["genai"],
        packages=("onnxruntime-genai-cuda==0.18.0", "onnxruntime-gpu==1.31.1", *_ON_CPU["genai"].packages[2:]),
        quantizations=("fp16", "bf16", "int4"),
        features={**_ON_CPU["genai"].features, "graphs": {"cuda_graphs": True}},
    ),
    "transformers": replace(_ON_CPU["transformers"], quantizations=("fp16", "bf16")),
}
PEERS = _ON_CPU | {
    name + _CUDA: replace(peer, label=f"{peer.label} CUDA", device="cuda") for name, peer in _ON_CUDA.items()
}


@dataclass(frozen=True)
class Spec:
    """One contestant: ``PEER:QUANTIZATION+FEATURE``, such as ``genai:int8+ngram``."""

    peer: str
    quantization: str
    features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read a contestant; without a quantisation it is the peer's first.

        Raises:
            ConfigError: a peer, quantisation or feature that is not known.
        """
        name, _, settings = text.partition(":")
        if name not in PEERS:
            raise ConfigError(f"peer '{name}' is not known, expected one of {', '.join(PEERS)}")
        peer = PEERS[name]
        quantization, *features = settings.split("+")
        quantization = quantization or peer.quantizations[0]
        if quantization not in peer.quantizations:
            raise ConfigError(f"'{text}': {name} has {', '.join(peer.quantizations)}, not '{quantization}'")
        unknown = set(features) - {FLAT, *peer.features}
        if unknown:
            raise ConfigError(f"'{text}': feature '{min(unknown)}' is not one of {', '.join([FLAT, *peer.features])}")
        return cls(name, quantization, tuple(features))

    @property
    def program(self) -> str:
        """The peer on whatever device."""
        return self.peer.removesuffix(_CUDA)

    @property
    def label(self) -> str:
        """As tables name it."""
        return " ".join([PEERS[self.peer].label, self.quantization, *self.features])

    @property
    def is_flat(self) -> bool:
        """Whether its grammar leaves out which name belongs to which owner."""
        return FLAT in self.features

    def settings(self) -> dict[str, Any]:
        """What its features mean to its worker."""
        own = PEERS[self.peer].features
        return {name: value for feature in self.features for name, value in own.get(feature, {}).items()}


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment."""
    return folder / peer / "env" / "bin" / "python"


def log_of(peer: str, folder: Path) -> Path:
    """What a peer's workers print."""
    return folder / peer / "worker.log"


def cmake_flags(device: str) -> list[str]:
    """Of llama.cpp for a device beside this CPU: all that this one can use but AMX, with which it has crashed."""
    return [*_cpu_flags(), "-DGGML_CUDA=ON"] if device == "cuda" else _cpu_flags()


def _cpu_flags() -> list[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]
    found = set(machine.instruction_sets())
    wanted = {
        "AVX": "avx2", "AVX2": "avx2", "BMI2": "avx2", "FMA": "fma", "F16C": "f16c", "AVX_VNNI": "avx_vnni",
        "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
    }  # fmt: skip
    on = [f"-DGGML_{name}={'ON' if flag in found else 'OFF'}" for name, flag in wanted.items()]
    amx = [f"-DGGML_AMX_{kind}=OFF" for kind in ("TILE", "INT8", "BF16")]
    return ["-DGGML_NATIVE=OFF", *on, *amx, "-DLLAVA_BUILD=OFF", "-DCMAKE_BUILD_TYPE=Release"]
