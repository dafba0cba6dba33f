"""How often a model says no: where it should, and where it should not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedsl.data.pairs import Pair
from edgedsl.errors import GrammarError
from edgedsl.evaluation.statistics import ratio
from edgedsl.grammar import Grammar
from edgedsl.grammar.refusals import RULE, can_refuse, is_refusal

# Beyond these, groups are no kinds of requests but single phrases or rows.
MAX_KINDS = 12


def measure(grammar: Grammar, pairs: Sequence[Pair], texts: Sequence[str]) -> dict[str, Any] | None:
    """Refusals among the answers ``texts`` to ``pairs``, one each; "" is an answer that failed, and no refusal.

    Returns:
        ``num_rows`` pairs whose target is a refusal and the share ``refusal_rate`` of them that was refused; ``kinds``:
        the same by kind, which is a pair's group up to a colon; ``num_programs`` other pairs and the share
        ``wrong_refusal_rate`` of them. A share of nothing is None. None: the grammar has no refusal.
    """
    if not can_refuse(grammar):
        return None
    refused = [is_refusal(grammar, text) for text in texts]
    is_wanted = {target: is_refusal(grammar, target) for target in {pair.target for pair in pairs}}
    kinds: dict[str, list[bool]] = {}
    programs: list[bool] = []
    for pair, said_no in zip(pairs, refused, strict=True):
        answers = kinds.setdefault(kind(pair), []) if is_wanted[pair.target] else programs
        answers.append(said_no)
    wanted = [said_no for answers in kinds.values() for said_no in answers]
    return {
        "num_rows": len(wanted),
        "refusal_rate": ratio(sum(wanted), len(wanted)),
        "kinds": [
            {"kind": name, "num_rows": len(answers), "refusal_rate": ratio(sum(answers), len(answers))}
            for name, answers in kinds.items()
            if name and len(kinds) <= MAX_KINDS
        ],
        "num_programs": len(programs),
        "wrong_refusal_rate": ratio(sum(programs), len(programs)),
    }


def kind(pair: Pair) -> str:
    """What kind of request a pair is: its group up to a colon; "" where it has none."""
    return pair.group.split(":")[0].strip()


def columns(measured: dict[str, Any] | None) -> dict[str, float | None]:
    """The cells of a table of results: all refusals, each kind, and the wrong ones."""
    if measured is None:
        return {}
    kinds = {f"{item['kind']}_refusal_rate": item["refusal_rate"] for item in measured["kinds"]}
    return {"refusal_rate": measured["refusal_rate"], **kinds, "wrong_refusal_rate": measured["wrong_refusal_rate"]}


def require(grammar: Grammar) -> None:
    """Refuse to measure refusals under a grammar that has none.

    Raises:
        GrammarError: no rule ``refusal`` can be reached from the start.
    """
    if not can_refuse(grammar):
        raise GrammarError(
            f"grammar '{grammar.name}' has no rule '{RULE}' that can be reached from the start",
            hint="leave out --refusals, or add it to the grammar and to the training pairs",
        )
