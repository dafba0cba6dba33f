"""``edgedsl demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgedsl.cli.options import json_option


@click.command("demo")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder of the sample project.",
)
@click.option("--train-rows", type=click.IntRange(min=16), default=3000, show_default=True, help="Pairs to train on.")
@click.option("--test-rows", type=click.IntRange(min=1), default=200, show_default=True, help="Pairs to measure on.")
@click.option("--offline", is_flag=True, help="Never download; a base model that is missing is an error.")
@json_option("End with one JSON line.")
def command(output: Path, train_rows: int, test_rows: int, offline: bool, as_json: bool) -> None:
    """Fine-tune, export, generate and measure on the sample language `flow`.

    Prints the untuned base model beside the tuned one, a few programs, and the speed. Stopped half-way, it goes on
    from its last checkpoint.
    """
    from edgedsl.demo import DemoSizes, run_demo

    sizes = DemoSizes(train_rows=train_rows, test_rows=test_rows)
    result = run_demo(output, sizes, offline=offline, say=lambda line: click.echo(line, err=True))
    examples = result.pop("examples")
    _print_tables(result, examples)
    if as_json:
        click.echo(json.dumps(result))


def _refused(measured: dict[str, Any]) -> str:
    from edgedsl.evaluation.report import percent

    kinds = "; ".join(f"{item['kind']} {percent(item['refusal_rate'])}" for item in measured["kinds"])
    return (
        f"refused: {percent(measured['refusal_rate'])} of {measured['num_rows']} requests that flow cannot express"
        f" ({kinds}), {percent(measured['wrong_refusal_rate'])} of {measured['num_programs']} that it can"
    )


def _print_tables(result: dict[str, Any], examples: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for example in examples:
        console.print(f"  {example['sentence']}", markup=False, highlight=False)
        console.print(f"  -> {example['program']}", markup=False, highlight=False, style="bold")
    quality = Table(title="flow, test programs that training never saw")
    quality.add_column("")
    quality.add_column(f"untuned base, 5 examples ({result['base_rows']} rows)")
    quality.add_column(f"tuned, w8a8 ({result['rows']} rows)")
    some = f"on {result['rows_without_grammar']} of them"
    rows = {
        "exact match, with the grammar": ("base_exact_match", "exact_match"),
        f"exact match, with the grammar, {some}": (None, "exact_match_same_rows"),
        f"exact match, without, {some}": ("base_exact_match_without_grammar", "exact_match_without_grammar"),
        "parses, with the grammar": ("base_parse_rate", "parse_rate"),
        f"parses, without, {some}": ("base_parse_rate_without_grammar", "parse_rate_without_grammar"),
    }
    for label, names in rows.items():
        quality.add_row(label, *(f"{result[name]:.1%}" if name else "" for name in names))
    quality.add_row("exact match of the nearest neighbour", "", f"{result['nearest_neighbour_exact_match']:.1%}")
    console.print(quality)
    if result["refusals"]:
        console.print(_refused(result["refusals"]), highlight=False)
    console.print(
        f"speed: {result['tokens_per_s']} tokens/s, {result['programs_per_s']} programs/s, "
        f"first token {result['ttft_ms']} ms, "
        f"whole program p50 {result['e2el_ms_p50']} ms, p95 {result['e2el_ms_p95']} ms; {result['seconds']} s in all",
        highlight=False,
    )
