"""Weights on huge pages: a call of the model reads all of them, and looks up fewer addresses. Only on Linux.

A kernel that does not know the request (before 6.1), or has them switched off, and a container that hides the
process's mappings leave all as it is.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_SIZE = 2 << 20  # bytes, on x86-64 and on arm64 with pages of 4 KiB
_COLLAPSE = 25  # MADV_COLLAPSE of linux/mman.h
_SMAPS = Path("/proc/self/smaps")
_FULL = 0.9  # of a mapping: what is missing of it is allocated too
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ")
_ANONYMOUS = re.compile(r"Anonymous: +(\d+) kB")


def collapse() -> None:
    """Put large, nearly full mappings of this process on huge pages; a millisecond for each megabyte."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "madvise"):
        return
    try:
        found = list(full_mappings(_SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:  # a container may hide it
        return
    for start, end in found:
        # What cannot be had, for want of memory in one piece, stays as it is.
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _COLLAPSE)


def full_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Addresses, from and to, of what can be collapsed: private, writable, nearly all of it there.

    Args:
        smaps: lines of ``/proc/PID/smaps`` (proc_pid_smaps(5)).
    """
    start = end = 0
    for line in smaps:
        if mapping := _MAPPING.match(line):
            first, last, rights = int(mapping[1], 16), int(mapping[2], 16), mapping[3]
            start, end = (first, last) if rights == "rw-p" else (0, 0)
        elif (anonymous := _ANONYMOUS.match(line)) and 1024 * int(anonymous[1]) >= _FULL * (end - start):
            first, last = -(-start // _SIZE) * _SIZE, end // _SIZE * _SIZE
            if last > first:
                yield first, last
