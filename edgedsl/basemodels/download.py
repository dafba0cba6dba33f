"""One file over HTTP(S) or file://, resumed where it broke off, and never trusted before its digest is right."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgedsl.basemodels.model import digest
from edgedsl.basemodels.progress import download_bar
from edgedsl.errors import ModelError

_BLOCK = 1 << 18  # bytes
_IDLE = 60  # seconds without a byte before a connection counts as dead
_FRUITLESS = 3  # attempts in a row without a new byte
_SCHEMES = frozenset({"http", "https", "file"})
# Not OSError: a full disk is no fault of the connection.
_BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


class RefusedError(Exception):
    """The server did not hand out the file at all; another client may be let in."""


@dataclass(frozen=True)
class RemoteFile:
    """What is fetched and what it must be."""

    url: str
    filename: str
    size: int  # bytes
    sha256: str


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Download into ``folder/filename``, going on from ``filename.part`` when an earlier run left one.

    Raises:
        RefusedError: not a byte could be read (no connection, certificate, credentials).
        ModelError: the connection broke again and again (the part is kept), or the content is not the pinned one
            (the part is removed).
    """
    if urlsplit(remote.url).scheme not in _SCHEMES:
        raise RefusedError(f"{remote.url}: not an http, https or file URL")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{remote.filename}.part"
    with download_bar(remote.filename, remote.size, _size(part)) as show:
        _fetch_all(remote, part, show)
    verify(part, remote)
    target = folder / remote.filename
    return part.replace(target)


def verify(path: Path, remote: RemoteFile) -> None:
    """Remove ``path`` and raise ModelError unless it has the pinned digest."""
    found = digest(path)
    if found != remote.sha256:
        path.unlink()
        raise ModelError(
            f"{remote.filename} is not the expected file: sha256 {found}, expected {remote.sha256}",
            hint="run the command again; if it happens twice, the mirror or a proxy serves an altered file",
        )


def _fetch_all(remote: RemoteFile, part: Path, show: Callable[[int], None]) -> None:
    fruitless, reason, initial = 0, "the connection closed early", _size(part)
    while (before := _size(part)) < remote.size:
        try:
            _fetch_once(remote, part, show)
        except _BROKEN as exc:
            if _size(part) == initial:
                raise RefusedError(f"{remote.url}: {exc}") from exc
            reason = str(exc) or type(exc).__name__
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == _FRUITLESS:
            raise ModelError(
                f"the download of {remote.filename} broke off after {_size(part)} of {remote.size} bytes: {reason}",
                hint="run the command again: it goes on where it stopped",
            )


def _fetch_once(remote: RemoteFile, part: Path, show: Callable[[int], None]) -> None:
    """Read until the end or until the connection breaks; every byte read is on disk afterwards."""
    start = _size(part)
    # `identity`: a compressed body would not be the file whose size and digest are pinned.
    headers = {"Accept-Encoding": "identity", "User-Agent": "edgedsl"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(remote.url, headers=headers)
    with _open(request) as response:
        if not _resumes(response, start):
            start = 0
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _copy(response, file, start, remote.size, show)


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=_IDLE, context=_certificates())  # scheme checked in fetch()
    except urllib.error.HTTPError as exc:
        if exc.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        request.remove_header("Range")
        return urllib.request.urlopen(request, timeout=_IDLE, context=_certificates())


def _certificates() -> ssl.SSLContext:
    """The authorities that pip was told to trust; OpenSSL itself honours SSL_CERT_FILE and SSL_CERT_DIR."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle and Path(bundle).exists():
        folder = Path(bundle).is_dir()
        return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    return ssl.create_default_context()


def _resumes(response: Any, start: int) -> bool:
    return response.status == http.HTTPStatus.PARTIAL_CONTENT and str(
        response.headers.get("Content-Range", "")
    ).startswith(f"bytes {start}-")


def _copy(response: Any, file: Any, start: int, size: int, show: Callable[[int], None]) -> None:
    done = start
    # One byte more than pinned is enough to know that it is another file; a wrong mirror must not fill the disk.
    while done <= size and (block := response.read(min(_BLOCK, size + 1 - done))):
        file.write(block)
        done += len(block)
        show(done)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
