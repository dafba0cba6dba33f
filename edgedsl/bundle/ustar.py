"""Headers of POSIX ustar archives (IEEE Std 1003.1, pax, "ustar Interchange Format"), regular files only."""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

from edgedsl.bundle.names import MAX_NAME
from edgedsl.errors import BundleError

BLOCK = 512
_OCTAL_LIMIT = 8**11  # larger sizes are written in base 256, as GNU tar, bsdtar and Python read them
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
}
_OCTAL = re.compile(rb"([0-7]+)[ \0]+")


class Header(NamedTuple):
    """One entry."""

    name: str
    size: int


def encode_header(name: str, size: int) -> bytes:
    """The 512 bytes before a file: mode 0644, owner 0, time 0, so that equal files make equal archives."""
    encoded = name.encode("ascii")
    if len(encoded) > MAX_NAME:
        raise BundleError(f"file name {name!r} is longer than {MAX_NAME} characters")
    length = b"%011o\0" % size if size < _OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    before = encoded.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + length + b"%011o\0" % 0
    after = (b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2).ljust(BLOCK - 156, b"\0")
    return before + b"%06o\0 " % _checksum(before + b" " * 8 + after) + after


def read_header(file: BinaryIO) -> Header | None:
    """The next entry, or ``None`` at the end of the archive.

    Raises:
        BundleError: not a ustar header with the right checksum, or an entry that is no regular file.
    """
    block = read_exactly(file, BLOCK)
    if block == bytes(BLOCK):
        return None
    blanked = block[:148] + b" " * 8 + block[156:]
    if block[257:265] != b"ustar\x0000" or _octal(block[148:156]) != _checksum(blanked):
        raise BundleError("not an edgedsl archive: damaged or foreign header", hint="copy the file again")
    name = _name(block)
    kind = block[156:157]
    if kind != b"0":
        raise BundleError(f"entry {name!r} is {_KINDS.get(kind, 'of an unknown kind')}, expected a regular file")
    if any(block[157:257]) or any(block[345:500]):
        raise BundleError(f"entry {name!r} has a link target or a name prefix, expected neither")
    return Header(name, _size(block[124:136]))


def read_padding(file: BinaryIO, size: int) -> None:
    """Skip the zeros that fill up the last block of a file.

    Raises:
        BundleError: they are not zeros.
    """
    if any(read_exactly(file, padding(size))):
        raise BundleError("damaged: there is data between the files", hint="copy the file again")


def read_end(file: BinaryIO) -> None:
    """Check what follows the first zero block: at least one more, and nothing else.

    Raises:
        BundleError: trailing data, or a missing block.
    """
    rest = file.read(20 * BLOCK)  # GNU tar fills up to 20 blocks
    if len(rest) < BLOCK or len(rest) % BLOCK or any(rest) or file.read(1):
        raise BundleError("damaged: the archive does not end where it should", hint="copy the file again")


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes.

    Raises:
        BundleError: the file ends before.
    """
    content = file.read(size)
    if len(content) < size:
        raise BundleError("the archive ends early", hint="copy the file again")
    return content


def padding(size: int) -> int:
    """Number of bytes from the end of a file to the next block."""
    return -size % BLOCK


def _name(block: bytes) -> str:
    name, _, rest = block[:100].partition(b"\0")
    if not name or any(rest) or not name.isascii():
        raise BundleError(f"an entry has the name {block[:100]!r}, expected ASCII")
    return name.decode("ascii")


def _octal(field: bytes) -> int:
    match = _OCTAL.fullmatch(field)
    if not match:
        raise BundleError("not an edgedsl archive: damaged or foreign header", hint="copy the file again")
    return int(match[1], 8)


def _size(field: bytes) -> int:
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def _checksum(block: bytes) -> int:
    return sum(block)
