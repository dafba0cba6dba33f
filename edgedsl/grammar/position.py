"""Where a program stands: a stack of LR states and the lexeme that was begun, moved on byte by byte.

This repeats what Lark's contextual lexer and LALR parser do, but on prefixes, and it can say how a prefix may end.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from lark import Lark
from lark.lexer import PatternStr, TerminalDef

from edgedsl.catalogue import Catalogue
from edgedsl.grammar.lalr import Stack, Tables
from edgedsl.grammar.regex import Dfa, Nfa
from edgedsl.grammar.scopes import Scopes

EMPTY = -1
_MAX_STACKS = 50_000  # about 500 bytes each with what is known of it


class Position(NamedTuple):
    """``lexeme`` is the lexer's state inside a begun lexeme, -1 between two."""

    stack: Stack
    lexeme: int = EMPTY


class Pattern(NamedTuple):
    """A terminal, or some of the names that a catalogue terminal may spell, with the scope they open."""

    terminal: str
    scope: int
    start: int


class Automaton:
    """A grammar as a machine over bytes.

    Args:
        lark: compiled with ``parser="lalr"`` and ``lexer="contextual"``.
        start: its start rule.
        catalogue: what its declared terminals may spell.

    Raises:
        GrammarError: a terminal that no finite automaton can match.
    """

    def __init__(self, lark: Lark, start: str, catalogue: Catalogue | None = None) -> None:
        self.tables = Tables(lark, start)
        self.ignored = frozenset(lark.ignore_tokens)
        self._scopes = Scopes(catalogue)
        self.nfa = Nfa()
        self.patterns: list[Pattern] = []  # in the order in which Lark prefers them
        self._by_table: dict[tuple[str, str], list[int]] = {}
        self._by_terminal: dict[str, list[int]] = {}
        used = [t for t in lark.terminals if t.name in self.tables.terminals | self.ignored]
        ranks = _ranks(used)
        for terminal in sorted(used, key=lambda t: (ranks[t.name], not isinstance(t.pattern, PatternStr))):
            self._add(terminal)
        self.dfa = Dfa(self.nfa, [ranks[pattern.terminal] for pattern in self.patterns])
        self._lexer_starts: dict[tuple[int, int], int] = {}
        self._root: Stack | None = None

    @property
    def terminals(self) -> list[str]:
        """Names of the terminals, those it ignores too."""
        return list(self._by_terminal)

    def patterns_of(self, terminal: str) -> list[int]:
        """Numbers of a terminal's patterns."""
        return self._by_terminal[terminal]

    def start(self) -> Position:
        """Before the first byte.

        Programs share their stacks, and so what is known of them, until these have become many.
        """
        if self._root is None or self._root.family.size > _MAX_STACKS:
            self._root = self.tables.start()
        return Position(self._root)

    def advance(self, position: Position, data: bytes) -> Position | None:
        """The position after more bytes; None where no program begins so."""
        stack, lexeme = position.stack, position.lexeme
        for byte in data:
            moved = self.step((stack, lexeme), byte)
            if moved is None:
                return None
            stack, lexeme = moved
        return Position(stack, lexeme)

    def is_complete(self, position: Position) -> bool:
        """Whether the bytes so far are a whole program."""
        stack = self.close(position.stack, position.lexeme)
        return stack is not None and self.tables.is_complete(stack)

    def close(self, stack: Stack, lexeme: int) -> Stack | None:
        """The stack once the begun lexeme ends here; None where it cannot."""
        if lexeme == EMPTY:
            return stack
        accepted = self.dfa.accepts[lexeme]
        if not accepted:
            return None
        return self.after(stack, accepted[0])

    def after(self, stack: Stack, pattern: int) -> Stack | None:
        """The stack after a lexeme of one pattern; None where it cannot come."""
        terminal, scope, _ = self.patterns[pattern]
        if terminal in self.ignored:
            return stack
        return self.tables.shift(stack, terminal, partial(self._scopes.enter, scope=scope) if scope else None)

    def lexer_start(self, stack: Stack) -> int:
        """The lexer's state before a lexeme."""
        key = (stack.state, stack.environment)
        if key not in self._lexer_starts:
            self._lexer_starts[key] = self.dfa.start(self.nfa_starts(stack))
        return self._lexer_starts[key]

    def nfa_starts(self, stack: Stack) -> list[int]:
        """States of the NFA in which the patterns begin that may come next."""
        terminals = self.tables.allowed(stack.state) | self.ignored
        return [self.patterns[n].start for t in terminals for n in self._allowed(t, stack.environment)]

    def terminal_start(self, terminal: str) -> int:
        """The lexer's state before a lexeme of one terminal, whatever may be bound."""
        return self.dfa.start(self.patterns[n].start for n in self._by_terminal[terminal])

    def pattern_start(self, pattern: int) -> int:
        """The lexer's state before a lexeme of one pattern only."""
        return self.dfa.start([self.patterns[pattern].start])

    def _allowed(self, terminal: str, environment: int) -> list[int]:
        if terminal not in self._scopes.terminals:
            return self._by_terminal[terminal]
        return self._by_table[self._scopes.key(environment, terminal)]

    def _add(self, terminal: TerminalDef) -> None:
        tables = [key for key in self._scopes.tables if key[0] == terminal.name]
        if not tables:
            self._add_pattern(terminal.name, terminal.pattern.to_regexp(), 0)
        for key in tables:
            self._by_table[key] = [
                self._add_pattern(terminal.name, "|".join(map(re.escape, group.names)), group.scope)
                for group in self._scopes.tables[key]
            ]

    def _add_pattern(self, terminal: str, regex: str, scope: int) -> int:
        self.patterns.append(Pattern(terminal, scope, self.nfa.add(regex, terminal)))
        self._by_terminal.setdefault(terminal, []).append(len(self.patterns) - 1)
        return len(self.patterns) - 1

    def step(self, position: tuple[Stack, int], byte: int) -> tuple[Stack, int] | None:
        """One byte further; positions as plain pairs, since this runs for every byte of every token."""
        stack, lexeme = position
        if lexeme != EMPTY:
            inside = self.dfa.step(lexeme, byte)
            if inside >= 0:
                return stack, inside
            closed = self.close(stack, lexeme)
            if closed is None:
                return None
            stack = closed
        begun = self.dfa.step(self.lexer_start(stack), byte)
        return (stack, begun) if begun >= 0 else None


def _ranks(terminals: list[TerminalDef]) -> dict[str, int]:
    """The order in which Lark tries terminals: by priority, then the wider and longer pattern.

    A fixed string that a regular expression of its priority spells has that one's rank: Lark lets the expression match,
    and then looks whether the text is the string.
    """
    order = sorted(terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    ranks = {terminal.name: rank for rank, terminal in enumerate(order)}
    expressions = [(t, re.compile(t.pattern.to_regexp())) for t in order if not isinstance(t.pattern, PatternStr)]
    for terminal in order:
        if isinstance(terminal.pattern, PatternStr):
            covering = [
                ranks[other.name]
                for other, expression in expressions
                if other.priority == terminal.priority and expression.fullmatch(terminal.pattern.value)
            ]
            ranks[terminal.name] = min(covering, default=ranks[terminal.name])
    return ranks
