"""Which mappings go on huge pages, and that nothing in them changes."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedsl.runtime import huge_pages

MIB = 1 << 20


def mapping(first: int, last: int, anonymous_kb: int, rights: str = "rw-p", name: str = "") -> list[str]:
    size_kb = (last - first) // 1024
    return [
        f"{first:x}-{last:x} {rights} 00000000 00:00 0 {name}\n",
        f"Size: {size_kb:18} kB\n",
        f"Rss: {anonymous_kb:19} kB\n",
        f"Anonymous: {anonymous_kb:13} kB\n",
        "VmFlags: rd wr mr mw me ac\n",
    ]


def test_large_full_mappings_are_found_from_one_huge_page_to_another() -> None:
    lines = [
        *mapping(5 * MIB, 11 * MIB, 6 * 1024, name="[heap]"),
        *mapping(20 * MIB, 24 * MIB, 3700),
        *mapping(30 * MIB, 34 * MIB, 3600),  # a tenth is missing
        *mapping(41 * MIB, 43 * MIB, 2 * 1024),  # no whole huge page
        *mapping(50 * MIB, 54 * MIB, 4 * 1024, "r--p"),
        *mapping(60 * MIB, 64 * MIB, 4 * 1024, "rw-s"),
        *mapping(70 * MIB, 74 * MIB, 0, name="/of/a/file"),
    ]
    assert list(huge_pages.full_mappings(lines)) == [(6 * MIB, 10 * MIB), (20 * MIB, 24 * MIB)]


@pytest.mark.parametrize("lines", [[], ["\n"], ["Anonymous: 5 kB\n"], ["Anonymous: 0 kB\n"], ["x-y rw-p 0\n"]])
def test_of_anything_else_nothing_is_found(lines: list[str]) -> None:
    assert list(huge_pages.full_mappings(lines)) == []


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_asked(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", platform)
    monkeypatch.setattr(huge_pages.ctypes, "CDLL", lambda _: pytest.fail("loaded"))
    huge_pages.collapse()


def test_a_library_that_does_not_know_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(huge_pages.ctypes, "CDLL", lambda _: object())
    huge_pages.collapse()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_mappings_that_cannot_be_read_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_SMAPS", tmp_path / "smaps")
    huge_pages.collapse()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_memory_holds_what_it_held() -> None:
    with mmap.mmap(-1, 32 * MIB, flags=getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)) as memory:
        values = np.frombuffer(memory, np.uint32)
        values[:] = np.arange(len(values))
        address = values.ctypes.data
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
        found = list(huge_pages.full_mappings(lines))
        assert any(start < address + 16 * MIB < end for start, end in found)
        huge_pages.collapse()
        assert (values == np.arange(len(values))).all()
        del values
