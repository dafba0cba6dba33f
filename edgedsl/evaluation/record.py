"""What a measurement was taken with: bundle, machine, command, and whether the machine was busy."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedsl import machine
from edgedsl._version import __version__
from edgedsl.errors import GenerationError
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.providers import available_cores

# bench/README.md describes the files that have this number.
RESULT_SCHEMA = 1
# Load per core above which other work must have disturbed a measurement.
BUSY = 0.5


def command_line() -> str:
    """The command that runs, as it was typed."""
    return shlex.join(["edgedsl", *sys.argv[1:]])


def describe(engine: Engine, bundle: Path, command: str) -> dict[str, Any]:
    """The part that all results share: schema, date, command, caption, bundle, runtime and machine. Plain data."""
    facts = machine.fingerprint()
    return {
        **head(),
        "command": command,
        "caption": _caption(engine, facts, command),
        "bundle": _bundle(engine, bundle),
        "runtime": runtime(engine),
        "machine": facts,
    }


def head() -> dict[str, Any]:
    """What every result begins with: schema, version and date."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": RESULT_SCHEMA, "edgedsl_version": __version__, "created": created}


def runtime(engine: Engine) -> dict[str, Any]:
    """The execution provider and the threads that the session has, not those that were asked for."""
    session = getattr(engine.decoder, "session", None)
    if session is None:
        return {"execution_provider": engine.execution_provider, "num_threads": None}
    return {
        "execution_provider": session.get_providers()[0],
        "num_threads": session.get_session_options().intra_op_num_threads,
        "is_spinning": engine.decoder.threads.is_spinning,
        "nodes": engine.decoder.placement.num_nodes,
    }


def load_average() -> float | None:
    """Processes that wanted a core during the last minute, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy_caveat(load: float | None) -> list[str]:
    """A sentence when the machine had other work at the start."""
    cores = available_cores()
    if load is None or load <= BUSY * cores:
        return []
    return [
        f"The machine was busy: load average {load:g} on {cores} cores at the start. Times are longer than its own."
    ]


def check_answered(num_rows: int, errors: list[str]) -> None:
    """Refuse to call a run without one answer a success.

    Raises:
        GenerationError: every row failed; the first error is quoted.
    """
    if num_rows and len(errors) == num_rows:
        raise GenerationError(f"none of {num_rows} sentences got an answer; the first error: {errors[0]}")


def _caption(engine: Engine, facts: dict[str, Any], command: str) -> dict[str, str]:
    manifest = engine.manifest
    model = f"{manifest.model.base_model}, {manifest.model.quantization}" if manifest else engine.name
    source = hashlib.sha256(engine.grammar.source.encode()).hexdigest()[:12]
    hardware = facts["cpu_model"] if engine.execution_provider == "cpu" else ", ".join(facts["gpus"]) or "GPU"
    return {
        "model": model,
        "grammar": f"{engine.name} ({engine.grammar.name}, sha256 {source})",
        "cpu": f"{hardware}, {facts['cores']['usable']} cores",
        "command": command,
    }


def _bundle(engine: Engine, bundle: Path) -> dict[str, Any]:
    manifest = engine.manifest
    return {
        "name": engine.name,
        "manifest_sha256": hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest(),
        "created": manifest.created if manifest else None,
        "base_model": manifest.model.base_model if manifest else None,
        "quantization": manifest.model.quantization if manifest else None,
        "num_bytes": manifest.num_bytes if manifest else None,
    }
