#!/usr/bin/env bash
# Writes requirements.lock: one file for plain pip, for Python 3.11-3.13 on Linux, macOS and Windows; and
# requirements-transformers5.lock: the lines that are others where transformers 5 is wanted.
#
# uv resolves for all of these at once, with PyPI's metadata. Its metadata of torch names the CUDA packages of PyPI's Linux wheel.
# Those lines are dropped: torch names them itself, with exact versions, where the wheel that pip picks needs them, and the CPU wheel needs
# none. A CPU wheel that pip finds first (PIP_FIND_LINKS, --extra-index-url) is therefore enough.
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.8
export UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 # nothing but package metadata is fetched
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet "uv==$uv_version"

# What is not in pyproject.toml's extras: the torch that the numbers in bench/results were made with, the build backend and its compiler.
cat >"$scratch/pins.in" <<'PINS'
torch==2.13.0
setuptools>=80
ziglang>=0.17; sys_platform == 'linux' and platform_machine == 'x86_64'
PINS

# An override takes the place of what pyproject.toml and optimum-onnx ask for; only its graph is not to be had then.
echo 'transformers>=5,<6' >"$scratch/overrides.in"

resolve() { # FILE [OPTION...]: into FILE; versions that stand there already are kept where they can be
  "$scratch/venv/bin/uv" pip compile pyproject.toml "$scratch/pins.in" \
    --extra cpu --extra train --extra serve --extra bench --extra dev \
    --universal --python-version 3.11 \
    --no-header --no-annotate --no-emit-index-url --quiet --output-file "$@"
}

pinned() { grep -vE "^(nvidia-|cuda-|triton==)|sys_platform == 'emscripten'" "$1"; }

resolve "$scratch/4.txt" --upgrade
cp "$scratch/4.txt" "$scratch/5.txt"
resolve "$scratch/5.txt" --override "$scratch/overrides.in"

{
  echo "# Written by 'make lock' (packaging/lock.sh). Extras: cpu, train, serve, bench, dev."
  pinned "$scratch/4.txt"
} >"$scratch/requirements.lock"
{
  echo "# Written by 'make lock' (packaging/lock.sh): what differs from requirements.lock with transformers 5 (make test-transformers5)."
  pinned "$scratch/5.txt" | grep -vxFf "$scratch/4.txt"
} >"$scratch/requirements-transformers5.lock"

if grep -nE '://|^-' "$scratch"/*.lock; then
  echo "a lock would name a registry (lines above)" >&2
  exit 1
fi
mv "$scratch"/*.lock .
