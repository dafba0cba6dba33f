#!/usr/bin/env bash
# Writes requirements.lock: one file for plain pip, for Python 3.11-3.13 on Linux, macOS and Windows.
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

# What is not in pyproject.toml's extras: the torch that the numbers in bench/results were made with, and the build backend.
cat >"$scratch/pins.in" <<'PINS'
torch==2.13.0
setuptools>=80
PINS

"$scratch/venv/bin/uv" pip compile pyproject.toml "$scratch/pins.in" \
  --extra cpu --extra train --extra serve --extra bench --extra dev \
  --universal --python-version 3.11 --upgrade \
  --no-header --no-annotate --no-emit-index-url --quiet --output-file "$scratch/resolved.txt"

{
  echo "# Written by 'make lock' (packaging/lock.sh). Extras: cpu, train, serve, bench, dev."
  grep -vE "^(nvidia-|cuda-|triton==)|sys_platform == 'emscripten'" "$scratch/resolved.txt"
} >"$scratch/requirements.lock"

if grep -nE '://|^-' "$scratch/requirements.lock"; then
  echo "requirements.lock would name a registry (lines above)" >&2
  exit 1
fi
mv "$scratch/requirements.lock" requirements.lock
