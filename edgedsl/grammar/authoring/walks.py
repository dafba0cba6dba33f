"""Walks through a grammar with a tokenizer's tokens: dead ends, engines that disagree, tokens that are ever legal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from random import Random

import numpy as np
from lark.lexer import TerminalDef
from numpy.typing import NDArray

from edgedsl.errors import GenerationError
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.matcher import Matcher
from edgedsl.grammar.position import Automaton, Position
from edgedsl.grammar.regex import Nfa
from edgedsl.grammar.vocabulary import Vocabulary

_DETOUR_EVERY = 5  # tokens of a program
_DETOUR_TOKENS = 8
_MAX_COMPARED = 200  # places where each token is asked of both engines
_KEPT = 3  # disagreements of one place
_MAX_NFA_STATES = 6_000
_UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}  # those that text may hold


class Walker:
    """Follows programs token by token, and leaves them for random tokens now and then.

    Attributes:
        num_states: places that were looked at.
        dead_ends: texts that begin a program for the decoding engine, and that no token can go on.
        disagreements: texts that begin a program for the decoding engine, but not for Lark.
        mask_us: time of each mask.
    """

    def __init__(self, compiled: CompiledGrammar, seed: int = 0) -> None:
        self._compiled = compiled
        self._planner = compiled.planner
        self._rng = Random(seed)
        self._bitmask = np.zeros(compiled.bitmask_size, np.int32)
        self._reached = np.zeros(compiled.bitmask_size, np.int32)
        self._ends = sorted(compiled.end_token_ids)
        self._num_compared = 0
        self.num_states = 0
        self.dead_ends: list[str] = []
        self.disagreements: list[str] = []
        self.mask_us: list[float] = []

    @property
    def reached(self) -> set[int]:
        """Tokens that were legal anywhere, without those that end a program."""
        return set(_ids(self._reached).tolist()) - self._compiled.end_token_ids

    def walk(self, token_ids: Sequence[int]) -> bool:
        """Follow a program; False where the decoding engine does not take it."""
        try:
            return self._follow(token_ids)
        except GenerationError:
            return False

    def _follow(self, token_ids: Sequence[int]) -> bool:
        matcher = self._compiled.matcher()
        position: Position | None = self._planner.automaton.start()
        for number, token_id in enumerate(token_ids):
            self._look(matcher, token_ids[:number])
            self._compare(position, token_ids[:number])
            position = position and self._planner.automaton.advance(position, self._bytes([token_id]))
            if number % _DETOUR_EVERY == 0:
                self._detour(token_ids[:number])
            matcher.consume(token_id)
        self._look(matcher, token_ids)
        self._compare(position, token_ids)
        return matcher.is_accepting()

    def _compare(self, position: Position | None, token_ids: Sequence[int]) -> None:
        """Tokens of the mask that Lark's lexer would not take; not everywhere, since it takes long."""
        if position is None or self._num_compared == _MAX_COMPARED:
            return
        self._num_compared += 1
        taken = self._compiled.end_token_ids.union(*map(np.ndarray.tolist, self._planner.classes.at(position).values()))
        refused = set(_ids(self._bitmask).tolist()) - taken
        self.disagreements += [self._text([*token_ids, token_id]) for token_id in sorted(refused)[:_KEPT]]

    def _detour(self, token_ids: Sequence[int]) -> None:
        matcher, taken = self._compiled.matcher(), list(token_ids)
        for token_id in token_ids:
            matcher.consume(token_id)
        position: Position | None = self._planner.automaton.advance(self._planner.automaton.start(), self._bytes(taken))
        for _ in range(_DETOUR_TOKENS):
            self._look(matcher, taken)
            allowed = np.setdiff1d(_ids(self._bitmask), self._ends, assume_unique=True)
            if not len(allowed) or position is None:
                return
            taken.append(int(self._rng.choice(allowed)))
            position = self._planner.automaton.advance(position, self._bytes(taken[-1:]))
            if position is None:
                self.disagreements.append(self._text(taken))
                return
            try:
                matcher.consume(taken[-1])
            except GenerationError:  # the engine finds no way on: it has no word for a dead end
                self.dead_ends.append(self._text(taken))
                return
            if np.isinf(self._planner.rough_bound(position)):
                self.dead_ends.append(self._text(taken))

    def _look(self, matcher: Matcher, token_ids: Sequence[int]) -> None:
        """Make the mask of this place."""
        started = time.perf_counter()
        matcher.fill_bitmask(self._bitmask)
        self.mask_us.append(1e6 * (time.perf_counter() - started))
        self.num_states += 1
        self._reached |= self._bitmask
        if not self._bitmask.any() and not matcher.is_accepting() and not matcher.is_stopped():
            self.dead_ends.append(self._text(token_ids))

    def _bytes(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(self._planner.vocabulary.token_bytes[i] for i in token_ids)

    def _text(self, token_ids: Iterable[int]) -> str:
        return self._bytes(token_ids).decode(errors="replace")


def forced_bytes(compiled: CompiledGrammar, texts: Iterable[str]) -> tuple[int, int]:
    """Bytes of programs that were the only legal one, and all bytes.

    Args:
        compiled: over a tokenizer whose tokens are single bytes.
        texts: programs.
    """
    bitmask = np.zeros(compiled.bitmask_size, np.int32)
    num_forced = num_bytes = 0
    for text in texts:
        matcher = compiled.matcher()
        for byte in text.encode():
            matcher.fill_bitmask(bitmask)
            num_forced += len(_ids(bitmask)) == 1
            num_bytes += 1
            matcher.consume(byte)
    return num_forced, num_bytes


def possible_tokens(vocabulary: Vocabulary, terminals: Iterable[TerminalDef], reached: set[int]) -> int | None:
    """An upper bound of the tokens that can ever be legal: those that some row of terminals, in any order, may hold.

    Args:
        vocabulary: the tokens.
        terminals: of the grammar.
        reached: tokens that are known to be legal somewhere.

    Returns:
        Their number; None for a grammar so large that it would take long.
    """
    nfa = Nfa()
    starts = [nfa.add(terminal.pattern.to_regexp(), terminal.name) for terminal in terminals]
    if len(nfa.owner) > _MAX_NFA_STATES:
        return None
    for final in nfa.final:
        nfa.empty[final] += starts
    dfa = Dfa(nfa)
    others = Vocabulary([b"" if i in reached else data for i, data in enumerate(vocabulary.token_bytes)])
    return len(reached) + sum(1 for _ in others.walk(dfa.start(range(len(nfa.owner))), _stepper(dfa)))


def unspellable(automaton: Automaton, vocabulary: Vocabulary) -> list[str]:
    """Terminals that no row of tokens spells."""
    single = {data[0] for data in vocabulary.token_bytes if len(data) == 1}
    if single >= _UTF8_BYTES:
        return []
    return [
        t for t in automaton.terminals if not any(_spells(automaton, vocabulary, p) for p in automaton.patterns_of(t))
    ]


def _spells(automaton: Automaton, vocabulary: Vocabulary, pattern: int) -> bool:
    dfa = automaton.dfa
    waiting = [automaton.pattern_start(pattern)]
    seen = set(waiting)
    while waiting:
        for _, target in vocabulary.walk(waiting.pop(), _stepper(dfa), dfa.few_bytes):
            if dfa.accepts[target]:
                return True
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return False


def _stepper(dfa: Dfa) -> Callable[[int, int], int | None]:
    def step(state: int, byte: int) -> int | None:
        target = dfa.step(state, byte)
        return target if target >= 0 else None

    return step


def _ids(bitmask: NDArray[np.int32]) -> NDArray[np.intp]:
    return np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))
