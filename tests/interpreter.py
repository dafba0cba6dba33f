"""This interpreter once more, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def python(*arguments: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it, e.g. with ``"-c", code``; what it prints is kept."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, **options)
