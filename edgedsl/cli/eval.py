"""``edgedsl eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option, project_option, section_options


@click.command("eval")
@project_option()
@click.option(
    "--bundle", type=click.Path(path_type=Path), default=None, help="Bundle folder.  [default: [export] output]"
)
@click.option(
    "--pairs", type=click.Path(path_type=Path), default=None, help="Pairs to measure.  [default: [data] test]"
)
@click.option(
    "--num-rows", type=click.IntRange(min=1), default=None, help="Pairs to take, evenly spaced.  [default: all]"
)
@click.option(
    "--no-grammar-rows",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Pairs to decode without the grammar too; 0 skips that.",
)
@click.option(
    "--refusals",
    type=click.Path(path_type=Path),
    default=None,
    help="Pairs that should be refused, counted apart; by group up to a colon.",
)
@section_options("generate")
@section_options("runtime")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for result.json, predictions.jsonl and report.html.  [default: none are written]",
)
@json_option()
def command(
    project_file: Path | None,
    bundle: Path | None,
    pairs: Path | None,
    num_rows: int | None,
    no_grammar_rows: int,
    refusals: Path | None,
    output: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure a bundle's quality: exact match, parse rate with and without the grammar, baseline, kinds of misses.

    A row that fails counts as a miss and as an error; it is never dropped. The training pairs of the project, where
    they are there, give the nearest-neighbour baseline and the exact match on targets that training never saw.

    Where the grammar has a refusal: how many requests were refused of those that should be, and of the others.

    \b
      edgedsl eval --output results
      edgedsl eval --pairs more.jsonl --num-rows 200 --json
      edgedsl eval --refusals data/refusals.jsonl
    """
    from edgedsl.cli.tables import print_caveats, print_table
    from edgedsl.config import load_config, override
    from edgedsl.evaluation.evaluate import evaluate_bundle
    from edgedsl.evaluation.record import check_answered, command_line
    from edgedsl.evaluation.report import summary_lines, write

    config = load_config(project_file)
    for name in ("generate", "runtime"):
        config = override(config, name, {k: v for k, v in flags.items() if hasattr(getattr(config, name), k)})
    evaluation = evaluate_bundle(
        config,
        bundle or config.path(config.export.output),
        pairs or config.path(config.data.test),
        num_rows=num_rows,
        num_no_grammar=no_grammar_rows,
        command=command_line(),
        refusals_file=refusals,
    )
    if output:
        write(output, evaluation)
        click.echo(f"wrote {output / 'report.html'}", err=True)
    if as_json:
        click.echo(json.dumps(evaluation.record, ensure_ascii=False))
    else:
        print_caveats(evaluation.record["caveats"])
        print_table(summary_lines(evaluation.record))
        print_table({f"miss: {m['class']}": str(m["count"]) for m in evaluation.record["summary"]["misses"]})
    check_answered(len(evaluation.rows), evaluation.errors)
