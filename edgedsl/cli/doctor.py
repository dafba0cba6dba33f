"""``edgedsl doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedsl.cli.options import json_option
from edgedsl.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedsl.doctor import Report

_TITLES = {"": "core", "cpu": "run (CPU)", "gpu": "run (GPU)"}


@click.command()
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    default=None,
    help="Load this bundle too, and show how many nodes of its graph each execution provider got.",
)
@click.option(
    "--execution-provider",
    type=click.Choice(("cpu", "cuda")),
    default="cpu",
    show_default=True,
    help="Where to load the bundle.",
)
@json_option()
def command(bundle: Path | None, execution_provider: str, as_json: bool) -> None:
    """Show what this machine has, what is missing, and how to mend it.

    Runs one node on each execution provider instead of trusting a list. Changes nothing and fetches nothing.
    Exit code 0 when programs can be generated here, 10 when not.
    """
    from edgedsl.doctor import diagnose
    from edgedsl.user_cache import default_cache

    report = diagnose(Path.cwd(), default_cache())
    if not as_json:
        click.echo("\n".join(_lines(report)))
    placed = _placement(bundle, execution_provider) if bundle and report.can_run else None
    if as_json:
        click.echo(json.dumps({**report.to_dict(), **({"bundle": placed} if placed else {})}, indent=2))
    else:
        click.echo("\n".join([*_nodes(placed), *_problems(report)]))
    if not report.can_run:
        first = next(problem for problem in report.problems if problem.level == "error")
        raise ProviderError(f"programs cannot be generated here: {first.message}", hint=first.mend)


def _placement(path: Path, execution_provider: str) -> dict[str, Any]:
    """Raises what loading the bundle raises, a node that would run behind a GPU's back among it."""
    from edgedsl.bundle.manifest import open_bundle
    from edgedsl.runtime.decoder import Decoder

    opened = open_bundle(path, verify=True)
    decoder = Decoder(opened.path / "model.onnx", opened.manifest.model, execution_provider=execution_provider)
    return {
        "name": opened.manifest.name,
        "execution_provider": execution_provider,
        "nodes": decoder.placement.num_nodes,
        "shape_nodes_on_cpu": [*decoder.placement.on_cpu] if execution_provider == "cuda" else [],
    }


def _lines(report: Report) -> Iterator[str]:
    yield "machine"
    yield from _table(_machine(report.facts))
    yield "execution providers"
    yield from _table(
        {probe.provider: "works" if probe.works else f"does not run: {probe.reason}" for probe in report.probes}
    )
    yield "parts"
    yield from _table({_TITLES.get(part.name, part.name): _part(part.name, part.missing) for part in report.parts})
    yield "versions"
    yield from _table(report.facts["versions"])


def _nodes(placed: dict[str, Any] | None) -> Iterator[str]:
    if placed:
        yield "nodes of the bundle's graph"
        yield from _table({name: str(num) for name, num in placed["nodes"].items()})


def _problems(report: Report) -> Iterator[str]:
    yield "problems" if report.problems else "no problems"
    for problem in report.problems:
        yield f"  {problem.level}: {problem.message}"
        yield f"    mend: {problem.mend}"


def _machine(facts: dict[str, Any]) -> dict[str, str]:
    cores, memory, disk = facts["cores"], facts["memory"], facts["disk_free"]
    limit = f", limited to {cores['cgroup_limit']:g} by the container" if cores["cgroup_limit"] else ""
    driver = f" (driver {facts['nvidia_driver']})" if facts["nvidia_driver"] else ""
    return {
        "system": f"{facts['os']} {facts['machine']}, Python {facts['python']}",
        "CPU": facts["cpu_model"],
        "cores": f"{cores['physical'] or '?'} physical, {cores['logical']} logical, {cores['usable']} usable{limit}",
        "instruction sets": " ".join(facts["instruction_sets"]) or "none of those that matter",
        "memory": f"{_gib(memory['total'])}, {_gib(memory['available'])} available",
        "disk": f"{_gib(disk['here'])} free here, {_gib(disk['cache'])} free in the cache",
        "GPU": (", ".join(facts["gpus"]) or "none") + driver,
    }


def _part(name: str, missing: tuple[str, ...]) -> str:
    if not missing:
        return "complete"
    wanted = f"'edgedsl[{name}]'" if name else "edgedsl"
    return f"not installed: {', '.join(missing)}  (pip install {wanted})"


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 1024**3:.1f} GiB"


def _table(rows: dict[str, str]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        yield f"  {name:<{width}}  {value}"
