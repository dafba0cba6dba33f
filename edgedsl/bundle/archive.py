"""A bundle as one file: an uncompressed ustar archive, manifest.json first, equal bytes for equal bundles."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from edgedsl.atomic import staged_directory, sync_directory
from edgedsl.bundle import ustar
from edgedsl.bundle.manifest import Bundle, check_model, open_bundle, open_regular, os_errors, read_manifest_bytes
from edgedsl.bundle.names import MANIFEST
from edgedsl.bundle.schema import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from edgedsl.errors import BundleError

SUFFIX = ".edgedsl"
_CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def pack(folder: Path, output: Path, *, force: bool = False, on_progress: Progress | None = None) -> Manifest:
    """Verify a bundle folder and write it as one file, which appears whole or not at all.

    Args:
        force: replace an existing file.

    Raises:
        BundleError: the bundle does not verify, the output exists, or there is no space for it.
    """
    bundle = open_bundle(folder)
    output = Path(os.path.realpath(output))
    if os.path.lexists(output) and not (force and output.is_file()):
        raise BundleError(f"'{output}' exists", hint="name another --output, or replace a file with --force")
    if output.is_relative_to(bundle.path):
        raise BundleError(f"'{output}' lies inside the bundle", hint="name an --output outside of it")
    content = read_manifest_bytes(bundle.path)
    if parse_manifest(content) != bundle.manifest:
        raise BundleError(f"bundle '{folder}' changed while it was packed", hint="pack it again")
    _check_space(output.parent, bundle.manifest.num_bytes + (len(bundle.manifest.files) + 5) * 2 * ustar.BLOCK)
    with os_errors(f"'{output}' cannot be written"), _staged_file(output) as sink:
        sink.write(ustar.encode_header(MANIFEST, len(content)) + content + bytes(ustar.padding(len(content))))
        copy = _Copier(bundle.manifest, on_progress)
        for name, entry in sorted(bundle.manifest.files.items()):
            sink.write(ustar.encode_header(name, entry.size))
            with open_regular(bundle.path, name) as source:
                copy(name, source, sink)
            sink.write(bytes(ustar.padding(entry.size)))
        sink.write(bytes(2 * ustar.BLOCK))
    return bundle.manifest


def unpack(archive: Path, target: Path, *, force: bool = False, on_progress: Progress | None = None) -> Bundle:
    """Write the bundle of an archive to the folder ``target``, which appears whole and verified or not at all.

    Only regular files that the manifest names are written, each checked while it is written.

    Args:
        force: replace an existing bundle; anything else is left alone.

    Raises:
        BundleError: not an archive of a bundle, damaged, or the target exists or has no space.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolving would follow a link at the target
    with os_errors(f"'{target}' cannot be replaced"):
        _check_target(target, force)
    with _open_archive(archive) as (file, content, manifest):
        _check_space(target.parent, manifest.num_bytes + len(content))
        with os_errors(f"'{target}' cannot be written"), staged_directory(target) as staging:
            (staging / MANIFEST).write_bytes(content)
            _read_files(file, manifest, staging, on_progress)
    return Bundle(target, manifest)


def verify_archive(archive: Path, *, on_progress: Progress | None = None) -> Manifest:
    """Check everything that :func:`unpack` checks without writing anything.

    Raises:
        BundleError: not an archive of a bundle, or damaged.
    """
    with _open_archive(archive) as (file, _, manifest):
        _read_files(file, manifest, None, on_progress)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle folder or archive; the other files are not looked at.

    Raises:
        BundleError: neither of the two.
    """
    if path.is_file():
        with _open_archive(path) as (_, _, manifest):
            return manifest
    return parse_manifest(read_manifest_bytes(path))


class _Copier:
    """Copies files of a manifest while it checks them, and counts the bytes."""

    def __init__(self, manifest: Manifest, on_progress: Progress | None) -> None:
        self._manifest = manifest
        self._on_progress = on_progress or (lambda done, total: None)
        self._done = 0

    def __call__(self, name: str, source: BinaryIO, sink: BinaryIO | None) -> None:
        entry, digest = self._manifest.files[name], hashlib.sha256()
        for start in range(0, entry.size, _CHUNK):
            chunk = ustar.read_exactly(source, min(_CHUNK, entry.size - start))
            digest.update(chunk)
            if sink:
                sink.write(chunk)
            self._done += len(chunk)
            self._on_progress(self._done, self._manifest.num_bytes)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(
                f"file '{name}' was changed: its sha256 differs from the manifest", hint="copy the file again"
            )


@contextmanager
def _open_archive(archive: Path) -> Iterator[tuple[BufferedReader, bytes, Manifest]]:
    """The open file, just after manifest.json, and that; errors get the archive's name."""
    with os_errors(f"archive '{archive}' cannot be read"):
        descriptor = os.open(archive, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BundleError(f"'{archive}' is not a file", hint="name a file that 'edgedsl bundle pack' wrote")
    try:
        with os_errors("it cannot be read"), os.fdopen(descriptor, "rb") as file:
            content = _read_manifest(file)
            manifest = parse_manifest(content)
            if manifest.num_bytes > status.st_size:
                raise BundleError("the archive ends early: it is smaller than its files", hint="copy the file again")
            yield file, content, manifest
    except BundleError as exc:
        raise BundleError(f"archive '{archive}': {exc.message}", hint=exc.hint) from exc


def _read_manifest(file: BinaryIO) -> bytes:
    header = ustar.read_header(file)
    if header is None or header.name != MANIFEST or header.size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"not an edgedsl archive: it does not begin with {MANIFEST}",
            hint="name a file that 'edgedsl bundle pack' wrote",
        )
    content = ustar.read_exactly(file, header.size)
    ustar.read_padding(file, header.size)
    return content


def _read_files(file: BufferedReader, manifest: Manifest, folder: Path | None, on_progress: Progress | None) -> None:
    copy, missing = _Copier(manifest, on_progress), set(manifest.files)
    while (header := ustar.read_header(file)) is not None:
        _check_entry(header, manifest, missing)
        missing.remove(header.name)
        start = file.tell()
        with _sink(folder, header.name) as sink:
            copy(header.name, file, sink)
        ustar.read_padding(file, header.size)
        if header.name.endswith(".onnx"):
            check_model(header.name, file, start, header.size, manifest)
    ustar.read_end(file)
    if missing:
        raise BundleError(f"file '{min(missing)}' is missing", hint="copy the file again")


def _check_entry(header: ustar.Header, manifest: Manifest, missing: set[str]) -> None:
    if header.name not in missing:
        why = "occurs twice" if header.name in (*manifest.files, MANIFEST) else f"is not listed in {MANIFEST}"
        raise BundleError(f"entry {header.name!r} {why}", hint="do not unpack it; pack the bundle anew")
    if header.size != manifest.files[header.name].size:
        raise BundleError(
            f"entry '{header.name}' has {header.size} bytes, expected {manifest.files[header.name].size}",
            hint="do not unpack it; pack the bundle anew",
        )


@contextmanager
def _sink(folder: Path | None, name: str) -> Iterator[BinaryIO | None]:
    if folder is None:
        yield None
        return
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("xb") as sink:
        yield sink


@contextmanager
def _staged_file(output: Path) -> Iterator[BinaryIO]:
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(descriptor, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(descriptor)
        Path(name).chmod(0o644)
        Path(name).replace(output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(output.parent)


def _check_target(target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise BundleError(f"'{target}' exists", hint="name another folder, or replace the bundle with --force")
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise BundleError(f"'{target}' is not a bundle, so it is not replaced", hint="name another folder")


def _check_space(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    available = shutil.disk_usage(existing).free
    if needed > available:
        raise BundleError(
            f"no space in '{folder}': {needed:,} bytes needed, {available:,} available",
            hint="free some space, or name another place",
        )
