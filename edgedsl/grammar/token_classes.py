"""Tokens by where they lead: inside a string thousands come to the same position, and one verdict does for all.

What a token does inside a lexeme depends on the lexer's state alone and is remembered for it. Where a lexeme ends
inside a token, what is behind it is a token of its own, at a position between two lexemes: the space before a word has
half of a vocabulary behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import count
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from edgedsl.grammar.lalr import Family, Stack
from edgedsl.grammar.position import EMPTY, Automaton, Position

TokenIds = NDArray[np.int32]
Classes = dict[Position, TokenIds]
_MAX_STATES = 4096  # lexer states remembered; one inside a string holds four bytes a token
_MAX_POSITIONS = 4096


class _Inside(NamedTuple):
    """What tokens do in one state of the lexer.

    Attributes:
        ends: state in which a token ends -> token ids.
        cuts: state in which a lexeme may end inside a token -> token ids, and what is behind it as tokens.
    """

    ends: dict[int, TokenIds]
    cuts: dict[int, tuple[TokenIds, TokenClasses]]


class _Found:
    """What was found at positions: of all tokens, and of what is behind some of them.

    A stack keeps all stacks of its family, so what was found for an old one is forgotten with it.
    """

    def __init__(self) -> None:
        self.numbers = count()
        self._family: Family | None = None
        self._classes: dict[tuple[int, Position], Classes] = {}

    def get(self, number: int, position: Position) -> Classes | None:
        return self._classes.get((number, position))

    def keep(self, number: int, position: Position, classes: Classes) -> None:
        family = position.stack.family
        if family is not self._family or len(self._classes) >= _MAX_POSITIONS:
            self._classes.clear()
            self._family = family
        self._classes[number, position] = classes


class TokenClasses:
    """The tokens that may follow at a position, by the position they lead to.

    Args:
        automaton: of the grammar.
        token_bytes: bytes of each token id; empty for those that never spell text.
    """

    def __init__(self, automaton: Automaton, token_bytes: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(token_bytes), np.uint8)
        lengths = np.fromiter(map(len, token_bytes), np.int32, len(token_bytes))
        self._found = _Found()
        self._bind(automaton, (np.cumsum(lengths) - lengths).astype(np.int32), lengths)

    def _bind(self, automaton: Automaton, offsets: TokenIds, lengths: TokenIds) -> None:
        """``offsets`` and ``lengths`` [tokens]: where each token's bytes are."""
        self._automaton = automaton
        self._lengths = lengths
        self._offsets = offsets
        self._number = next(self._found.numbers)
        spelling = np.flatnonzero(self._lengths).astype(np.int32)
        first = self._bytes[self._offsets[spelling]]
        self._by_first = spelling[np.argsort(first, kind="stable")]
        self._first_edges = np.searchsorted(np.sort(first), np.arange(257))
        self._inside_of: dict[int, _Inside] = {}

    def _behind(self, token_ids: TokenIds, depths: TokenIds) -> Self:
        """What these tokens have behind so many bytes, as tokens that are numbered anew."""
        behind = copy(self)
        behind._bind(self._automaton, self._offsets[token_ids] + depths, self._lengths[token_ids] - depths)
        return behind

    def restrict(self, automaton: Automaton) -> TokenClasses:
        """The same tokens over another automaton."""
        restricted = copy(self)
        restricted._automaton = automaton
        restricted._inside_of = {}
        restricted._found = _Found()
        restricted._number = next(restricted._found.numbers)
        return restricted

    def at(self, position: Position) -> Classes:
        """Positions after one token, each with the tokens (ascending) that lead there."""
        classes = self._found.get(self._number, position)
        if classes is None:
            classes = self._find(position)
            self._found.keep(self._number, position, classes)
        return classes

    def _find(self, position: Position) -> Classes:
        stack, lexeme = position
        inside = self._inside(self._automaton.lexer_start(stack) if lexeme == EMPTY else lexeme)
        found = {Position(stack, end): [token_ids] for end, token_ids in inside.ends.items()}
        behind = [] if lexeme == EMPTY else [self._after_end(stack, lexeme)]
        behind += [self._after_cut(stack, state, *cut) for state, cut in inside.cuts.items()]
        for classes in behind:
            for target, token_ids in classes:
                found.setdefault(target, []).append(token_ids)
        return {target: np.sort(np.concatenate(parts)) if parts[1:] else parts[0] for target, parts in found.items()}

    def _after_end(self, stack: Stack, lexeme: int) -> Iterator[tuple[Position, TokenIds]]:
        """Tokens before which the begun lexeme ends, since it cannot go on with their first byte."""
        closed = self._automaton.close(stack, lexeme)
        if closed is None:
            return
        goes_on = self._automaton.dfa.row(lexeme) >= 0
        for target, token_ids in self.at(Position(closed)).items():
            left = token_ids[~goes_on[self._bytes[self._offsets[token_ids]]]]
            if left.size:
                yield target, left

    def _after_cut(
        self, stack: Stack, state: int, token_ids: TokenIds, behind: TokenClasses
    ) -> Iterator[tuple[Position, TokenIds]]:
        closed = self._automaton.close(stack, state)
        if closed is not None:
            for target, numbers in behind.at(Position(closed)).items():
                yield target, token_ids[numbers]

    def _inside(self, state: int) -> _Inside:
        if state not in self._inside_of:
            if len(self._inside_of) >= _MAX_STATES:
                self._inside_of.clear()
            self._inside_of[state] = self._sweep(state)
        return self._inside_of[state]

    def _sweep(self, start: int) -> _Inside:
        """All tokens at once, byte by byte."""
        dfa = self._automaton.dfa
        ends: dict[int, list[TokenIds]] = {}
        cuts: dict[int, list[tuple[TokenIds, int]]] = {}
        row, edges = dfa.row(start), self._first_edges
        begun = np.flatnonzero(row >= 0)
        token_ids = np.concatenate([self._by_first[:0], *(self._by_first[edges[b] : edges[b + 1]] for b in begun)])
        states = row[self._bytes[self._offsets[token_ids]]]
        depth = 1
        while token_ids.size:
            is_end = self._lengths[token_ids] == depth
            for state, members in _grouped(states[is_end], token_ids[is_end]):
                ends.setdefault(state, []).append(members)
            token_ids, states = token_ids[~is_end], states[~is_end]
            following = np.empty_like(states)
            for state, members in _grouped(states, np.arange(states.size, dtype=np.int32)):
                following[members] = dfa.row(state)[self._bytes[self._offsets[token_ids[members]] + depth]]
                if dfa.accepts[state]:
                    cuts.setdefault(state, []).append((token_ids[members[following[members] < 0]], depth))
            token_ids, states = token_ids[following >= 0], following[following >= 0]
            depth += 1
        return _Inside(
            {state: np.sort(np.concatenate(parts)) for state, parts in ends.items()},
            {state: self._cut(parts) for state, parts in cuts.items() if any(cut.size for cut, _ in parts)},
        )

    def _cut(self, parts: list[tuple[TokenIds, int]]) -> tuple[TokenIds, TokenClasses]:
        token_ids = np.concatenate([cut for cut, _ in parts])
        depths = np.concatenate([np.full_like(cut, depth) for cut, depth in parts])
        order = np.argsort(token_ids, kind="stable")
        return token_ids[order], self._behind(token_ids[order], depths[order])


def _grouped(keys: NDArray[np.int32], values: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The values of each key."""
    if not keys.size:
        return
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    for part in np.split(order, edges):
        yield int(keys[part[0]]), values[part]
