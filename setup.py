"""Builds edgedsl's own operator (edgedsl/runtime/kernels) with the package; all else stands in pyproject.toml.

The compiler is clang as the package ziglang brings it: the same on every machine, without one of the system's, and for
an old C library, so that one wheel serves all of Linux on x86-64. Elsewhere the package is built without the operator.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

GLIBC = (2, 17)
TARGET = f"x86_64-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
FOLDER = Path("edgedsl/runtime/kernels")
FLAGS = ["-std=c11", "-O3", "-fPIC", "-shared", "-s", "-fvisibility=hidden", "-fno-math-errno", "-fno-sanitize=all"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
IS_COVERED = sys.platform == "linux" and platform.machine() == "x86_64"


class BuildOperator(build_ext):
    """A library that ONNX Runtime loads, which is no module of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the interpreter's own ending."""
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        """Compile and link at once; the compiler keeps its cache in the build folder."""
        output, cache = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp).absolute() / "zig"
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-mcpu=x86_64_v3"]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
        subprocess.run([*compiler, *FLAGS, *WARNINGS, "-o", str(output), *ext.sources], check=True, env=environment)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: nothing in it knows the interpreter."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform."""
        return ("py3", "none", f"manylinux_{GLIBC[0]}_{GLIBC[1]}_x86_64") if IS_COVERED else super().get_tag()


operator = Extension(
    "edgedsl.runtime.kernels.libproducts",
    sources=sorted(map(str, FOLDER.glob("*.c"))),
    depends=sorted(map(str, FOLDER.glob("*.h"))),
)
setup(
    ext_modules=[operator] if IS_COVERED else [],
    cmdclass={"build_ext": BuildOperator, "bdist_wheel": PlatformWheel},
)
