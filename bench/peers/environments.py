"""Environments of the peers: one each, made once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.bench.peers.specs import PEERS, Peer, cmake_flags, python_of
from edgedsl.errors import ConfigError

Say = Callable[[str], None]
_STAMP = "environment.json"
_LAST_LINES = 3


def setup(name: str, folder: Path, say: Say = lambda _: None) -> None:
    """Make a peer's environment in ``folder/NAME``, unless it is there already.

    A package that is compiled is kept as a wheel in ``folder/NAME/wheels``, so that it is compiled once.

    Raises:
        ConfigError: a peer that is not known, or something that could not be installed or compiled; the log is named.
    """
    if name not in PEERS:
        raise ConfigError(f"peer '{name}' is not known, expected one of {', '.join(PEERS)}")
    own = folder / name
    wanted = _wanted(PEERS[name])
    if stamp(name, folder) == wanted:
        say(f"{name}: environment is there")
        return
    own.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / ".gitignore", "*\n")
    say(f"{name}: making its environment, minutes; log in {own / 'setup.log'}")
    _install(PEERS[name], own, python_of(name, folder))
    atomic.write_json(own / _STAMP, wanted)


def stamp(name: str, folder: Path) -> dict[str, Any] | None:
    """With what an environment was made; None where there is none."""
    path = folder / name / _STAMP
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if python_of(name, folder).exists() else None


def check(name: str, folder: Path) -> None:
    """Refuse a peer whose environment is missing or older than this version's.

    Raises:
        ConfigError: it is; the hint is the command.
    """
    if stamp(name, folder) != _wanted(PEERS[name]):
        raise ConfigError(
            f"'{folder}' has no environment of {name} as this version wants it",
            hint=f"python -m edgedsl.bench.peers setup {name} --folder {folder}",
        )


def _wanted(peer: Peer) -> dict[str, Any]:
    return {"packages": list(peer.packages), "cmake_flags": cmake_flags(peer.device) if peer.from_source else []}


def _install(peer: Peer, own: Path, python: Path) -> None:
    wheels, log = own / "wheels", own / "setup.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(own / "env", ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(own / "env")], log)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    if peer.from_source and not _has_wheel(wheels, peer.from_source):
        flags = {
            "CMAKE_ARGS": " ".join(cmake_flags(peer.device)),
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        }
        # --no-cache-dir: a wheel that pip kept may be of other flags.
        _run([*pip, "wheel", "-v", "--no-deps", "--no-cache-dir", "-w", str(wheels), peer.from_source], log, flags)
    _run([*pip, "install", "--no-compile", "--find-links", str(wheels), *peer.packages], log)


def _has_wheel(wheels: Path, requirement: str) -> bool:
    name, _, version = requirement.replace("-", "_").partition("==")
    return any(wheels.glob(f"{name}-{version}-*.whl"))


def _run(command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(variables or {}), check=False
        )
    if done.returncode:
        last = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
        raise ConfigError(f"'{' '.join(command[:4])} ...' ended with {done.returncode}: {last}", hint=f"see {log}")
