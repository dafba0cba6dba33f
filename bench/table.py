"""The tables of README.md and bench/README.md, made from the files in bench/results/.

Run ``python -m edgedsl.bench.table`` in the repository root; ``--check`` only says whether they are current. What a
result has by grammar goes into bench/README.md, which also describes the files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.bench.command import exit_code
from edgedsl.bench.goals import compare, read_goals
from edgedsl.errors import DataError
from edgedsl.evaluation.record import RESULT_SCHEMA

BY_GRAMMAR = "by-grammar"
KINDS = (
    "quality", "hops", "recipes", "budget", "generations", "guarantee", "latency", "streams", "masks", "catalogues",
    "drafts", "heads", "startup", "operators", "bandwidth", "peers", "cuda",
)  # fmt: skip
CAPTION = ("model", "grammar", "cpu", "command")
_NAME = re.compile(r"[a-z0-9.-]+_[a-z0-9.-]+_\d{6}\.json")
_TITLES = {
    "ttft_ms_p50": "first token, ms", "tpot_ms_p50": "further token, ms", "e2el_ms_p50": "whole answer p50, ms",
    "e2el_ms_p95": "p95, ms", "e2el_ms_p99": "p99, ms", "output_throughput": "tokens/s",
    "programs_per_s": "programs/s", "load_ms": "load, ms", "peak_memory_bytes": "peak memory",
    "exact_match_unseen": "exact match, unseen targets", "nearest_neighbour_exact_match": "nearest neighbour",
    "no_grammar_parse_rate": "parse rate without grammar", "refusal_rate": "refused",
    "answers_ratio": "edgedsl's answers/s, times", "ttft_ratio": "edgedsl's first token, times sooner",
    "answers_per_s": "answers/s", "wrong_refusal_rate": "refused wrongly",
    "tokenizer_ms": "tokenizer, ms", "compile_ms": "compile, ms", "compile_ms_max": "longest, ms",
    "start_us_p50": "start p50, µs", "propose_us_p50": "proposal p50, µs", "propose_us_p95": "p95, µs",
    "tokens_per_call_unseen": "unseen targets",
    "load_to_program_ms_p50": "load to first program p50, ms", "first_program_ms_p50": "first program p50, ms",
    "load_ms_p50": "load p50, ms", "served_bytes": "memory of the server",
    "call_ms_p50": "call p50, ms", "product_gmac_s": "products, GMAC/s",
    "guarantee_share": "share of an answer's time", "guarantee_us_token": "µs a token",
    "read_ms": "read by Lark, ms", "subset_ms_p50": "part of 20 p50, ms", "subset_ms_max": "longest, ms",
    "memory_bytes": "memory", "model_bytes": "graph and weights", "drafts_change_share": "drafts change",
    "head_bytes": "head", "one_token_ms_p50": "one token p50, ms",
    "four_tokens_ms_p50": "four tokens p50, ms", "token_share": "share of the vocabulary",
    "num_bytes": "read by a step", "step_ms_p50": "step p50, ms", "read_gb_s": "read, GB/s",
    "machine_gb_s": "the machine reads, GB/s", "bandwidth_share": "share of that",
    "differing_share": "other answers than one at a time", "answers_factor": "answers/s, times one at a time",
    "ms_p50": "p50, ms", "ms_p95": "p95, ms", "logits_fetched": "rows of logits fetched, share",
    "mask_us_p50": "mask and check p50, µs", "mask_us_p99": "p99, µs", "mask_us_max": "longest, µs",
}  # fmt: skip
_HEADLINE = (
    "rows",
    "exact_match",
    "nearest_neighbour_exact_match",
    "parse_rate",
    "no_grammar_parse_rate",
    "e2el_ms_p50",
)
_PERCENT = re.compile(r"exact_match|_rate\b|_share\b|^argmax_agreement$|^validity$|^execution_match$")


def render(results: Path) -> str:
    """Markdown of every ``*.json`` in a folder: quality first, then latency, each by file name.

    Raises:
        DataError: a file of another name or shape; the message names it.
    """
    return "\n\n".join(_table(path, document) for path, document in _documents(results))


def headline(results: Path) -> str:
    """Markdown of one table: the quality results, a line each, with their main figures.

    Raises:
        DataError: see :func:`render`.
    """
    found = [document for _, document in _documents(results) if document["kind"] == "quality"]
    if not found:
        return ""
    lines = [_line(("language", "model", *map(_title, _HEADLINE))), f"|{' --- |' * (len(_HEADLINE) + 2)}"]
    for document in found:
        for row in document["rows"]:
            cells = [_cell(name, row.get(name)) for name in _HEADLINE]
            lines.append(_line((_text(row["bundle"]), _text(document["caption"]["model"]), *cells)))
    return "\n".join(lines)


def goals(results: Path, path: Path) -> str:
    """Markdown of one table: the goals in a file, what was measured, and what limits those that are missed; or "".

    Raises:
        DataError: see :func:`render` and :mod:`edgedsl.bench.goals`.
    """
    measured = {path.stem.rpartition("_")[0]: document["rows"] for path, document in _documents(results)}
    compared = compare(read_goals(path), measured)
    if not compared:
        return ""
    lines = [_line(("figure", "goal", "measured", "on", "reached", "what limits it")), f"|{' --- |' * 6}"]
    for goal, hardware, value in compared:
        sign = "at most" if goal.at_least is None else "at least"
        is_missed = value is not None and not goal.is_reached(value)
        reached = "not run" if value is None else "no" if is_missed else "yes"
        cells = (f"{sign} {_cell(goal.column, goal.bound)}", _cell(goal.column, value), hardware or "-", reached)
        lines.append(_line((_text(goal.figure), *cells, _text(goal.limit) if is_missed else "")))
    return "\n".join(lines)


def by_grammar(results: Path) -> str:
    """Markdown of what the results have by grammar, each by file name.

    Raises:
        DataError: see :func:`render`.
    """
    tables = [
        f"**{_text(found['title'])}, by grammar.** [{path.name}](results/{path.name})\n\n{_rows(found['by_grammar'])}"
        for path, found in _documents(results)
        if "by_grammar" in found
    ]
    return "\n\n".join(tables)


def _documents(results: Path) -> list[tuple[Path, dict[str, Any]]]:
    documents = [(path, read_result(path)) for path in sorted(results.glob("*.json"))]
    return sorted(documents, key=lambda item: KINDS.index(item[1]["kind"]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read_result(path: Path) -> dict[str, Any]:
    """Read and check one result.

    Raises:
        DataError: a name that is not ``<what>_<hardware>_<yyyymm>.json``, or a file of another shape.
    """
    if not _NAME.fullmatch(path.name):
        raise DataError(f"result '{path}' is not named <what>_<hardware>_<yyyymm>.json", hint="rename it")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise DataError(f"result '{path}' cannot be read: {exc}") from exc
    problem = _problem(document)
    if problem:
        raise DataError(f"result '{path}': {problem}", hint="bench/README.md describes the format")
    assert isinstance(document, dict)
    return document


def markers(section: str) -> tuple[str, str]:
    """The lines of README.md between which a section stands."""
    return f"<!-- {section}:start -->", f"<!-- {section}:end -->"


def insert(readme: str, section: str, tables: str) -> str:
    """The text with what stands between the markers of a section replaced.

    Raises:
        DataError: the markers are not there exactly once and in order.
    """
    first, last = markers(section)
    before, start, rest = readme.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end or first in after or last in before or last in after:
        raise DataError(f"the README needs the lines '{first}' and '{last}', once each", hint="put them back")
    return f"{before}{first}\n{tables}\n{last}{after}" if tables else f"{before}{first}\n{last}{after}"


def current(readme: str, results: Path, goals_file: Path) -> str:
    """The text of README.md as it should be.

    Raises:
        DataError: see :func:`insert` and :func:`render`.
    """
    sections = {"headline": headline(results), "goals": goals(results, goals_file), "bench": render(results)}
    for section, tables in sections.items():
        readme = insert(readme, section, tables)
    return readme


def current_by_grammar(readme: str, results: Path) -> str:
    """The text of bench/README.md as it should be.

    Raises:
        DataError: see :func:`insert` and :func:`render`.
    """
    return insert(readme, BY_GRAMMAR, by_grammar(results))


def _problem(document: Any) -> str | None:
    if not isinstance(document, dict):
        return f"holds a {type(document).__name__}, expected an object"
    if document.get("schema") != RESULT_SCHEMA:
        return f"schema is {document.get('schema')!r}, expected {RESULT_SCHEMA}"
    if document.get("kind") not in KINDS:
        return f"kind is {document.get('kind')!r}, expected one of {', '.join(KINDS)}"
    if not isinstance(document.get("title"), str) or not document["title"]:
        return "title is missing"
    caption, rows = document.get("caption"), document.get("rows")
    if not isinstance(caption, dict) or not all(isinstance(caption.get(n), str) and caption[n] for n in CAPTION):
        return f"caption needs the texts {', '.join(CAPTION)}"
    if not isinstance(document.get("caveats", []), list):
        return "caveats are not a list"
    return _rows_problem("rows", rows) or _rows_problem("by_grammar", document.get("by_grammar", rows))


def _rows_problem(name: str, rows: Any) -> str | None:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        return f"{name} is not a list of objects with at least one"
    if any(list(row) != list(rows[0]) for row in rows):
        return f"{name} have different columns"
    if any(isinstance(value, dict | list) for row in rows for value in row.values()):
        return f"{name}: a cell holds a list or an object, expected a text, a number or null"
    return None


def _table(path: Path, document: dict[str, Any]) -> str:
    lines = [
        f"**{_text(document['title'])}.** {_caption(document['caption'])} [{path.name}](bench/results/{path.name})",
        "",
        *(f"- {_text(line)}" for line in document.get("caveats", [])),
        *([""] if document.get("caveats") else []),
        _rows(_shown(document)),
    ]
    return "\n".join(lines)


def _shown(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows but those of single sources of drafts, which are many: they are in the file."""
    rows: list[dict[str, Any]] = document["rows"]
    return [row for row in rows if row["sources"] == "all"] if document["kind"] == "drafts" else rows


def _rows(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    lines = [_line(map(_title, columns)), f"|{' --- |' * len(columns)}"]
    return "\n".join([*lines, *(_line(_cell(name, row[name]) for name in columns) for row in rows)])


def _caption(caption: dict[str, str]) -> str:
    model, grammar, cpu = (_text(caption[name]) for name in CAPTION[:3])
    return f"Model {model}; grammar {grammar}; {cpu}; `{caption['command'].replace('`', '')}`."


def _title(column: str) -> str:
    return _text(_TITLES.get(column, column.replace("_", " ")))


def _cell(column: str, value: Any) -> str:
    """How a value is written follows from the column's name."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(str(value))
    if _PERCENT.search(column):
        return f"{value:.1%}"
    if column.endswith("_bytes"):
        return f"{value / (1 << 20):.0f} MiB"
    if "_ms" in column:
        return f"{value:.1f}"
    if "_us" in column:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.4g}"


def _text(value: str) -> str:
    """Text that stays in its cell and is no HTML."""
    return re.sub(r"\s+", " ", value).replace("|", "\\|").replace("<", "&lt;")


def main(arguments: list[str] | None = None) -> int:
    """Write the tables into both files, or check them."""
    parser = argparse.ArgumentParser(prog="python -m edgedsl.bench.table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 5 when README.md is not current")
    parser.add_argument("--results", type=Path, default=Path("bench/results"), help="folder of the results")
    parser.add_argument("--goals", type=Path, default=Path("bench/goals.toml"), help="what is to be reached")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="file with the markers")
    parser.add_argument("--bench-readme", type=Path, default=Path("bench/README.md"), help="the same, by grammar")
    options = parser.parse_args(arguments)

    def run() -> None:
        _run(options.readme, partial(current, results=options.results, goals_file=options.goals), check=options.check)
        _run(options.bench_readme, partial(current_by_grammar, results=options.results), check=options.check)

    return exit_code(run)


def _run(readme: Path, made_current: Callable[[str], str], *, check: bool) -> None:
    try:
        old = readme.read_text(encoding="utf-8")
    except OSError as exc:
        raise DataError(f"'{readme}' cannot be read: {exc.strerror}", hint="run it in the repository root") from exc
    new = made_current(old)
    if check and new != old:
        raise DataError(f"the tables in '{readme}' are not current", hint="run 'python -m edgedsl.bench.table'")
    if new != old:
        atomic.write_text(readme, new)


if __name__ == "__main__":
    sys.exit(main())
