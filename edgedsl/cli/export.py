"""``edgedsl export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option, project_option, section_options


@click.command("export")
@project_option()
@section_options("export")
@click.option("--offline", is_flag=True, help="Never download; a base model that is missing is an error.")
@json_option("Print parity and quality of each hop as one JSON object.")
def command(project_file: Path | None, offline: bool, as_json: bool, **flags: Any) -> None:
    """Merge the adapter, export to ONNX, quantise, check each hop, and write the bundle.

    Each hop (adapter, merged, onnx, quantized) is compared with the one before it: difference of the logits,
    agreement of the likeliest token with near-ties counted apart, exact match on the dev pairs. When the quantised
    model keeps less than --gate of the adapter's exact match, no bundle is written and an older one stays as it is.
    With --smoke the folder gets the ending -smoke.
    """
    from edgedsl.config import load_config, override
    from edgedsl.exporters.pipeline import export, read_report

    config = override(load_config(project_file), "export", flags)
    output = export(config, offline=offline, say=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"bundle": str(output), **read_report(output)}))
    else:
        click.echo(f"wrote {output}")
