"""What the C library gives back."""

from __future__ import annotations

import os
import sys

import pytest

from edgedsl.bench.memory import resident_bytes
from edgedsl.serving import heap


class Libc:
    """Records what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | int, ...]] = []

    def mallopt(self, name: int, value: int) -> None:
        self.calls.append(("mallopt", name, value))

    def malloc_trim(self, kept: int) -> None:
        self.calls.append(("malloc_trim", kept))


def test_one_arena_and_nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(heap, "_glibc", lambda: libc)
    heap.use_one_arena()
    heap.trim()
    assert libc.calls == [("mallopt", -8, 1), ("malloc_trim", 0)]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_asked(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("loaded"))
    heap.use_one_arena()
    heap.trim()


def test_a_library_without_trim_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.use_one_arena()
    heap.trim()


@pytest.mark.skipif(sys.platform != "linux" or heap._glibc() is None, reason="needs glibc")
def test_what_was_freed_is_given_back() -> None:
    blocks = [bytes(2000) for _ in range(40_000)]  # too large for Python's own allocator
    kept = blocks[::400]
    del blocks
    before = resident_bytes(os.getpid())
    heap.trim()
    after = resident_bytes(os.getpid())
    assert before is not None
    assert after is not None
    assert before - after > 30 << 20
    assert len(kept) == 100
