"""How much memory a process holds and has held at most. Bytes."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """What another process holds now, None where the kernel does not tell."""
    return _status(pid).get("VmRSS")


def memory_now() -> dict[str, int | None]:
    """What the kernel tells of this process, None where it does not.

    Returns:
        ``rss``: held now; ``peak``: the most held since the program started (VmHWM); ``ru_maxrss``: of getrusage, which
        on Linux also counts what the parent held when it started this process.
    """
    status = _status()
    return {"rss": status.get("VmRSS"), "peak": status.get("VmHWM"), "ru_maxrss": _maxrss()}


def _status(pid: int | str = "self") -> dict[str, int]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: int(size) * 1024 for name, size in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE)}


def _maxrss() -> int:
    """getrusage counts KiB, on macOS bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
