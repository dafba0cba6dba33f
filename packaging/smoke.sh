#!/usr/bin/env bash
# smoke.sh WHEEL: the built wheel in an environment of its own, with the runtime packages and nothing of training or development.
set -euo pipefail
lock=$(cd "$(dirname "$0")/.." && pwd)/requirements.lock
wheel=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --constraint "$lock" "$wheel[cpu]"
cd "$scratch"
PATH="$scratch/venv/bin:$PATH"

python - <<'PYTHON'
import importlib.util
import subprocess
from importlib.resources import files

for name in ("torch", "transformers", "peft", "onnx", "optimum", "pytest", "fastapi"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed, so this proves nothing"

import edgedsl.runtime.engine
from edgedsl.cli import COMMANDS
from edgedsl.runtime import kernels

assert kernels.LIBRARY.is_file() or not kernels.is_covered(), "the wheel has no operators of its own"

assert files("edgedsl.grammars").joinpath("flow.lark").is_file(), "the wheel has no grammars"
assert files("edgedsl").joinpath("py.typed").is_file(), "the wheel has no py.typed"


def run(*arguments):
    done = subprocess.run(["edgedsl", *arguments], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


for command in COMMANDS:
    done = run(command, "--help")
    assert done.returncode == 0, (command, done.stderr)

done = run("init", "project", "--rows", "100")
assert done.returncode == 0, done.stderr

# What is missing is named, with the command that mends it.
for command, package in (("train", "train"), ("serve", "serve")):
    done = run(command, "--project", "project")
    assert done.returncode not in (0, 1), (command, done.returncode, done.stderr)
    assert "edgedsl[" in done.stderr and package in done.stderr, (command, done.stderr)
PYTHON
edgedsl --help
echo "smoke: the wheel works with the runtime packages alone"
