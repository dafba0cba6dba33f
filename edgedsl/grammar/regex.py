"""The regular expressions of terminals as one nondeterministic automaton over bytes.

A terminal's pattern is a Python regular expression, as Lark hands it out. ``re``'s own parser reads it; what a finite
automaton cannot do (look-around, back-references, anchors) is refused, and llguidance refuses it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import Span, matched, utf8_ranges

_sre: Any = getattr(re, "_parser")  # noqa: B009  the parser behind re.compile; its module has no public name
_op: Any = getattr(re, "_constants")  # noqa: B009

_ASCII = 128
_IGNORE_CASE = int(re.IGNORECASE)  # a flag of the enum is slow to compare with, and names have many characters
_MAX_REPEAT = 1000


class Nfa:
    """States with empty moves and moves on byte ranges; patterns are added one after the other.

    Attributes:
        empty: for each state, where it goes for free.
        moves: for each state, ``(first byte, last byte, next state)``.
        owner: for each state, the number of the pattern it belongs to.
        final: for each pattern, its only accepting state.
        texts: start states of patterns that are one text; one state follows the other up to the final one.
    """

    def __init__(self) -> None:
        self.empty: list[list[int]] = []
        self.moves: list[list[tuple[int, int, int]]] = []
        self.owner: list[int] = []
        self.final: list[int] = []
        self.texts: list[int] = []

    def add(self, pattern: str, name: str) -> int:
        """Add a pattern and return its start state.

        Raises:
            GrammarError: not a regular expression, or one that no finite automaton can match.
        """
        try:
            tree = _sre.parse(pattern)
        except re.error as exc:
            raise GrammarError(f"terminal {name}: '{pattern}' is not a regular expression: {exc}") from exc
        builder = _Builder(self, len(self.final), name)
        start = builder.state()
        self.final.append(builder.sequence(tree, start, tree.state.flags))
        return start

    def closure(self, states: Iterable[int]) -> set[int]:
        """These states and those that they reach for free."""
        closure, empty = set(states), self.empty
        waiting = [state for state in closure if empty[state]]  # few of many: names have none
        while waiting:
            for target in empty[waiting.pop()]:
                if target not in closure:
                    closure.add(target)
                    waiting.append(target)
        return closure

    def matches(self, start: int, text: bytes) -> bool:
        """Whether the pattern with this start state matches all of a text."""
        states = self.closure([start])
        for byte in text:
            if not states:
                return False
            states = self.closure(
                target for state in states for low, high, target in self.moves[state] if low <= byte <= high
            )
        return self.final[self.owner[start]] in states

    def copy(self) -> Nfa:
        """One that can be added to without changing this one."""
        copied = Nfa()
        # The moves of a pattern's states do not change once it is built.
        copied.empty, copied.moves = list(self.empty), list(self.moves)
        copied.owner, copied.final, copied.texts = list(self.owner), list(self.final), list(self.texts)
        return copied

    def add_text(self, text: bytes) -> int:
        """Add a pattern that is one text and return its start state."""
        start = len(self.owner)
        self.owner += [len(self.final)] * (len(text) + 1)
        self.empty += ([] for _ in range(len(text) + 1))
        self.moves += ([(byte, byte, state)] for state, byte in enumerate(text, start + 1))
        self.moves.append([])
        self.texts.append(start)
        self.final.append(start + len(text))
        return start


class _Builder:
    """Thompson's construction for one pattern: each method adds a piece after ``start`` and returns where it ends."""

    def __init__(self, nfa: Nfa, owner: int, name: str) -> None:
        self._nfa = nfa
        self._owner = owner
        self._name = name

    def state(self) -> int:
        self._nfa.empty.append([])
        self._nfa.moves.append([])
        self._nfa.owner.append(self._owner)
        return len(self._nfa.owner) - 1

    def sequence(self, items: Iterable[Any], start: int, flags: int) -> int:
        for operator, argument in items:
            start = self._piece(operator, argument, start, flags)
        return start

    def _piece(self, operator: Any, argument: Any, start: int, flags: int) -> int:
        if _is_one_byte(operator, argument, flags):
            return self._move(start, argument, argument, self.state())
        if operator in (_op.LITERAL, _op.NOT_LITERAL, _op.IN, _op.ANY):
            return self._characters(matched(operator, argument, flags), start)
        if operator is _op.BRANCH:
            return self._branch(argument[1], start, flags)
        if operator is _op.SUBPATTERN:
            _, added, removed, items = argument
            return self.sequence(items, start, (flags | added) & ~removed)
        if operator in (_op.MAX_REPEAT, _op.MIN_REPEAT):
            least, most, items = argument
            return self._repeat(least, most, items, start, flags)
        raise GrammarError(
            f"terminal {self._name}: {str(operator).lower()} is not supported",
            hint="write the terminal without look-around, anchors, back-references and atomic groups",
        )

    def _characters(self, spans: Iterable[Span], start: int) -> int:
        end = self.state()
        for first, last in spans:
            for ranges in utf8_ranges(first, last):
                state = start
                for low, high in ranges[:-1]:
                    state = self._move(state, low, high, self.state())
                self._move(state, *ranges[-1], end)
        return end

    def _move(self, state: int, low: int, high: int, target: int) -> int:
        self._nfa.moves[state].append((low, high, target))
        return target

    def _branch(self, branches: Sequence[Any], start: int, flags: int) -> int:
        """Texts share their beginnings: a long list of names has one way in for each first letter."""
        end = self.state()
        trie: dict[tuple[int, int], int] = {}
        for items in branches:
            if all(_is_one_byte(operator, argument, flags) for operator, argument in items):
                last = start
                for _, byte in items:
                    key = (last, byte)
                    if key not in trie:
                        trie[key] = self._move(last, byte, byte, self.state())
                    last = trie[key]
            else:
                first = self.state()
                self._nfa.empty[start].append(first)
                last = self.sequence(items, first, flags)
            self._nfa.empty[last].append(end)
        return end

    def _repeat(self, least: int, most: Any, items: Any, start: int, flags: int) -> int:
        if least > _MAX_REPEAT:
            raise GrammarError(
                f"terminal {self._name}: at least {least} repeats are not supported, expected at most {_MAX_REPEAT}"
            )
        if most is not _op.MAXREPEAT and most > _MAX_REPEAT:
            # Written out, it would be as long as the longest text. Both engines count it; the ways to end are the same.
            most = _op.MAXREPEAT
        for _ in range(least):
            start = self.sequence(items, start, flags)
        end = self.state()
        if most is _op.MAXREPEAT:
            loop = self.state()
            self._nfa.empty[start].append(loop)
            self._nfa.empty[self.sequence(items, loop, flags)].append(loop)
            self._nfa.empty[loop].append(end)
            return end
        for _ in range(most - least):
            self._nfa.empty[start].append(end)
            start = self.sequence(items, start, flags)
        self._nfa.empty[start].append(end)
        return end


def _is_one_byte(operator: Any, argument: Any, flags: int) -> bool:
    """Most of a long list of names is."""
    return operator is _op.LITERAL and argument < _ASCII and not flags & _IGNORE_CASE
