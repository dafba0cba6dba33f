"""Who may build a base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedsl.basemodels.progress import say


@contextmanager
def exclusive(cache: Path, name: str) -> Iterator[None]:
    """Hold the lock of one base model; a second process says that it waits. The lock dies with its process."""
    from filelock import FileLock, Timeout

    path = cache / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is preparing {name}; waiting for it (lock: {path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
