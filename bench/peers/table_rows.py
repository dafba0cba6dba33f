"""Rows of the result and the ratios: the first contestant beside all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgedsl.bench.peers.contest import Entrant, Standing
from edgedsl.evaluation.statistics import ratio

MAX_DIFFERENCE = 0.005  # of exact match: half a point


def rows(entrants: Sequence[Entrant]) -> list[dict[str, Any]]:
    """One row for each; ratios are those of the first to each other one."""
    first = Standing(entrants[0])
    return [_row(Standing(entrant), first) for entrant in entrants]


def _row(own: Standing, first: Standing) -> dict[str, Any]:
    given, entrant = own.given, own.entrant
    return {
        "contestant": entrant.label,
        "answers": len(entrant.answers),
        "errors": len(entrant.answers) - len(given),
        "unparsed": sum(not answer.parses for answer in given),
        "misplaced_names": sum(answer.is_misplaced for answer in given),
        "wrong": sum(answer.parses and not answer.is_exact for answer in given),
        "exact_match": own.exact_match,
        "answers_per_s": own.answers_per_s,
        "ttft_ms_p50": own.ttft_ms,
        "tpot_ms_p50": own.tpot_ms,
        "e2el_ms_p50": own.e2el_ms,
        "tokens_per_answer": own.num_tokens,
        "load_ms": entrant.opened["load_ms"] if entrant.opened else None,
        "answers_ratio": _quotient(first.answers_per_s, own.answers_per_s),
        "ttft_ratio": _quotient(own.ttft_ms, first.ttft_ms),
        "same_exact_match": _is_same(own, first),
    }


def ratios(entrants: Sequence[Entrant], peers: Sequence[str]) -> dict[str, Any]:
    """For each peer its fastest contestant, among those that match the first one's exact match where there are any.

    Args:
        entrants: the first one is what the others are compared with.
        peers: name of each entrant's peer.
    """
    first = Standing(entrants[0])
    found: dict[str, Any] = {
        "first": entrants[0].label,
        "answers_per_s": first.answers_per_s,
        "exact_match": first.exact_match,
        "peers": {},
    }
    for peer in dict.fromkeys(peers):
        own = [Standing(entrant) for entrant, name in zip(entrants, peers, strict=True) if name == peer]
        best = max(own, key=lambda standing: (_is_same(standing, first) == "yes", standing.answers_per_s or 0.0))
        if best.entrant is not entrants[0]:
            row = _row(best, first)
            names = ("contestant", "answers_ratio", "ttft_ratio", "exact_match", "same_exact_match", "unparsed")
            found["peers"][peer] = {name: row[name] for name in names}
    return found


def failures(entrants: Sequence[Entrant]) -> list[str]:
    """A sentence for each kind of error that a contestant met."""
    lines = []
    for entrant in entrants:
        errors = Counter(answer.error for answer in entrant.answers if answer.error is not None)
        lines += [f"{entrant.label}: {num} times {message}." for message, num in errors.items()]
    return lines


def _quotient(dividend: float | None, divisor: float | None) -> float | None:
    found = ratio(dividend, divisor) if dividend is not None and divisor else None
    return None if found is None else round(found, 2)


def _is_same(own: Standing, first: Standing) -> str | None:
    """Whether the exact match is at most half a point below the first one's."""
    if own.exact_match is None or first.exact_match is None or not own.given:
        return None
    return "yes" if own.exact_match >= first.exact_match - MAX_DIFFERENCE - 1e-9 else "no"
