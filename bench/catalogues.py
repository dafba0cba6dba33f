"""What a large catalogue costs: functions with their own parameters, compiled, decoded from random logits, restricted.

Run ``python -m edgedsl.bench.catalogues --tokenizer tokenizer.json --output FILE``. Each size has a process of its own,
so that its memory is its own too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from edgedsl.bench.command import at_least, document, run, say
from edgedsl.bench.memory import memory_now
from edgedsl.catalogue import Catalogue, bind
from edgedsl.errors import GenerationError
from edgedsl.evaluation.record import load_average
from edgedsl.grammar import Grammar, Subset
from edgedsl.grammar.authoring.fuzz import Fuzzer
from edgedsl.grammar.authoring.token_set import open_tokens

SIZES = (50, 500, 1000, 5000)
SOURCE = """
start: call
call: FUNCTION "(" [argument (", " argument)*] ")"
argument: PARAMETER "=" (TEXT | NUMBER | call)
TEXT: /"[a-z ]{0,20}"/
NUMBER: /[0-9]{1,6}/
%declare FUNCTION
%declare PARAMETER
"""
_VERBS = ("get", "list", "create", "update", "delete", "send", "find", "move", "start", "stop")
_NOUNS = ("mail", "event", "file", "ticket", "invoice", "contact", "room", "order", "sensor", "report")
_PARAMETERS = tuple(f"{noun}_{part}" for noun in _NOUNS for part in ("id", "name", "size", "time", "state", "owner"))
_NUM_SUBSETS, _SUBSET_SIZE = 7, 20


def made_catalogue(num_functions: int) -> Catalogue:
    """Functions with two to six parameters each, always the same ones."""
    rng = Random(num_functions)
    names = [f"svc{n // 100}.{_VERBS[n % 10]}_{_NOUNS[n // 10 % 10]}_{n}" for n in range(num_functions)]
    functions = {name: {"PARAMETER": rng.sample(_PARAMETERS, rng.randint(2, 6))} for name in names}
    return Catalogue.from_dict({"FUNCTION": functions})


def measure(num_functions: int, tokenizer: Path, num_programs: int) -> dict[str, Any]:
    """One row of the table.

    Raises:
        GenerationError: a program does not parse, is over its budget or holds an invented name.
    """
    tokens, catalogue = open_tokens(tokenizer), made_catalogue(num_functions)
    before, started = memory_now()["rss"], time.perf_counter()
    grammar = Grammar(bind(SOURCE, catalogue), name=f"{num_functions} functions", catalogue=catalogue)
    read = time.perf_counter()
    compiled = tokens.compile(grammar)
    _ = compiled.planner
    ready = time.perf_counter()
    held = memory_now()["rss"]
    names, rng = list(catalogue.names["FUNCTION"]), Random(0)
    subset_ms: list[float] = []
    for _ in range(_NUM_SUBSETS):
        subset = Subset.from_lists(allow=rng.sample(names, _SUBSET_SIZE))
        begun = time.perf_counter()
        compiled.restrict(*subset)
        subset_ms.append(1000 * (time.perf_counter() - begun))
    fuzzer = Fuzzer(grammar, tokens, catalogue)
    result = fuzzer.run(num_programs)
    if fuzzer.failures:
        raise GenerationError(f"{num_functions} functions: {fuzzer.failures[0]}")
    return {
        "functions": num_functions,
        "read_ms": round(1000 * (read - started), 1),
        "compile_ms": round(1000 * (ready - read), 1),
        "subset_ms_p50": round(statistics.median(subset_ms), 2),
        "subset_ms_max": round(max(subset_ms), 2),
        "mask_us_p50": result.mask_us_p50,
        "mask_us_p99": result.mask_us_p99,
        "memory_bytes": None if before is None or held is None else held - before,
        "programs": result.n,
        "parse_rate": result.parsed / result.n,
        "invented_names": result.invented_names,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure catalogues of many functions.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a model")
    parser.add_argument("--size", type=at_least(1), action="append", help="functions; may be repeated")
    parser.add_argument("--n", type=at_least(1), default=200, help="programs from random logits")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    rows = []
    one = partial(measure, tokenizer=options.tokenizer, num_programs=options.n)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        for row in processes.map(one, options.size or SIZES):
            say(f"{row['functions']} functions: {row['compile_ms']:.0f} ms to compile")
            rows.append(row)
    return document(
        "catalogues",
        "Catalogues of many functions",
        rows,
        load,
        model=f"none, a tokenizer of {open_tokens(options.tokenizer).tokenizer.vocab_size:,} tokens",
        grammar="calls with parameters of their own, made for this",
        cpu="one thread",
        command=f"python -m edgedsl.bench.catalogues --tokenizer tokenizer.json --n {options.n}",
    )


if __name__ == "__main__":
    sys.exit(main())
