"""Where an LALR(1) parser cannot choose, with a text that leads there and, where one is found, one of two readings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from lark import Lark
from lark.common import ParserConf
from lark.exceptions import LarkError
from lark.grammar import Rule
from lark.parsers.lalr_analysis import LALR_Analyzer

from edgedsl.grammar.authoring.derivation import Derivations
from edgedsl.grammar.authoring.findings import ERROR, WARNING, Finding
from edgedsl.grammar.authoring.prefixes import Prefixes, shortest_paths
from edgedsl.grammar.authoring.structure import Structure, owner
from edgedsl.grammar.grammar import START

_END = "$END"
_MAX_TRIES = 400
_MAX_SECONDS = 3.0
_MAX_SIZE = 40
_PRIVATE_USE = 0xE000  # one character for each terminal


@dataclass(frozen=True)
class Conflict:
    """A state of the parser with more than one way on.

    Attributes:
        rules: that could be complete here.
        is_shift: whether the text could also just go on; Lark then goes on. Else Lark refuses the grammar.
        symbols: that lead to the state.
        terminal: what comes next, and does not tell.
    """

    rules: tuple[str, ...]
    is_shift: bool
    symbols: tuple[str, ...]
    terminal: str


def conflicts(structure: Structure) -> list[Conflict]:
    """All conflicts of the grammar that priorities do not resolve, the easiest to reach first.

    Raises:
        lark.exceptions.LarkError: a rule that is not defined.
    """
    analyzer: Any = LALR_Analyzer(ParserConf(structure.rules, {}, [START]))  # Lark types half of it
    analyzer.compute_lr0_states()
    analyzer.compute_reads_relations()
    analyzer.compute_includes_lookback()
    analyzer.compute_lookaheads()
    start: Any = analyzer.lr0_start_states[START]
    paths = shortest_paths(
        start, lambda state: [(symbol.name, state.transitions[symbol]) for symbol in state.transitions]
    )
    found = [conflict for state, symbols in paths.items() for conflict in _of_state(structure, state, symbols)]
    return sorted(found, key=lambda c: (c.is_shift, len(c.symbols), c.rules, c.terminal))


def findings(structure: Structure, prefixes: Prefixes) -> Iterator[Finding]:
    """One finding for each set of rules in conflict, and one ambiguous program where there is a conflict.

    Raises:
        lark.exceptions.LarkError: a rule that is not defined.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[Conflict]] = {}
    for conflict in conflicts(structure):
        groups.setdefault((conflict.rules, conflict.is_shift), []).append(conflict)
    for (rules, is_shift), group in groups.items():
        yield _finding(structure, prefixes, rules, is_shift, group)
    ambiguous = ambiguous_program(structure, prefixes) if groups else None
    if ambiguous is not None:
        yield Finding(
            WARNING, "ambiguous", f"{ambiguous!r} has more than one reading", "rewrite the rules so that it has one"
        )


def ambiguous_program(structure: Structure, prefixes: Prefixes) -> str | None:
    """A short program with two derivations; None where a search of some seconds finds none."""
    numbers = {name: number for number, name in enumerate(sorted(structure.terminals))}
    characters = {name: chr(_PRIVATE_USE + number) for name, number in numbers.items()}
    derivations, rng = Derivations(structure), Random(0)
    until, tried = time.monotonic() + _MAX_SECONDS, set[str]()
    try:
        parser = Lark(_over_characters(structure, characters), parser="earley", lexer="basic", ambiguity="explicit")
        for number in range(_MAX_TRIES):
            if time.monotonic() > until:
                return None
            terminals = derivations.random(rng, 2 + number * _MAX_SIZE // _MAX_TRIES)
            text = "".join(characters[name] for name in terminals)
            if text not in tried and next(parser.parse(text).find_data("_ambig"), None) is not None:
                return prefixes.spelled(terminals)
            tried.add(text)
    except (LarkError, RecursionError, KeyError):
        return None
    return None


def _of_state(structure: Structure, state: Any, symbols: tuple[str, ...]) -> Iterator[Conflict]:
    for terminal, rules in state.lookaheads.items():
        left = _preferred(rules)
        names = tuple(sorted(_written(structure, rule) for rule in left))
        if len(left) > 1:
            yield Conflict(names, False, symbols, terminal.name)
        elif terminal in state.transitions:
            yield Conflict(names, True, symbols, terminal.name)


def _preferred(rules: set[Rule]) -> list[Rule]:
    """Rules of the highest priority: as Lark resolves it, one that stands alone wins."""
    top = max(rule.options.priority or 0 for rule in rules)
    return [rule for rule in rules if (rule.options.priority or 0) == top]


def _written(structure: Structure, rule: Rule) -> str:
    right = " ".join(
        structure.label(symbol.name) if symbol.is_term else owner(symbol.name) for symbol in rule.expansion
    )
    return f"{owner(rule.origin.name)}: {right}".strip()


def _finding(
    structure: Structure, prefixes: Prefixes, rules: tuple[str, ...], is_shift: bool, group: list[Conflict]
) -> Finding:
    first = group[0]
    upcoming = "the end" if first.terminal == _END else structure.label(first.terminal)
    more = f", and before {len(group) - 1} more" if len(group) > 1 else ""
    where = f"after {prefixes.text(first.symbols)!r}, before {upcoming}{more}"
    if is_shift:
        return Finding(
            WARNING, "shift/reduce conflict", f"{where}: '{rules[0]}' may be complete or may go on; Lark goes on",
            "rewrite the rule so that one terminal ahead tells, or live with it where both read the same programs",
        )  # fmt: skip
    listed = " or ".join(f"'{rule}'" for rule in rules)
    return Finding(
        ERROR, "reduce/reduce conflict", f"{where}: it may be {listed}; the grammar is not LALR(1)",
        "merge the rules, or let what follows tell them apart",
    )  # fmt: skip


def _over_characters(structure: Structure, characters: dict[str, str]) -> str:
    """The same rules over one character for each terminal, so that lexing can play no part."""
    names = {name: "start" if name == START else f"r{number}" for number, name in enumerate(structure.alternatives)}
    for number, name in enumerate(characters):
        names[name] = f"T{number}"
    lines = [
        f"{names[left]}: " + " | ".join(" ".join(names[s] for s in right) for right in dict.fromkeys(rights))
        for left, rights in structure.alternatives.items()
    ]
    return "\n".join([*lines, *(f'{names[name]}: "{text}"' for name, text in characters.items())])
