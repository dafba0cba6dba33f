"""Which names a bundle may hold: plain relative paths of kinds that are only ever read as data."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgedsl.errors import BundleError

MANIFEST = "manifest.json"
EXTENSIONS = (
    ".json", ".jsonl", ".onnx", ".data", ".lark", ".txt", ".md", ".html", ".ngrams", ".neighbours", ".kv", ".tokens",
    ".columns",
)  # fmt: skip
# The name field of a ustar header; longer names would need an extension of the format.
MAX_NAME = 100

_PART = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,3}}")
_LICENCE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)([_-][A-Za-z0-9_+-]+)?")


def check_names(names: Iterable[str]) -> None:
    """Refuse names that could leave the folder, hold code, or be one file on a file system without letter case.

    Raises:
        BundleError: names the first offender.
    """
    seen = {MANIFEST: (MANIFEST, False)}
    for name in names:
        check_name(name)
        for path, is_folder in ((name, False), *((folder, True) for folder in folders([name]))):
            taken = seen.setdefault(path.lower(), (path, is_folder))
            if taken != (path, is_folder) or path == MANIFEST:
                raise BundleError(f"file {name!r} collides with {taken[0]!r}", hint="rename one of them")


def check_name(name: str) -> None:
    """Refuse one name by itself.

    Raises:
        BundleError: absolute, ``..``, hidden, too long or deep, other characters, or a kind not in the allow-list.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise BundleError(
            f"file name {name[:200]!r} is not allowed, expected a relative path of up to {MAX_NAME} characters, "
            "4 levels, letters, digits, '._+-', no part that starts with a dot",
        )
    last = name.rpartition("/")[2]
    if not last.endswith(EXTENSIONS) and not _LICENCE.fullmatch(last):
        raise BundleError(
            f"file {name!r} is of a kind that a bundle may not hold",
            hint=f"allowed: {' '.join(EXTENSIONS)} and LICENSE, COPYING, NOTICE",
        )


def folders(names: Iterable[str]) -> set[str]:
    """Every folder on the way to the files: ``a/b/c.json`` gives ``a`` and ``a/b``."""
    return {name[: match.start()] for name in names for match in re.finditer("/", name)}
