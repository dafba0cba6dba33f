"""The deterministic automaton over the bytes of a grammar's terminals, and the shortest way to a match of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgedsl.grammar.regex import Nfa

_NOWHERE = _FREE = -1  # no next state; no byte is read
PLAIN_LETTER = ord("a")
_WIDE = 20  # bytes: more than digits, fewer than letters


class Dfa:
    """The deterministic automaton of an :class:`Nfa`, built as far as it is walked.

    A state stands for a set of NFA states, so that terminals of one parser state are matched side by side. Like Lark's
    lexer, it takes the first pattern that matches: once one does, patterns of a higher rank are out.

    Args:
        nfa: with all of its patterns.
        ranks: of each pattern; those of one rank go on side by side, and the longest match wins. None: all of one rank.
    """

    def __init__(self, nfa: Nfa, ranks: Sequence[int] | None = None) -> None:
        self._nfa = nfa
        self.ranks = list(ranks) if ranks else [0] * len(nfa.final)
        self._sets: list[tuple[int, ...]] = []
        self._ids: dict[tuple[int, ...], int] = {}
        self._alone: dict[int, int] = {}  # by state of the NFA: the state that begins with it alone
        self._unions: dict[frozenset[int], int] = {}
        self._moves: list[tuple[dict[int, list[int]], list[tuple[int, int, int]]] | None] = []
        self._rows: dict[int, NDArray[np.int32]] = {}
        self._is_wide: dict[int, bool] = {}
        self._found_distances: dict[int, dict[int, float]] = {}
        self.moves: list[dict[int, int]] = []  # per state: what is known of :meth:`step`, by the byte
        self.accepts: list[tuple[int, ...]] = []  # per state: patterns that match here, smallest number first
        self.patterns: list[frozenset[int]] = []  # per state: patterns that may still match
        self._finals = {state: pattern for pattern, state in enumerate(nfa.final)}
        self._distances, self._towards = _nearest_ends(nfa)

    def start(self, states: Iterable[int]) -> int:
        """The state in which the patterns with these start states begin."""
        return self._state(states)

    def union(self, states: Iterable[int]) -> int:
        """The state in which the patterns of several states go on side by side.

        What is known of large ones, as of a catalogue's names, is not worked out again.
        """
        parts = frozenset(state for state in states if self._sets[state])
        if len(parts) == 1:
            return next(iter(parts))
        if parts not in self._unions:
            self._unions[parts] = self._united(parts)
        return self._unions[parts]

    def _united(self, parts: frozenset[int]) -> int:
        members = set().union(*(self._sets[part] for part in parts))
        if any(self.accepts[part] for part in parts):  # one that matches may rule out others
            return self._state(members)
        state = self._add(tuple(sorted(members)))
        if self._moves[state] is None:
            single: dict[int, list[int]] = {}
            wide = []
            for part in parts:
                narrow, ranges = self._moves_of(part)
                for byte, targets in narrow.items():
                    single[byte] = single[byte] + targets if byte in single else targets
                wide += ranges
            self._moves[state] = (single, wide)
        return state

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte; -1 where no pattern goes on."""
        targets = self.moves[state]
        if byte not in targets:
            single, wide = self._moves_of(state)
            reached = [*single.get(byte, ()), *(target for low, high, target in wide if low <= byte <= high)]
            targets[byte] = self._state_of(reached) if reached else -1
        return targets[byte]

    def _moves_of(self, state: int) -> tuple[dict[int, list[int]], list[tuple[int, int, int]]]:
        """Moves on one byte by their byte (a catalogue has thousands), and moves on ranges."""
        moves = self._moves[state]
        if moves is None:
            single: dict[int, list[int]] = {}
            wide = []
            for source in self._sets[state]:
                for low, high, target in self._nfa.moves[source]:
                    if low == high:
                        single.setdefault(low, []).append(target)
                    else:
                        wide.append((low, high, target))
            moves = self._moves[state] = (single, wide)
        return moves

    def row(self, state: int) -> NDArray[np.int32]:
        """The states after each of the 256 bytes; -1 where no pattern goes on."""
        if state not in self._rows:
            single, wide = self._moves_of(state)
            edges = {0, 256, *single, *(byte + 1 for byte in single)}
            edges.update(edge for low, high, _ in wide for edge in (low, high + 1))
            row = np.empty(256, np.int32)
            for low, high in pairwise(sorted(edges)):
                row[low:high] = self.step(state, low)
            if not wide:  # those of a catalogue's names: many, and soon made again
                return row
            self._rows[state] = row
        return self._rows[state]

    def few_bytes(self, state: int) -> list[int] | None:
        """The bytes that lead on; None where ranges make them many."""
        single, wide = self._moves_of(state)
        return None if wide else sorted(single)

    def is_wide(self, state: int) -> bool:
        """Whether ranges lead on with many bytes, as in free text; not single ones, as in names."""
        known = self._is_wide.get(state)
        if known is None:
            _, wide = self._moves_of(state)
            known = self._is_wide[state] = sum(high - low + 1 for low, high, _ in wide) >= _WIDE
        return known

    def min_bytes(self, state: int, pattern: int) -> float:
        """The fewest bytes to a match of the pattern, whatever else matches there too."""
        return self.distances(state).get(pattern, math.inf)

    def length(self, nfa_state: int) -> float:
        """The fewest bytes from a state of the NFA to a match of its pattern."""
        return self._distances[nfa_state]

    def distances(self, state: int) -> dict[int, float]:
        """For each pattern that may still match the fewest bytes to a match of it."""
        found = self._found_distances.get(state)
        if found is None:
            found = self._found_distances[state] = {}
            for member in self._sets[state]:
                pattern, distance = self._nfa.owner[member], self._distances[member]
                if distance < found.get(pattern, math.inf):
                    found[pattern] = distance
        return found

    def rest(self, state: int, pattern: int) -> bytes:
        """The fewest bytes to a match of a pattern that may still match; another one may match there too."""
        members = (member for member in self._sets[state] if self._nfa.owner[member] == pattern)
        member = min(members, key=self._distances.__getitem__)
        text = bytearray()
        while self._towards[member][0] != _NOWHERE:
            member, byte = self._towards[member]
            if byte != _FREE:
                text.append(byte)
        return bytes(text)

    def _state_of(self, states: list[int]) -> int:
        if len(states) > 1:
            return self._state(states)
        (alone,) = states
        if alone not in self._alone:
            is_inside = self._nfa.moves[alone] and not self._nfa.empty[alone]  # most of a long list of names
            self._alone[alone] = self._add((alone,)) if is_inside else self._state(states)
        return self._alone[alone]

    def _state(self, states: Iterable[int]) -> int:
        closure = self._nfa.closure(states)
        owner, ranks, moves = self._nfa.owner, self.ranks, self._nfa.moves
        finals = self._finals.keys() & closure
        # States without moves only pass on; dropping them makes equal states equal.
        members = finals.union(state for state in closure if moves[state])
        if finals:
            best = min(ranks[owner[state]] for state in finals)
            members = {state for state in members if ranks[owner[state]] <= best}
        return self._add(tuple(sorted(members)))

    def _add(self, members: tuple[int, ...]) -> int:
        """The number of the state with these states of the NFA, ascending."""
        if members not in self._ids:
            self._ids[members] = len(self._sets)
            self._sets.append(members)
            self.moves.append({})
            self._moves.append(None)
            self.accepts.append(tuple(sorted(map(self._finals.__getitem__, self._finals.keys() & members))))
            self.patterns.append(frozenset(map(self._nfa.owner.__getitem__, members)))
        return self._ids[members]


def _nearest_ends(nfa: Nfa) -> tuple[list[float], list[tuple[int, int]]]:
    """For each state the fewest bytes to its pattern's end, and the move towards it: next state, byte (-1: none)."""
    distances = [math.inf] * len(nfa.owner)
    towards = [(_NOWHERE, _FREE)] * len(nfa.owner)
    for start in nfa.texts:
        end = nfa.final[nfa.owner[start]]
        distances[start : end + 1] = range(end - start, -1, -1)
        towards[start:end] = [(target, byte) for ((byte, _, target),) in nfa.moves[start:end]]
    before: list[list[tuple[int, int]]] = [[] for _ in nfa.owner]
    for state, distance in enumerate(distances):
        if distance == math.inf:
            for target in nfa.empty[state]:
                before[target].append((state, _FREE))
            for low, high, target in nfa.moves[state]:
                before[target].append((state, _plain(low, high)))
    level = {state: (_NOWHERE, _FREE) for state in nfa.final if distances[state]}
    distance = 0
    while level:
        following: dict[int, tuple[int, int]] = {}
        waiting = list(level.items())
        while waiting:
            state, move = waiting.pop()
            if distances[state] <= distance:
                continue
            distances[state], towards[state] = distance, move
            for source, byte in before[state]:
                if byte == _FREE:
                    waiting.append((source, (state, _FREE)))
                elif byte == PLAIN_LETTER or source not in following:
                    following[source] = (state, byte)
        level, distance = following, distance + 1
    return distances, towards


def _plain(low: int, high: int) -> int:
    """A byte of a range; letters and digits are in more tokens than others."""
    return low if low == high else next((byte for byte in (PLAIN_LETTER, ord("0")) if low <= byte <= high), low)
