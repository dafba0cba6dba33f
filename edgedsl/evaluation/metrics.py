"""How good predictions are."""

from __future__ import annotations

from collections.abc import Sequence

from edgedsl.grammar import Grammar


def exact_match(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that spell their target, white space around it apart; 0.0 for none."""
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    hits = sum(prediction.strip() == target.strip() for prediction, target in zip(predictions, targets, strict=True))
    return hits / len(targets) if targets else 0.0


def parse_rate(predictions: Sequence[str], grammar: Grammar) -> float:
    """Share of predictions that are programs of the language, by Lark; 0.0 for none."""
    return sum(grammar.accepts(prediction) for prediction in predictions) / len(predictions) if predictions else 0.0
