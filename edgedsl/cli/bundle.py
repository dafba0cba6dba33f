"""``edgedsl bundle``: verify, show, pack and unpack bundles."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedsl.cli.options import json_option, project_option
from edgedsl.config import load_config

if TYPE_CHECKING:
    from edgedsl.bundle.manifest import Manifest

_PATH = click.Path(path_type=Path)
_force = click.option("--force", is_flag=True, help="Replace what is there.")


@click.group()
def command() -> None:
    """Verify, show, pack and unpack bundles.

    A bundle is the folder that 'edgedsl export' writes; packed, it is one .edgedsl file. Without an argument the
    commands take the bundle of the project file.
    """


@command.command()
@click.argument("bundle", type=_PATH, required=False)
@project_option()
@json_option()
def verify(bundle: Path | None, project_file: Path | None, as_json: bool) -> None:
    """Check every file of BUNDLE.

    BUNDLE is a folder or an .edgedsl file; each file is compared with the manifest, size and sha256. A file
    that is missing, changed or not listed ends with exit code 3 and its name.
    """
    from edgedsl.bundle import archive, manifest

    path = _bundle_path(bundle, project_file)
    if path.is_file():
        with _progress("verify") as on_progress:
            found = archive.verify_archive(path, on_progress=on_progress)
    else:
        found = manifest.verify(path)
    _report("unchanged", path, found, as_json)


@command.command()
@click.argument("bundle", type=_PATH, required=False)
@project_option()
@json_option("Print the manifest.")
def show(bundle: Path | None, project_file: Path | None, as_json: bool) -> None:
    """Say what BUNDLE is and what was measured.

    BUNDLE is a folder or an .edgedsl file. Reads the manifest only; 'edgedsl bundle verify' checks the files.
    """
    from edgedsl.bundle.archive import read_manifest

    manifest = read_manifest(_bundle_path(bundle, project_file))
    if as_json:
        click.echo(json.dumps(manifest.to_dict(), indent=2))
    else:
        click.echo("\n\n".join(_sections(manifest)))


@command.command()
@click.argument("bundle", type=_PATH, required=False)
@click.option("-o", "--output", type=_PATH, help="File to write.  [default: NAME.edgedsl in the current folder]")
@_force
@project_option()
@json_option()
def pack(bundle: Path | None, output: Path | None, force: bool, project_file: Path | None, as_json: bool) -> None:
    """Write BUNDLE as one .edgedsl file.

    The bundle is verified first. The file is an uncompressed tar archive, equal for equal bundles.
    """
    from edgedsl.bundle import archive

    path = _bundle_path(bundle, project_file)
    output = output or Path(_file_name(archive.read_manifest(path).name) + archive.SUFFIX)
    with _progress("pack") as on_progress:
        manifest = archive.pack(path, output, force=force, on_progress=on_progress)
    _report("packed", output, manifest, as_json)


@command.command()
@click.argument("archive_file", metavar="FILE", type=_PATH)
@click.argument("target", metavar="[FOLDER]", type=_PATH, required=False)
@_force
@json_option()
def unpack(archive_file: Path, target: Path | None, force: bool, as_json: bool) -> None:
    """Unpack an .edgedsl FILE into FOLDER.

    FOLDER appears whole and verified or not at all; by default it has the name of FILE and
    lies in the current folder.
    """
    from edgedsl.bundle import archive

    target = target or Path(archive_file.name.removesuffix(archive.SUFFIX))
    with _progress("unpack") as on_progress:
        bundle = archive.unpack(archive_file, target, force=force, on_progress=on_progress)
    _report("unpacked", target, bundle.manifest, as_json)


def _bundle_path(bundle: Path | None, project_file: Path | None) -> Path:
    if bundle is not None:
        return bundle
    config = load_config(project_file)
    return config.path(config.export.output)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "bundle"


def _report(what: str, path: Path, manifest: Manifest, as_json: bool) -> None:
    if as_json:
        found = {"name": manifest.name, "num_files": len(manifest.files), "num_bytes": manifest.num_bytes}
        click.echo(json.dumps({"status": what, "path": str(path), **found}))
    else:
        click.echo(f"{what}: {path} ({manifest.name}, {len(manifest.files)} files, {_size(manifest.num_bytes)})")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _sections(manifest: Manifest) -> Iterator[str]:
    model = manifest.model
    yield _columns([
        ("name", manifest.name),
        ("created", f"{manifest.created} by edgedsl {manifest.edgedsl_version}"),
        ("base model", f"{model.base_model} ({model.architecture})"),
        ("base sha256", model.base_sha256 or "none"),
        ("adapter sha256", model.adapter_sha256 or "none"),
        ("quantization", model.quantization),
        ("context length", f"{model.context_length} tokens"),
        ("vocabulary", f"{model.vocab_size} tokens"),
        ("KV cache", f"{model.num_layers} layers, {model.num_kv_heads} heads of {model.head_dim}, {model.kv_layout}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "none"),
        ("size", f"{_size(manifest.num_bytes)} in {len(manifest.files)} files"),
    ])  # fmt: skip
    yield _columns([("file", "size", "sha256"), *_file_rows(manifest)])
    for title, hops in (("parity", manifest.parity), ("quality", manifest.quality)):
        if hops:
            yield _columns(_hop_rows(title, hops))


def _file_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for name, entry in manifest.files.items():
        yield name, _size(entry.size), entry.sha256[:16]


def _hop_rows(title: str, hops: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    metrics = list(dict.fromkeys(metric for values in hops.values() for metric in values))
    rows = [(hop, *(_cell(values.get(metric, "")) for metric in metrics)) for hop, values in hops.items()]
    return [(title, *(json.dumps(metric)[1:-1] for metric in metrics)), *rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = json.dumps(value)
    return text[1:-1] if isinstance(value, str) else text


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 100_000 else f"{num_bytes:,} B"
