"""Terminals that a lexer may confuse where a parser without one would not.

Lark cuts the text into lexemes before it parses. A character-level source has no such step, so the two agree for sure
only where, in each parser state, no text is a lexeme in two ways and none goes on where the next one may begin.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.grammar import START, Grammar
from edgedsl.grammar.lalr import END, Tables
from edgedsl.grammar.regex import Nfa

_MAX_STATES = 2000


def collisions(grammar: Grammar) -> list[str]:
    """A sentence for each pair of terminals that may be confused, and one where the search was cut short."""
    tables = Tables(grammar.lark, START)
    terminals = [t for t in grammar.lark.terminals if t.name in tables.terminals]
    shown = [f"{t.name} {t.pattern.to_regexp()[:40]!r}" for t in terminals]
    nfa = Nfa()
    starts = {t.name: nfa.add(t.pattern.to_regexp(), t.name) for t in terminals}
    dfa = Dfa(nfa)
    first_bytes = {name: frozenset(_bytes(dfa, dfa.start([start]))) for name, start in starts.items()}
    follow = _follow(tables)
    after = [frozenset[int]().union(*(first_bytes[name] for name in follow[t.name])) for t in terminals]
    found: dict[str, None] = {}
    waiting = list({dfa.start(starts[name] for name in tables.allowed(state)) for state in tables.shifts})
    seen = set(waiting)
    while waiting and len(seen) < _MAX_STATES:
        state = waiting.pop()
        accepted, steps = dfa.accepts[state], _bytes(dfa, state)
        for other in accepted[1:]:
            found[f"one text may be {shown[accepted[0]]} or {shown[other]}; only one of them is tried"] = None
        for number in accepted:
            for longer in {p for byte in after[number] & steps.keys() for p in dfa.patterns[steps[byte]]}:
                found[f"where {shown[number]} may end, {shown[longer]} may go on; only one of them is tried"] = None
        fresh = set(steps.values()) - seen
        seen |= fresh
        waiting += fresh
    if waiting:
        found[f"terminals were compared in {_MAX_STATES} lexer states only; others may be confused too"] = None
    return list(found)


def _bytes(dfa: Dfa, state: int) -> dict[int, int]:
    """Bytes that may come, with the state each leads to."""
    return {byte: target for byte in range(256) if (target := dfa.step(state, byte)) >= 0}


def _follow(tables: Tables) -> dict[str, set[str]]:
    """Terminals that may come right after each symbol."""
    rules, terminals = tables._rules, tables.terminals
    nullable = _nullable(rules)
    first: dict[str, set[str]] = {name: {name} for name in terminals} | {left: set() for left in rules}
    follow: dict[str, set[str]] = {name: set() for name in first}
    is_changing = True
    while is_changing:
        before = sum(map(len, first.values())) + sum(map(len, follow.values()))
        for left, rights in rules.items():
            for right in rights:
                for symbol in _until_solid(right, nullable):
                    first[left] |= first.get(symbol, set())
                _add_follow(left, right, nullable, first, follow)
        is_changing = before != sum(map(len, first.values())) + sum(map(len, follow.values()))
    return follow


def _add_follow(
    left: str, right: tuple[str, ...], nullable: set[str], first: dict[str, set[str]], follow: dict[str, set[str]]
) -> None:
    for at, symbol in enumerate(right):
        if symbol == END:
            continue
        rest = right[at + 1 :]
        for later in _until_solid(rest, nullable):
            follow[symbol] |= first.get(later, set())
        if all(later in nullable for later in rest):
            follow[symbol] |= follow[left]


def _until_solid(symbols: tuple[str, ...], nullable: set[str]) -> Iterator[str]:
    """Symbols up to and with the first that cannot be empty."""
    for symbol in symbols:
        yield symbol
        if symbol not in nullable:
            return


def _nullable(rules: dict[str, list[tuple[str, ...]]]) -> set[str]:
    found: set[str] = set()
    while more := {
        left for left, rights in rules.items() if left not in found and any(found.issuperset(r) for r in rights)
    }:
        found |= more
    return found
