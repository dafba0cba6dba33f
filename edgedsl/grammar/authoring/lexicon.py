"""How terminals are spelled: each one's pattern as an automaton over bytes, and texts that it matches."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from random import Random
from typing import TypeVar

from lark.lexer import TerminalDef

from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.regex import Nfa

Node = TypeVar("Node", bound=Hashable)

_END = 0.3  # chance that a lexeme ends where it may
_LONG = 12  # bytes after which a lexeme ends as soon as it can
_RARE = 0.02  # chance of a character outside ASCII where there are others
_PRINTABLE = range(0x20, 0x7F)
_CONTROL = range(0x20)


class Speller:
    """Finds texts that an automaton over bytes matches."""

    def __init__(self, dfa: Dfa) -> None:
        self._dfa = dfa
        self._bytes: dict[int, list[int]] = {}

    def random(self, start: int, pattern: int, rng: Random) -> bytes:
        """A text that the pattern matches from a state of its own, by a random walk; printable ASCII where it may be.

        Args:
            start: the state before a lexeme of this pattern only.
            pattern: its number.
            rng: makes the choices.
        """
        dfa, state, text = self._dfa, start, bytearray()
        while True:
            allowed = self.allowed(state)
            if dfa.accepts[state] and (not allowed or len(text) >= _LONG or rng.random() < _END):
                return bytes(text)
            if len(text) >= _LONG:
                allowed = self._nearer(state, pattern)
            text.append(rng.choice(_preferred(allowed, rng.random() < _RARE)))
            state = dfa.step(state, text[-1])

    def shortest(self, start: int, pattern: int) -> bytes:
        """The text of fewest bytes that the pattern matches."""
        dfa, state, text = self._dfa, start, bytearray()
        while dfa.min_bytes(state, pattern):
            text.append(_preferred(self._nearer(state, pattern), False)[0])
            state = dfa.step(state, text[-1])
        return bytes(text)

    def allowed(self, state: int) -> list[int]:
        """Bytes that may come next."""
        if state not in self._bytes:
            self._bytes[state] = [byte for byte in range(256) if self._dfa.step(state, byte) >= 0]
        return self._bytes[state]

    def _nearer(self, state: int, pattern: int) -> list[int]:
        """Bytes on a shortest way to a match."""
        dfa = self._dfa
        wanted = dfa.min_bytes(state, pattern) - 1
        allowed = self.allowed(state)
        return [byte for byte in allowed if dfa.min_bytes(dfa.step(state, byte), pattern) <= wanted] or allowed


class Lexicon:
    """Terminals by their names, each with its own automaton.

    Raises:
        GrammarError: a terminal that no finite automaton can match.
    """

    def __init__(self, terminals: Iterable[TerminalDef]) -> None:
        nfa = Nfa()
        self._starts: dict[str, int] = {t.name: nfa.add(t.pattern.to_regexp(), t.name) for t in terminals}
        self._patterns = {name: number for number, name in enumerate(self._starts)}
        self._dfa = Dfa(nfa)
        self._speller = Speller(self._dfa)

    def shortest(self, name: str) -> bytes:
        """The text of fewest bytes that the terminal matches."""
        return self._speller.shortest(self._start(name), self._patterns[name])

    def repeats(self, name: str, characters: bytes) -> bool:
        """Whether the terminal matches texts of any length that are made of these bytes only."""
        dfa = self._dfa
        after: dict[int, set[int]] = {}
        waiting = [self._start(name)]
        while waiting:
            state = waiting.pop()
            if state not in after:
                after[state] = {target for byte in characters if (target := dfa.step(state, byte)) >= 0}
                waiting += after[state]
        ending = closure({state for state in after if dfa.accepts[state]}, _reversed(after))
        live = {state: targets & ending for state, targets in after.items() if state in ending}
        return any(state in closure(targets, live) for state, targets in live.items())

    def matches_only(self, name: str, characters: bytes) -> bool:
        """Whether every text of the terminal is made of these bytes."""
        waiting, seen = [self._start(name)], set[int]()
        while waiting:
            state = waiting.pop()
            if state in seen:
                continue
            seen.add(state)
            if any(byte not in characters for byte in self._speller.allowed(state)):
                return False
            waiting += {self._dfa.step(state, byte) for byte in self._speller.allowed(state)}
        return True

    def _start(self, name: str) -> int:
        return self._dfa.start([self._starts[name]])


def _preferred(allowed: list[int], is_rare: bool) -> list[int]:
    printable = [byte for byte in allowed if byte in _PRINTABLE]
    others = [byte for byte in allowed if byte not in _PRINTABLE and byte not in _CONTROL]
    return (others if is_rare else printable) or printable or others or allowed


def _reversed(after: dict[int, set[int]]) -> dict[int, set[int]]:
    before: dict[int, set[int]] = {state: set() for state in after}
    for state, targets in after.items():
        for target in targets:
            before[target].add(state)
    return before


def closure(states: set[Node], after: Mapping[Node, set[Node]]) -> set[Node]:
    """The nodes that are reached from some, and those themselves."""
    reached: set[Node] = set()
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        if state not in reached:
            reached.add(state)
            waiting += after.get(state, ())
    return reached
