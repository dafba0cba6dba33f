"""edgedsl's own operators for ONNX Runtime, in C: products with weights of 4 bits, and attention.

The library is built with the package (setup.py), for Linux on x86-64; it needs AVX2.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgedsl import machine
from edgedsl.errors import ProviderError

if TYPE_CHECKING:
    import onnxruntime as ort  # not needed to say why not

DOMAIN = "edgedsl"
BLOCK = 64  # input channels that share a scale; products.h
PANEL = 16  # output channels that lie together; products.h
LANES, MAX_HEAD_DIM = 8, 256  # of the width of an attention head; attention.h
RECIPES = frozenset({"w4a8"})  # whose graphs have the operators
LIBRARY = Path(__file__).with_name("libproducts.so")
_NEEDED = ("avx2", "fma", "f16c")


def is_covered() -> bool:
    """Whether the operators are built for this kind of machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def why_not() -> str:
    """What keeps the operators from running here; empty where they run."""
    if not is_covered():
        return f"they are for Linux on x86-64, and this is {platform.system()} on {platform.machine()}"
    if missing := [name for name in _NEEDED if name not in machine.instruction_sets()]:
        return f"this CPU lacks {', '.join(missing)}"
    return "" if LIBRARY.exists() else "this installation of edgedsl was built without them"


def register(options: ort.SessionOptions) -> None:
    """Let sessions with these options load graphs that have the operators.

    Raises:
        ProviderError: they do not run here.
    """
    if reason := why_not():
        raise ProviderError(
            f"the model needs edgedsl's own operators: {reason}",
            hint="export it with '--quantize w8a8'; 'edgedsl doctor' says more",
        )
    options.register_custom_ops_library(str(LIBRARY))
