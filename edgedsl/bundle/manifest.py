"""The bundle folder: write its manifest, check every file against it, open it."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from edgedsl._version import __version__
from edgedsl.atomic import write_bytes
from edgedsl.bundle.external_data import check_locations
from edgedsl.bundle.names import MANIFEST, check_names, folders
from edgedsl.bundle.schema import (
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    ModelInfo,
    parse_manifest,
)
from edgedsl.errors import BundleError

__all__ = ["SCHEMA_VERSION", "Bundle", "FileEntry", "Manifest", "ModelInfo", "open_bundle", "verify", "write_manifest"]

_ANEW = "copy the bundle again, or export it anew"
# At a time. Between two pieces the interpreter is asked for, which other threads may hold for milliseconds.
_HASHED_BYTES = 8 << 20


@dataclass(frozen=True)
class Bundle:
    """A folder that agreed with its manifest when it was opened."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a listed file.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"bundle '{self.path}' has no file {name!r}", hint=_ANEW)
        return self.path / name


def write_manifest(
    folder: Path,
    *,
    name: str,
    model: ModelInfo,
    config: Mapping[str, Any],
    parity: Mapping[str, Mapping[str, Any]],
    quality: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
) -> Manifest:
    """Hash every file of ``folder`` and write manifest.json; the folder is a bundle afterwards.

    Args:
        folder: holds model.onnx, tokenizer.json, prompt.json, grammar.lark and whatever else belongs to the bundle.
        parity: hop -> numbers that compare it with the hop before.
        quality: hop -> metrics on dev pairs.
        versions: library -> version that made the bundle.

    Raises:
        BundleError: a file that a bundle may not hold, a missing one, or a value that the manifest may not hold.
    """
    with os_errors(f"bundle '{folder}' cannot be read"):
        found = {
            path: status for path, status in _walk(folder) if path != MANIFEST and not stat.S_ISDIR(status.st_mode)
        }
        if len(found) > MAX_FILES:
            raise BundleError(f"bundle '{folder}' has {len(found)} files, expected at most {MAX_FILES}")
        check_names(found)
        files = {path: FileEntry(_sha256(folder, path), status.st_size) for path, status in sorted(found.items())}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    fields = Manifest(SCHEMA_VERSION, __version__, name, created, files, model, config, parity, quality, versions)
    content = fields.to_json()
    manifest = parse_manifest(content)
    _check_models(folder, manifest)
    with os_errors(f"'{folder / MANIFEST}' cannot be written"):
        write_bytes(folder / MANIFEST, content)
    return manifest


def open_bundle(path: Path, *, verify: bool = True, leaves_weights: bool = False) -> Bundle:
    """Open a bundle folder after checking it.

    Args:
        path: folder with a manifest.json; may be a symbolic link, nothing inside may.
        verify: also hash every file (about 0.1 s for each 100 MB); names, kinds and sizes are always checked.
        leaves_weights: hash all but :func:`weights`, which are not parsed, and are left for :func:`check_hashes`.

    Raises:
        BundleError: not a bundle, or a file that is missing, changed or not listed; the message names the file.
    """
    folder = Path(os.path.realpath(path))
    content = read_manifest_bytes(folder)
    with _naming(path):
        manifest = parse_manifest(content)
        with os_errors("it cannot be read"):
            _check_listing(folder, manifest)
        later = weights(manifest.files) if leaves_weights else ()
        for name, entry in manifest.files.items() if verify else ():
            if name not in later:
                _check_hash(folder, name, entry)
        _check_models(folder, manifest)
    return Bundle(folder, manifest)


def weights(names: Iterable[str]) -> list[str]:
    """Those of a bundle's files that hold nothing but numbers of a graph."""
    return [name for name in names if name.endswith(".onnx.data")]


def check_hashes(bundle: Bundle, names: Iterable[str]) -> None:
    """Hash files of a bundle and compare them with its manifest.

    Raises:
        BundleError: one of them was changed, or cannot be read.
    """
    with _naming(bundle.path):
        for name in names:
            _check_hash(bundle.path, name, bundle.manifest.files[name])


def _check_hash(folder: Path, name: str, entry: FileEntry) -> None:
    if _sha256(folder, name) != entry.sha256:
        raise BundleError(f"file '{name}' was changed: its sha256 differs from the manifest", hint=_ANEW)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in an error's message which bundle it is about."""
    try:
        yield
    except BundleError as exc:
        raise BundleError(f"bundle '{path}': {exc.message}", hint=exc.hint) from exc


def verify(path: Path) -> Manifest:
    """Check every file of a bundle folder; see :func:`open_bundle`."""
    return open_bundle(path).manifest


def read_manifest_bytes(folder: Path) -> bytes:
    """manifest.json as it lies in the folder.

    Raises:
        BundleError: no such folder, or no bundle in it.
    """
    if folder.is_file():
        raise BundleError(
            f"'{folder}' is a file, expected a bundle folder", hint=f"run 'edgedsl bundle unpack {folder}'"
        )
    if not folder.is_dir():
        raise BundleError(f"bundle '{folder}' does not exist", hint="run 'edgedsl export' to make one")
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(f"'{folder}' is not a bundle: it has no {MANIFEST}", hint="run 'edgedsl export' to make one")
    with open_regular(folder, MANIFEST) as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"'{folder / MANIFEST}' is larger than {MAX_MANIFEST_BYTES} bytes", hint=_ANEW)
    return content


@contextmanager
def open_regular(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Open a file for reading unless it is a link, a pipe or a device.

    Raises:
        BundleError: another kind of file, or not readable.
    """
    with os_errors(f"file '{name}' cannot be read"):
        # Without O_NONBLOCK, opening a pipe would wait for ever.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(name, os.fstat(descriptor))
            yield file


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Translate what the operating system says."""
    try:
        yield
    except OSError as exc:
        hint = "free some space" if exc.errno == errno.ENOSPC else ""
        raise BundleError(f"{what}: {exc.strerror or exc}", hint=hint) from exc


def _check_listing(folder: Path, manifest: Manifest) -> None:
    missing = dict(manifest.files)
    known_folders = folders(manifest.files)
    for name, status in _walk(folder):
        if name == MANIFEST or (stat.S_ISDIR(status.st_mode) and name in known_folders):
            continue
        entry = missing.pop(name, None)
        if entry is None:
            raise BundleError(f"{name!r} is not listed in {MANIFEST}", hint=f"remove it, or {_ANEW}")
        if status.st_size != entry.size:
            raise BundleError(
                f"file '{name}' has {status.st_size} bytes, expected {entry.size}: it was changed", hint=_ANEW
            )
    if missing:
        raise BundleError(f"file '{min(missing)}' is missing", hint=_ANEW)


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative posix path and status of everything inside; a folder comes before what is in it."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                name, status = prefix + entry.name, entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(name + "/")
                else:
                    _check_regular(name, status)
                yield name, status


def _check_regular(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "neither file nor folder"
        raise BundleError(f"{name!r} is {kind}, expected a regular file", hint="put a copy of the file there")
    if status.st_nlink > 1:
        raise BundleError(
            f"file {name!r} has {status.st_nlink} hard links, expected 1: it can change through another name",
            hint="put a copy of the file there",
        )


def _check_models(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not name.endswith(".onnx"):
            continue
        with open_regular(folder, name) as file:
            check_model(name, file, 0, entry.size, manifest)


def check_model(name: str, file: BufferedReader, start: int, size: int, manifest: Manifest) -> None:
    """:func:`check_locations` on a part of an open file."""
    if os.fstat(file.fileno()).st_size < start + size or not size:
        raise BundleError(f"file '{name}' is empty or ends early", hint=_ANEW)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_locations(name, data, start, start + size, manifest.files)


def _sha256(folder: Path, name: str) -> str:
    digest, piece = hashlib.sha256(), bytearray(_HASHED_BYTES)
    with open_regular(folder, name) as file:
        while size := file.readinto(piece):
            digest.update(memoryview(piece)[:size])
    return digest.hexdigest()
