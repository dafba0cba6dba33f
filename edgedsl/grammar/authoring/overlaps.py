"""Terminals that swallow others: where two may come next and one matches what the other begins with, or just that.

Lark takes one reading; llguidance keeps both. A text that only the other reading completes is lost to one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from edgedsl.grammar.authoring.findings import WARNING, Finding
from edgedsl.grammar.authoring.prefixes import Prefixes, shortest_paths
from edgedsl.grammar.authoring.refusal import shorten
from edgedsl.grammar.authoring.structure import Structure
from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.lalr import Stack, Tables
from edgedsl.grammar.position import Automaton

_MAX_STATES = 10_000
_HINT = "take what follows into the terminal, or make the shorter one not match there"


class Overlap(NamedTuple):
    """``text`` is matched by ``terminal``; ``other`` matches it too, or goes on behind it."""

    terminal: str
    other: str
    text: bytes
    is_same: bool
    state: int


def findings(structure: Structure, automaton: Automaton, prefixes: Prefixes) -> Iterator[Finding]:
    """Overlaps with their shortest examples; many of one terminal are one finding."""
    tables = automaton.tables
    start = tables.start().state
    paths = shortest_paths(start, lambda state: _shifts(tables, state))
    search = _Search(automaton)
    for hub, group in _groups(search.overlaps(list(paths))):
        first = group[0]
        where = f"after {prefixes.text(paths[first.state])!r}" if paths[first.state] else "at the start"
        yield Finding(WARNING, "terminals overlap", f"{where}: {_described(structure, hub, group)}", _HINT)
    if search.is_cut:
        yield Finding(
            WARNING, "overlaps not all searched", f"the terminals have more than {_MAX_STATES} states in common"
        )


def _shifts(tables: Tables, state: int) -> list[tuple[str, int]]:
    return sorted(tables.shifts[state].items())


def _groups(overlaps: Iterable[Overlap]) -> Iterator[tuple[str, list[Overlap]]]:
    """The terminal that most overlaps share, with them; then the same of the rest."""
    pairs: dict[frozenset[str], Overlap] = {}
    for overlap in sorted(overlaps, key=lambda o: not o.is_same):
        pairs.setdefault(frozenset((overlap.terminal, overlap.other)), overlap)
    left = list(pairs.values())
    while left:
        shared = Counter((o.is_same, name) for o in left for name in (o.other, o.terminal))
        (is_same, hub), _ = shared.most_common(1)[0]
        group = [o for o in left if o.is_same == is_same and hub in (o.terminal, o.other)]
        yield hub, group
        left = [o for o in left if o not in group]


def _described(structure: Structure, hub: str, group: list[Overlap]) -> str:
    first = group[0]
    one, other = structure.label(first.terminal), structure.label(first.other)
    relation = "also matches" if first.is_same else "goes on behind"
    text = f"{one} matches {first.text.decode(errors='replace')!r}, and {other} {relation} it"
    others = tuple(structure.label(o.other if o.terminal == hub else o.terminal) for o in group[1:])
    return f"{text}; {structure.label(hub)} overlaps so with {shorten(others, 6)} too" if others else text


class _Search:
    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        # All of one rank: the lexer's own automaton drops what a better terminal keeps from matching, which is what is
        # looked for.
        self._dfa = Dfa(automaton.nfa)
        self._visits = 0
        self._found: dict[tuple[str, str, bool], Overlap] = {}
        self._pairs: set[frozenset[str]] = set()
        self.is_cut = False

    def overlaps(self, states: list[int]) -> list[Overlap]:
        """Overlaps of terminals that may come next in the same state."""
        seen: set[int] = set()
        for state in states:
            start = self._dfa.start(self._automaton.nfa_starts(Stack(state, None)))
            if start not in seen:
                seen.add(start)
                self._search(start, state)
        return list(self._found.values())

    def _search(self, start: int, state: int) -> None:
        """Breadth first: the first text that shows an overlap is a shortest one."""
        dfa = self._dfa
        texts = {start: b""}
        waiting = [start]
        for reached in waiting:
            self._visits += 1
            if self._visits > _MAX_STATES:
                self.is_cut = True
                return
            if self._is_settled(dfa.patterns[reached]):
                continue
            targets = self._targets(reached)
            self._compare(reached, targets, texts[reached], state)
            for target, byte in targets.items():
                if target not in texts:
                    texts[target] = texts[reached] + bytes([byte])
                    waiting.append(target)

    def _is_settled(self, patterns: frozenset[int]) -> bool:
        """Whether nothing new can come behind: one terminal goes on alone, or with known overlaps."""
        terminals = sorted({self._terminal(pattern) for pattern in patterns})
        return all(frozenset(pair) in self._pairs for pair in combinations(terminals, 2))

    def _targets(self, state: int) -> dict[int, int]:
        targets: dict[int, int] = {}
        for byte in _BYTES:
            target = self._dfa.step(state, byte)
            if target >= 0:
                targets.setdefault(target, byte)
        return targets

    def _compare(self, state: int, targets: dict[int, int], text: bytes, parser_state: int) -> None:
        dfa = self._dfa
        matching = dict.fromkeys(self._terminal(p) for p in dfa.accepts[state])
        if not matching:
            return
        going_on = [{self._terminal(p) for p in dfa.patterns[target]} for target in targets]
        for one in matching:
            for other in matching:
                if one < other:
                    self._add(Overlap(one, other, text, True, parser_state))
            # Where the one goes on with the same byte, nothing is cut off yet.
            for other in sorted(set().union(*(names for names in going_on if one not in names))):
                self._add(Overlap(one, other, text, False, parser_state))

    def _add(self, overlap: Overlap) -> None:
        self._pairs.add(frozenset((overlap.terminal, overlap.other)))
        self._found.setdefault((overlap.terminal, overlap.other, overlap.is_same), overlap)

    def _terminal(self, pattern: int) -> str:
        return self._automaton.patterns[pattern].terminal


# Readable bytes first: they make the examples.
_BYTES = (
    *range(0x61, 0x7B),
    *range(0x30, 0x3A),
    *range(0x20, 0x30),
    *range(0x3A, 0x61),
    *range(0x7B, 256),
    *range(0x20),
)
