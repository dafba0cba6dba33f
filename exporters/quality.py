"""Exact match of each hop on the dev pairs, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from edgedsl.data.pairs import Pair
from edgedsl.errors import GateError
from edgedsl.evaluation.metrics import exact_match, parse_rate
from edgedsl.grammar import Grammar

HOPS = ("adapter", "merged", "onnx", "quantized")


@dataclass(frozen=True)
class Quality:
    """Programs of one hop under the grammar, against the targets.

    Attributes:
        exact_match: share of programs that spell their target.
        parse_rate: share of programs that Lark parses; below 1 only where ``max_tokens`` cut one off.
    """

    num_rows: int
    exact_match: float
    parse_rate: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)


def measure(programs: Sequence[str], pairs: Sequence[Pair], grammar: Grammar) -> Quality:
    """Compare the program of each pair's prompt with its target."""
    equal = exact_match(programs, [pair.target for pair in pairs])
    return Quality(len(pairs), equal, parse_rate(programs, grammar))


def check_gate(quality: dict[str, Quality], gate: float) -> None:
    """Compare the quantised model with the fp32 adapter.

    Raises:
        GateError: exact match fell below ``gate`` times the adapter's; the message names the hop that lost most.
    """
    reference, served = quality["adapter"].exact_match, quality["quantized"].exact_match
    if served >= gate * reference:
        return
    hops = [hop for hop in HOPS if hop in quality]
    losses = {f"{a} -> {b}": quality[a].exact_match - quality[b].exact_match for a, b in pairwise(hops)}
    worst = max(losses, key=lambda hop: losses[hop])
    raise GateError(
        f"exact match fell from {reference:.1%} (adapter, fp32) to {served:.1%} (as served), "
        f"below the gate of {gate:.0%}; the hop {worst} lost {losses[worst]:.1%}; no bundle was written",
        hint="take '--quantize int8', measure on more rows (--eval-rows), or lower --gate",
    )
