"""``edgedsl bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option, project_option, section_options


@click.command("bench")
@project_option()
@click.option(
    "--bundle", type=click.Path(path_type=Path), default=None, help="Bundle folder.  [default: [export] output]"
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    default=None,
    help='JSONL with "prompt" and, if wanted, "target".  [default: the dev pairs inside the bundle]',
)
@section_options("bench")
@section_options("generate")
@section_options("runtime")
@json_option("Print only the JSON line.")
def command(project_file: Path | None, bundle: Path | None, prompts: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure a bundle's speed on this machine: one sentence at a time.

    Prints tables and, as the last line, the same as one JSON object. Sentences that fail, programs that max_tokens
    made shorter and wrong programs stand in the same table as the speed. --output also writes result.json,
    report.html and the resolved configuration.

    \b
      edgedsl bench --num-prompts 100 --output speed
      edgedsl bench --prompts sentences.jsonl --num-threads 1 --json
    """
    from edgedsl.bench.latency import bench
    from edgedsl.bench.report import LATENCY_HEADER, latency_rows, summary_lines, write
    from edgedsl.cli.tables import print_caveats, print_columns, print_table
    from edgedsl.config import load_config, override
    from edgedsl.evaluation.record import check_answered, command_line

    config = load_config(project_file)
    for name in ("bench", "generate", "runtime"):
        config = override(config, name, {k: v for k, v in flags.items() if hasattr(getattr(config, name), k)})
    record, stream = bench(config, bundle or config.path(config.export.output), prompts, command=command_line())
    if config.bench.output:
        folder = config.path(config.bench.output)
        write(folder, record, stream)
        click.echo(f"wrote {folder / 'report.html'}", err=True)
    if not as_json:
        print_caveats(record["caveats"])
        print_columns(LATENCY_HEADER, latency_rows(record))
        print_table(summary_lines(record))
    click.echo(json.dumps(record, ensure_ascii=False))
    check_answered(len(stream.answers), stream.errors)
