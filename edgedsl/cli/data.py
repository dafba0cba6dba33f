"""``edgedsl data``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedsl.cli.options import json_option, project_option, section_options
from edgedsl.config import load_config, override

if TYPE_CHECKING:
    from edgedsl.data.check import Lengths, SplitReport


@click.group("data")
def command() -> None:
    """Check pairs of sentence and program."""


@command.command("check")
@project_option()
@json_option()
@click.option("--offline", is_flag=True, help="Open no connection; the base model must be there already.")
@section_options("data")
def check(project_file: Path | None, as_json: bool, offline: bool, **flags: Any) -> None:
    """List rows that cannot be used, with file and line; counts and token lengths of the rest.

    A row cannot be used when it is empty, too long, or when its program does not parse under the grammar. Exits with 5
    when there are such rows, unless --on-bad-row is drop.
    """
    config = override(load_config(project_file), "data", flags)

    from edgedsl.data.check import check_project, refuse
    from edgedsl.data.project import open_inputs

    reports = check_project(config, open_inputs(config, offline=offline))
    if as_json:
        click.echo(json.dumps({"splits": [report.to_dict() for report in reports]}, ensure_ascii=False))
    else:
        for report in reports:
            _show(report)
    refuse(reports, config.data.on_bad_row)


def _show(report: SplitReport) -> None:
    click.echo(f"{report.split}: {report.file}")
    click.echo(f"  pairs           {report.rows}, usable {report.usable}")
    click.echo(f"  same prompt     {report.duplicate_prompts}")
    if report.split != "train":
        click.echo(f"  also in train   {report.prompts_in_train}")
    click.echo(f"  programs        {report.distinct_targets} different")
    if report.groups:
        click.echo(f"  groups          {report.groups}")
    click.echo(f"  prompt tokens   {_lengths(report.prompt_tokens)}")
    click.echo(f"  program tokens  {_lengths(report.target_tokens)}")
    for row in report.bad:
        click.echo(f"  {row.source}: {row.reason}: {row.detail}")


def _lengths(lengths: Lengths | None) -> str:
    return f"p50 {lengths.p50}, p95 {lengths.p95}, max {lengths.max}" if lengths else "none"
