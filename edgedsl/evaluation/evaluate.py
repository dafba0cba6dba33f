"""How good a bundle is on pairs: with the grammar, without it, against memory, and where it misses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedsl.config import Config
from edgedsl.data.baseline import NearestNeighbour
from edgedsl.data.pairs import Pair, read_pairs, spread
from edgedsl.evaluation import refusals
from edgedsl.evaluation.answers import Answer, answer, latencies
from edgedsl.evaluation.misses import count_classes, miss_class
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.record import busy_caveat, describe, load_average
from edgedsl.evaluation.statistics import ratio
from edgedsl.grammar import Grammar
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams


@dataclass(frozen=True)
class Row:
    """One pair and what came of it.

    Attributes:
        miss: why the prediction is not the target (:func:`edgedsl.evaluation.misses.miss_class`); None for a hit.
        no_grammar: the answer decoded without the grammar; None where that was not done.
        is_seen: whether the target stands in the training pairs; None where these are not known.
        neighbour: the target of the nearest training prompt; None where these are not known.
    """

    pair: Pair
    answer: Answer
    parses: bool
    miss: str | None
    no_grammar: Answer | None
    no_grammar_parses: bool
    is_seen: bool | None
    neighbour: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for predictions.jsonl."""
        given, free = self.answer, self.no_grammar
        return {
            "id": self.pair.id,
            "group": self.pair.group,
            "prompt": self.pair.prompt,
            "target": self.pair.target,
            "prediction": given.text,
            "exact_match": self.miss is None,
            "miss": self.miss,
            "parses": self.parses,
            "finish_reason": given.finish_reason,
            "error": given.error,
            "completion_tokens": given.completion_tokens,
            "e2el_ms": round(given.e2el_ms, 3),
            "target_in_train": self.is_seen,
            "nearest_neighbour": self.neighbour,
            "no_grammar": None
            if free is None
            else {"prediction": free.text, "parses": self.no_grammar_parses, "error": free.error},
        }


@dataclass(frozen=True)
class Evaluation:
    """``record`` is result.json (no row of the data in it), ``rows`` are the lines of predictions.jsonl.

    Rows of the pairs that should be refused come last; they are in no figure of the record but those of refusals.
    """

    record: dict[str, Any]
    rows: list[Row]

    @property
    def errors(self) -> list[str]:
        """Messages of the rows that failed."""
        return [row.answer.error for row in self.rows if row.answer.error is not None]


def evaluate_bundle(
    config: Config,
    bundle: Path,
    pairs_file: Path,
    *,
    num_rows: int | None,
    num_no_grammar: int,
    command: str,
    refusals_file: Path | None = None,
) -> Evaluation:
    """Load a bundle and measure it on pairs; the training pairs of ``config`` give the baseline where they exist.

    Args:
        num_rows: take so many pairs, evenly spaced over the file; None takes all.
        num_no_grammar: decode so many of them also without the grammar.
        command: goes into the record.
        refusals_file: pairs that should be refused, measured for that beside the others.

    Raises:
        DataError: pairs that cannot be read.
        GrammarError: ``refusals_file`` for a grammar without a refusal.
        BundleError: not a complete, unchanged bundle.
        ProviderError: the execution provider cannot run here.
    """
    every = read_pairs(pairs_file)
    pairs = spread(every, num_rows)
    to_refuse = read_pairs(refusals_file) if refusals_file else []
    train_file = config.path(config.data.train)
    train = read_pairs(train_file) if train_file.exists() else None
    params = SamplingParams.from_section(config.generate)
    load = load_average()
    engine = Engine.from_bundle(bundle, **asdict(config.runtime))
    if refusals_file:
        refusals.require(engine.grammar)
    rows = evaluate(engine, pairs, train, params, num_no_grammar=num_no_grammar)
    refused = evaluate(engine, to_refuse, train, params, num_no_grammar=0) if to_refuse else []
    measured = summarise(rows) | {"refusals": _refusals(engine.grammar, [*rows, *refused])}
    num_free = measured["no_grammar"]["num_rows"]
    caveats = [*busy_caveat(load), *_caveats(config, measured, len(every), params), *_head_caveat(engine, num_free)]
    record = {
        **describe(engine, bundle, command),
        "kind": "quality",
        "title": f"Quality of {engine.name}",
        "caveats": caveats,
        "pairs": _identity(pairs_file),
        "refusal_pairs": _identity(refusals_file) if refusals_file else None,
        "sampling": asdict(params),
        "load_average": load,
        "rows": [_table_row(engine, measured)],
        "summary": measured,
        "config": config.to_dict(),
    }
    return Evaluation(record, [*rows, *refused])


def evaluate(
    engine: Engine, pairs: Sequence[Pair], train: Sequence[Pair] | None, params: SamplingParams, *, num_no_grammar: int
) -> list[Row]:
    """Decode every pair under the grammar, and ``num_no_grammar`` of them, evenly spaced, also without it."""
    seen = {pair.target.strip() for pair in train or ()}
    neighbours = NearestNeighbour(train) if train else None
    constrained = [answer(engine, pair.prompt, params) for pair in track(pairs, "with the grammar")]
    sample = spread(pairs, num_no_grammar)
    free = {
        pair.source: answer(engine, pair.prompt, params, constrained=False)
        for pair in (track(sample, "without it") if sample else ())
    }
    return [
        _row(
            engine.grammar,
            pair,
            given,
            free.get(pair.source),
            is_seen=pair.target.strip() in seen if train else None,
            neighbour=neighbours.predict(pair.prompt) if neighbours else None,
        )
        for pair, given in zip(pairs, constrained, strict=True)
    ]


def _row(
    grammar: Grammar, pair: Pair, given: Answer, free: Answer | None, *, is_seen: bool | None, neighbour: str | None
) -> Row:
    miss = None
    if not given.is_exact(pair.target):
        miss = miss_class(grammar, pair.target, given.text, finish_reason=given.finish_reason)
    parses = given.error is None and grammar.accepts(given.text)
    free_parses = free is not None and free.error is None and grammar.accepts(free.text)
    return Row(pair, given, parses, miss, free, free_parses, is_seen, neighbour)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers of result.json. Every share counts rows that failed as misses; None is: not measured."""
    free = [row for row in rows if row.no_grammar is not None]
    unseen = [row for row in rows if row.is_seen is False]
    near = [row for row in rows if row.neighbour is not None]
    return {
        "num_rows": len(rows),
        "num_errors": sum(row.answer.error is not None for row in rows),
        "num_at_max_tokens": sum(row.answer.finish_reason == "length" for row in rows),
        "exact_match": ratio(sum(row.miss is None for row in rows), len(rows)),
        "parse_rate": ratio(sum(row.parses for row in rows), len(rows)),
        "no_grammar": _no_grammar(free),
        "unseen_targets": {
            "num_rows": len(unseen) if near else None,
            "exact_match": ratio(sum(row.miss is None for row in unseen), len(unseen)),
        },
        "nearest_neighbour_exact_match": ratio(
            sum((row.neighbour or "").strip() == row.pair.target.strip() for row in near), len(near)
        ),
        "tokens_per_answer": ratio(
            sum(row.answer.completion_tokens for row in rows), sum(row.answer.error is None for row in rows)
        ),
        "latency": latencies(row.answer for row in rows),
        "misses": [{"class": name, "count": n} for name, n in count_classes(row.miss for row in rows if row.miss)],
    }


def _no_grammar(rows: Sequence[Row]) -> dict[str, Any]:
    """The same rows with and without the grammar."""
    answers = [(row, row.no_grammar) for row in rows if row.no_grammar is not None]
    return {
        "num_rows": len(rows),
        "num_errors": sum(free.error is not None for _, free in answers),
        "num_at_max_tokens": sum(free.finish_reason == "length" for _, free in answers),
        "parse_rate": ratio(sum(row.no_grammar_parses for row in rows), len(rows)),
        "exact_match": ratio(sum(free.is_exact(row.pair.target) for row, free in answers), len(rows)),
        "parse_rate_with_grammar": ratio(sum(row.parses for row in rows), len(rows)),
        "exact_match_with_grammar": ratio(sum(row.miss is None for row in rows), len(rows)),
    }


def _refusals(grammar: Grammar, rows: Sequence[Row]) -> dict[str, Any] | None:
    return refusals.measure(grammar, [row.pair for row in rows], [row.answer.text for row in rows])


def _identity(file: Path) -> dict[str, str]:
    return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _table_row(engine: Engine, measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "bundle": engine.name,
        "rows": measured["num_rows"],
        "exact_match": measured["exact_match"],
        "exact_match_unseen": measured["unseen_targets"]["exact_match"],
        "nearest_neighbour_exact_match": measured["nearest_neighbour_exact_match"],
        "parse_rate": measured["parse_rate"],
        "no_grammar_parse_rate": measured["no_grammar"]["parse_rate"],
        **refusals.columns(measured["refusals"]),
        "at_max_tokens": measured["num_at_max_tokens"],
        "errors": measured["num_errors"],
        "e2el_ms_p50": measured["latency"]["e2el_ms"]["p50"],
    }


def _head_caveat(engine: Engine, num_free: int) -> list[str]:
    num_tokens = len(engine.head.token_ids) if engine.head and num_free else 0
    return [f"Without the grammar, too, only the {num_tokens:,} tokens of the trimmed head came."] if num_tokens else []


def _caveats(config: Config, measured: dict[str, Any], num_pairs: int, params: SamplingParams) -> list[str]:
    num_rows, num_free = measured["num_rows"], measured["no_grammar"]["num_rows"]
    lines = []
    if num_rows < num_pairs:
        lines.append(f"Measured on {num_rows} of {num_pairs} pairs, evenly spaced.")
    if num_free == 0:
        lines.append("Decoding without the grammar was not measured (--no-grammar-rows 0).")
    elif num_free < num_rows:
        lines.append(f"Decoding without the grammar was measured on {num_free} of the rows, evenly spaced.")
    if measured["unseen_targets"]["num_rows"] is None:
        lines.append(
            f"There are no training pairs at '{config.data.train}': neither the nearest neighbour nor the rows with "
            "a target that training never saw could be measured."
        )
    if params.temperature:
        lines.append(f"Sampled at temperature {params.temperature:g} (seed {params.seed}), not greedy.")
    return lines
