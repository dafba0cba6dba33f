"""Arrays in one file that is memory-mapped: magic, version, whole numbers, then the arrays.

All numbers are little-endian: magic [8 bytes], version and the count of numbers that follow (uint32 each), the fields
and the length of each array (uint64 each), the arrays one after the other, each padded with zeros to 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import BundleError

_ALIGNMENT = 8
_PREFIX = struct.Struct("<8sII")
Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """What one kind of file holds, in order.

    Attributes:
        magic: 8 bytes.
        version: another one is refused.
        fields: names of the whole numbers.
        arrays: names and little-endian dtypes, e.g. ``("keys", "<u8")``.
    """

    magic: bytes
    version: int
    fields: tuple[str, ...]
    arrays: tuple[tuple[str, str], ...]

    def pack(self, fields: Mapping[str, int], arrays: Mapping[str, Array]) -> bytes:
        """The file's content."""
        numbers = [fields[name] for name in self.fields] + [len(arrays[name]) for name, _ in self.arrays]
        parts = [_PREFIX.pack(self.magic, self.version, len(numbers)), struct.pack(f"<{len(numbers)}Q", *numbers)]
        for name, dtype in self.arrays:
            content = np.ascontiguousarray(arrays[name], dtype=dtype).tobytes()
            parts.append(content + bytes(-len(content) % _ALIGNMENT))
        return b"".join(parts)

    def read(self, path: Path, vocab_size: int) -> tuple[dict[str, int], dict[str, Array]]:
        """The fields, and the arrays as read-only views of the mapped file.

        Args:
            path: of the file.
            vocab_size: of the tokenizer or the model that it must belong to; the field of this name says so.

        Raises:
            BundleError: missing, of another kind or version, cut off, longer than it says, or for another vocabulary.
        """
        try:
            content: Array = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as exc:  # ValueError: an empty file cannot be mapped
            raise BundleError(f"'{path}' cannot be read: {exc}", hint="export the bundle again") from exc
        numbers = self._numbers(path, content)
        fields = dict(zip(self.fields, numbers, strict=False))
        if fields["vocab_size"] != vocab_size:
            raise BundleError(
                f"'{path}' was made for {fields['vocab_size']} tokens, expected {vocab_size}",
                hint="export the bundle again",
            )
        return fields, self._arrays(path, content, numbers)

    def _numbers(self, path: Path, content: Array) -> tuple[int, ...]:
        expected = len(self.fields) + len(self.arrays)
        if len(content) < self._header_size:
            refuse(path, f"it has {len(content)} bytes, a header has {self._header_size}")
        magic, version, count = _PREFIX.unpack(content[: _PREFIX.size].tobytes())
        if magic != self.magic:
            refuse(path, f"it begins with {magic!r}, expected {self.magic!r}")
        if (version, count) != (self.version, expected):
            refuse(path, f"it is version {version} with {count} numbers, expected version {self.version}")
        return struct.unpack(f"<{expected}Q", content[_PREFIX.size : self._header_size].tobytes())

    def _arrays(self, path: Path, content: Array, numbers: tuple[int, ...]) -> dict[str, Array]:
        sizes = [
            length * np.dtype(dtype).itemsize
            for length, (_, dtype) in zip(numbers[len(self.fields) :], self.arrays, strict=True)
        ]
        whole = self._header_size + sum(size + -size % _ALIGNMENT for size in sizes)
        if whole != len(content):
            refuse(path, f"it has {len(content)} bytes, its header says {whole}")
        found: dict[str, Array] = {}
        start = self._header_size
        for (name, dtype), size in zip(self.arrays, sizes, strict=True):
            found[name] = content[start : start + size].view(np.ndarray).view(dtype)
            start += size + -size % _ALIGNMENT
        return found

    @property
    def _header_size(self) -> int:
        return _PREFIX.size + 8 * (len(self.fields) + len(self.arrays))


def refuse(path: Path, reason: str) -> NoReturn:
    """Say that a file is malformed.

    Raises:
        BundleError: always.
    """
    raise BundleError(f"'{path}' is malformed: {reason}", hint="export the bundle again")
