"""Where what can be made again is kept: base models and measurements of this machine."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``EDGEDSL_CACHE``, else ``XDG_CACHE_HOME/edgedsl``, else ``~/.cache/edgedsl``."""
    chosen = os.environ.get("EDGEDSL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "edgedsl"
