"""What is left of a program when the budget is too small: steered to an end, beside cut off as others do it.

Run ``python -m edgedsl.bench.budgets --bundle BUNDLE --pairs PAIRS --num-rows N --output FILE``. A budget is a share of
the reference's number of tokens, and never below the grammar's shortest program.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedsl.bench.command import add_bundle, run
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.evaluation.metrics import exact_match, parse_rate
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, describe, load_average
from edgedsl.grammar import Grammar
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams

SHARES = (1.0, 0.75, 0.5, 0.25)
MAX_TOKENS = 256


@dataclass(frozen=True)
class Budgeted:
    """One answer: with its budget known to the decoder, and the unlimited answer cut off at the budget."""

    target: str
    budget: int
    steered: str
    num_tokens: int
    cut: str


def measure(engine: Engine, pairs: Sequence[Pair], shares: Sequence[float] = SHARES) -> list[dict[str, Any]]:
    """Rows of the result table, one per share, greedy."""
    rows: dict[float, list[Budgeted]] = {share: [] for share in shares}
    for pair in track(pairs, "at every budget"):
        whole = engine.generate(pair.prompt, SamplingParams(max_tokens=MAX_TOKENS))
        reference = len(engine.tokenizer.encode_plain(pair.target))
        for share in shares:
            budget = max(engine.compiled.planner.min_tokens, math.ceil(share * reference))
            steered = engine.generate(pair.prompt, SamplingParams(max_tokens=budget))
            cut = engine.tokenizer.decode(whole.token_ids[:budget])
            rows[share].append(Budgeted(pair.target, budget, steered.text, len(steered.token_ids), cut))
    return [_row(engine, share, answers) for share, answers in rows.items()]


def similarity(one: str, other: str) -> float:
    """Share of characters that two texts have in common, in order (Ratcliff and Obershelp)."""
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _row(engine: Engine, share: float, answers: Sequence[Budgeted]) -> dict[str, Any]:
    targets, steered, cut = ([getattr(a, name) for a in answers] for name in ("target", "steered", "cut"))
    return {
        "budget": f"{share:.0%} of the reference",
        "rows": len(answers),
        "parse_rate": parse_rate(steered, engine.grammar),
        "over_budget": sum(answer.num_tokens > answer.budget for answer in answers),
        "invented_names": sum(_invented(engine.grammar, text) for text in steered if engine.grammar.accepts(text)),
        "exact_match": exact_match(steered, targets),
        "similarity": round(sum(map(similarity, steered, targets)) / len(answers), 4),
        "cut_parse_rate": parse_rate(cut, engine.grammar),
        "cut_exact_match": exact_match(cut, targets),
        "cut_similarity": round(sum(map(similarity, cut, targets)) / len(answers), 4),
    }


def _invented(grammar: Grammar, program: str) -> int:
    """Names in a program that the grammar's catalogue does not have."""
    return len(grammar.catalogue.invented(grammar.tokens(program))) if grammar.catalogue else 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure programs at budgets below what they need.")
    add_bundle(parser, "pairs to measure")
    return run(parser, arguments, _record)


def _record(options: argparse.Namespace) -> dict[str, Any]:
    load = load_average()
    engine = Engine.from_bundle(options.bundle, num_threads=options.num_threads)
    pairs = spread(read_pairs(options.pairs), options.num_rows)
    command = f"python -m edgedsl.bench.budgets --pairs {options.pairs.name} --num-rows {len(pairs)}"
    return {
        **describe(engine, options.bundle, command),
        "kind": "budget",
        "title": f"Programs of {engine.name} below the budget they need",
        "caveats": busy_caveat(load),
        "load_average": load,
        "rows": measure(engine, pairs),
    }


if __name__ == "__main__":
    sys.exit(main())
