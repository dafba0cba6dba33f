"""``edgedsl grammar``: check, sample, draw, explain, fuzz and import a grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgedsl.cli.options import Decorator, json_option

if TYPE_CHECKING:
    from edgedsl.grammar.authoring.check import Report

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("grammar")
def command() -> None:
    """Check, sample, draw, explain, fuzz and import a grammar.

    GRAMMAR is a .lark file or the name of a grammar that comes with the package, such as flow. Its catalogue and cases
    are found beside it (NAME.catalogue.json or catalogue.json, NAME.cases.jsonl). Without --tokenizer the tokens are
    single bytes.
    """


def _grammar() -> Decorator:
    return click.argument("grammar")


def _catalogue() -> Decorator:
    return click.option("--catalogue", type=_FILE, default=None, help="Catalogue.  [default: the one beside GRAMMAR]")


def _tokenizer() -> Decorator:
    return click.option("--tokenizer", type=_PATH, default=None, help="tokenizer.json of a model.  [default: bytes]")


def _seed() -> Decorator:
    return click.option("--seed", type=int, default=0, show_default=True, help="Of the random numbers.")


@command.command("check")
@_grammar()
@_catalogue()
@click.option("--cases", type=_FILE, default=None, help="Cases.  [default: those beside GRAMMAR]")
@click.option("--pairs", type=_FILE, default=None, help="Pairs whose targets must be programs.")
@_tokenizer()
@json_option()
def check(
    grammar: str,
    catalogue: Path | None,
    cases: Path | None,
    pairs: Path | None,
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Find what is wrong with GRAMMAR before it decodes anything.

    Compiles it in both engines; looks for conflicts and ambiguous programs, rules and terminals of no use, white space
    without limit, terminals that overlap, dead ends with these tokens; runs the cases and the targets of the pairs; and
    measures masks. Exits with 4 when anything is an error; warnings do not fail. All this runs in a process of its own
    with limits: 60 s of CPU to compile, 600 s more for the rest, 4 GiB of memory, 8 MiB of grammar or catalogue.

    \b
      edgedsl grammar check flow
      edgedsl grammar check grammar.lark --pairs data/train.jsonl --tokenizer bundle/tokenizer.json
    """
    from edgedsl.grammar.trial import try_check

    report = try_check(grammar, catalogue, cases, tokenizer, _targets(pairs))
    if as_json:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        _show(report)
    report.refuse()


@command.command("sample")
@_grammar()
@_catalogue()
@click.option("--n", "num", type=click.IntRange(min=1), default=10, show_default=True, help="Programs.")
@_seed()
@json_option("Print each program as a JSON string.")
def sample(grammar: str, catalogue: Path | None, num: int, seed: int, as_json: bool) -> None:
    """Print random programs of GRAMMAR, one a line.

    Lark has parsed each of them. A line break inside a program is printed as \\n; --json gives the exact text.
    """
    from edgedsl.grammar.authoring.language import open_language
    from edgedsl.grammar.authoring.sampling import Sampler

    sampler = Sampler(open_language(grammar, catalogue).grammar(), seed)
    for _ in range(num):
        text = sampler.sample()
        click.echo(json.dumps(text, ensure_ascii=False) if as_json else text.replace("\r", "\\r").replace("\n", "\\n"))


@command.command("railroad")
@_grammar()
@_catalogue()
@click.option("--output", type=_FILE, required=True, help="File to write: .svg for a drawing, else an HTML page.")
def railroad(grammar: str, catalogue: Path | None, output: Path) -> None:
    """Draw the rules of GRAMMAR as railroad diagrams.

    One file that loads nothing: each rule and terminal with its diagram, and links between them.
    """
    from edgedsl.atomic import write_text
    from edgedsl.grammar.authoring.language import open_language
    from edgedsl.grammar.authoring.railroad import Railroad

    drawing = Railroad(open_language(grammar, catalogue))
    write_text(output, drawing.svg() if output.suffix.lower() == ".svg" else drawing.html())
    click.echo(f"wrote {output}", err=True)


@command.command("why")
@_grammar()
@click.argument("text")
@_catalogue()
@_tokenizer()
def why(grammar: str, text: str, catalogue: Path | None, tokenizer: Path | None) -> None:
    """Explain token by token what GRAMMAR allows along TEXT.

    For each token: how many tokens were allowed, the terminals expected, a few examples. Then whether the text is a
    program, or where and why not.

    \b
      edgedsl grammar why flow 'music.pause; lights.on(room: moon)'
    """
    from edgedsl.grammar.authoring.language import open_language
    from edgedsl.grammar.authoring.token_set import open_tokens
    from edgedsl.grammar.authoring.why import explain, lines

    tokens = open_tokens(tokenizer)
    click.echo(f"note: {tokens.description}")
    for line in lines(explain(open_language(grammar, catalogue).grammar(), tokens, text)):
        click.echo(line)


@command.command("fuzz")
@_grammar()
@_catalogue()
@click.option("--n", "num", type=click.IntRange(min=1), default=1000, show_default=True, help="Generations.")
@_tokenizer()
@_seed()
@json_option("Print nothing but the JSON line.")
def fuzz(grammar: str, catalogue: Path | None, num: int, tokenizer: Path | None, seed: int, as_json: bool) -> None:
    """Prove on GRAMMAR that every output parses, at any budget.

    Generates from random logits of several kinds (some never want to end), greedy and sampled in turn, with budgets
    from the shortest program up, in batches of 1, 4 and 8, and parses each program anew. The last line is JSON: n,
    parsed, over_budget, invented_names, min_budget, errors, tokens, distinct (texts), mask_us_p50, mask_us_p99 and
    mask_us_max (mask and budget check of one token). Exits with 4 when a program does not parse, is over its budget or
    holds a name that the catalogue does not have.
    """
    from edgedsl.grammar.authoring.fuzz import Fuzzer
    from edgedsl.grammar.authoring.language import open_language
    from edgedsl.grammar.authoring.token_set import open_tokens

    tokens, language = open_tokens(tokenizer), open_language(grammar, catalogue)
    fuzzer = Fuzzer(language.grammar(), tokens, language.catalogue, seed)
    result = fuzzer.run(num)
    if not as_json:
        click.echo(f"note: {tokens.description}")
        for failure in fuzzer.failures:
            click.echo(f"failed: {failure}")
    click.echo(json.dumps(result.to_dict()))
    result.refuse()


@command.command("import")
@click.argument("file", type=_FILE)
@click.option(
    "--from",
    "notation",
    type=click.Choice(["json-schema", "regex", "gbnf", "ebnf", "tools"]),
    default=None,
    help="Notation of FILE.  [default: by its name; a .json file with a list holds tools, else a JSON schema]",
)
@click.option("--output", type=_FILE, default=None, help="File to write; must not exist.  [default: print]")
@click.option(
    "--calls",
    type=click.Choice(["one", "many"]),
    default="one",
    show_default=True,
    help="Of tools: calls in a program.",
)
@click.option(
    "--order",
    type=click.Choice(["schema", "any"]),
    default="schema",
    show_default=True,
    help="Of tools: order of arguments; any does not check that none comes twice and none is missing.",
)
@click.option("--refusal", is_flag=True, help="Of tools: with a program for what no tool can do.")
def import_(
    file: Path,
    notation: str | None,
    output: Path | None,
    calls: Literal["one", "many"],
    order: Literal["schema", "any"],
    refusal: bool,
) -> None:
    """Make a Lark grammar from FILE: a JSON schema, tool schemas, GBNF, EBNF or a regular expression.

    A report on standard error tells what became what, and where grammar and source differ. What cannot be translated
    is refused and named, never left out. FILE is read in a process of its own with limits: 60 s of CPU, 4 GiB of
    memory, 8 MiB of text.

    \b
      edgedsl grammar import tools.json --calls many --output grammar.lark
      edgedsl grammar import chess.gbnf | less
    """
    from edgedsl.atomic import write_text
    from edgedsl.errors import GrammarError
    from edgedsl.grammar.trial import try_import

    if output is not None and output.exists():
        raise GrammarError(f"'{output}' exists", hint="name a new file, or remove it first")
    result = try_import(file, notation, calls=calls, order=order, refusal=refusal)
    click.echo(result.report(), err=True)
    if output is None:
        click.echo(result.source, nl=False)
    else:
        write_text(output, result.source)
        click.echo(f"wrote {output}; next: edgedsl grammar check {output}", err=True)


def _targets(pairs: Path | None) -> list[tuple[str, str]]:
    if pairs is None:
        return []
    from edgedsl.data.pairs import read_pairs

    return [(pair.source, pair.target) for pair in read_pairs(pairs)]


def _show(report: Report) -> None:
    from edgedsl.cli.tables import print_table

    click.echo(f"note: {report.tokens}")
    print_table(
        {name.replace("_", " "): "none" if value is None else str(value) for name, value in report.facts.items()}
    )
    for finding in report.findings:
        click.echo(f"{finding.level}: {finding.what}: {finding.detail}")
        if finding.hint:
            click.echo(f"  hint: {finding.hint}")
    click.echo(f"{report.num_errors} errors, {len(report.findings) - report.num_errors} warnings")
