"""Where a program stands: a stack of LR states and the lexeme that was begun, moved on byte by byte.

This repeats what Lark's contextual lexer and LALR parser do, but on prefixes, and it can say how a prefix may end.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import NamedTuple

from lark import Lark
from lark.lexer import PatternStr, TerminalDef

from edgedsl.catalogue import Catalogue
from edgedsl.grammar.dfa import Dfa
from edgedsl.grammar.lalr import Stack, Tables
from edgedsl.grammar.node import Node
from edgedsl.grammar.regex import Nfa
from edgedsl.grammar.scopes import Scopes

EMPTY = -1
# About 2 KB each with what is known of it; parts of a catalogue may be many at a time.
_MAX_STACKS, _MAX_RESTRICTED_STACKS = 40_000, 4_000


class Position(NamedTuple):
    """``lexeme`` is the lexer's state inside a begun lexeme, -1 between two."""

    stack: Stack
    lexeme: int = EMPTY

    @property
    def node(self) -> Node:
        """What is known of it."""
        nodes = self.stack.nodes
        # Requests of several threads share nodes; all must get the same object.
        return nodes.get(self.lexeme) or nodes.setdefault(self.lexeme, Node())


class Pattern(NamedTuple):
    """A terminal, or one name that a catalogue terminal may spell."""

    terminal: str
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
        self.nfa = Nfa()
        self.patterns: list[Pattern] = []  # fixed strings before the expressions that spell them too
        self._by_terminal: dict[str, list[int]] = {}
        self._by_name: dict[tuple[str, str], int] = {}
        names = catalogue.terminals if catalogue else {}
        used = [t for t in lark.terminals if t.name in self.tables.terminals | self.ignored]
        order = sorted(used, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
        for terminal in sorted(order, key=lambda t: not isinstance(t.pattern, PatternStr)):
            self._add(terminal, names.get(terminal.name))
        ranks = self._ranks(order, names)
        self.dfa = Dfa(self.nfa, [ranks[pattern.terminal] for pattern in self.patterns])
        self._distances: dict[int, dict[str, list[tuple[float, int]]]] = {}
        self._max_stacks = _MAX_STACKS
        self._bind(catalogue)

    def _ranks(self, order: Sequence[TerminalDef], names: Mapping[str, Container[str]]) -> dict[str, int]:
        """The order in which Lark tries terminals.

        A fixed string that a regular expression of its priority spells has that one's rank: Lark lets the expression
        match, and then looks whether the text is the string.

        Args:
            order: by priority, then the wider and longer pattern.
            names: by terminal those of a catalogue: long lists that are looked up, not matched.
        """
        ranks = {terminal.name: rank for rank, terminal in enumerate(order)}
        strings = [terminal for terminal in order if isinstance(terminal.pattern, PatternStr)]
        for expression in reversed(order):  # of several that spell a string the first one counts
            if not isinstance(expression.pattern, PatternStr):
                for string in strings:
                    text = string.pattern.value
                    if string.priority == expression.priority and self._spells(expression.name, text, names):
                        ranks[string.name] = ranks[expression.name]
        return ranks

    def _spells(self, expression: str, text: str, names: Mapping[str, Container[str]]) -> bool:
        if expression in names:
            return text in names[expression]
        (pattern,) = self._by_terminal[expression]
        return self.nfa.matches(self.patterns[pattern].start, text.encode())

    def _bind(self, catalogue: Catalogue | None) -> None:
        self._scopes = Scopes(catalogue)
        self._names: dict[tuple[str, str], dict[int, int]] = {}
        self._lexer_starts: dict[tuple[int, int], int] = {}
        self._plain_starts: dict[int, int] = {}
        self._names_starts: dict[tuple[str, str], int] = {}
        self._root: Stack | None = None

    def restrict(self, catalogue: Catalogue) -> Automaton:
        """The same machine with other names; it shares its tables with this one, and its lexer, if no name is new.

        Args:
            catalogue: a part of the one that this was made with, and perhaps other terminals of the grammar.
        """
        restricted = copy(self)
        names = catalogue.terminals
        if any((terminal, name) not in self._by_name for terminal in names for name in names[terminal]):
            restricted._add_names(names)
        restricted._by_terminal = self._by_terminal | {
            terminal: [restricted._by_name[terminal, name] for name in names.get(terminal, ())]
            for terminal in (self.catalogue_terminals | catalogue.names.keys()) & self._by_terminal.keys()
        }
        restricted._max_stacks = _MAX_RESTRICTED_STACKS
        restricted._bind(catalogue)
        return restricted

    def _add_names(self, names: Mapping[str, Iterable[str]]) -> None:
        """Names that the lexer does not know yet, in a lexer of its own."""
        self.nfa, self.patterns, self._by_name = self.nfa.copy(), list(self.patterns), dict(self._by_name)
        self._by_terminal, self._distances = dict(self._by_terminal), {}
        ranks = {pattern.terminal: rank for pattern, rank in zip(self.patterns, self.dfa.ranks, strict=True)}
        for terminal in names.keys() & self._by_terminal.keys():
            self._by_terminal[terminal] = list(self._by_terminal[terminal])
            for name in names[terminal]:
                if (terminal, name) not in self._by_name:
                    self._add_name(terminal, name)
        self.dfa = Dfa(self.nfa, [ranks[pattern.terminal] for pattern in self.patterns])

    @property
    def terminals(self) -> list[str]:
        """Names of the terminals, those it ignores too."""
        return list(self._by_terminal)

    @property
    def catalogue_terminals(self) -> frozenset[str]:
        """Those of the terminals whose names a catalogue lists."""
        return self._scopes.terminals & self._by_terminal.keys()

    def patterns_of(self, terminal: str) -> list[int]:
        """Numbers of a terminal's patterns."""
        return self._by_terminal[terminal]

    def start(self) -> Position:
        """Before the first byte.

        Programs share their stacks, and so what is known of them, until these have become many.
        """
        if self._root is None or self._root.family.size > self._max_stacks:
            self._root = self.tables.start()
        return Position(self._root)

    def advance(self, position: Position, data: bytes) -> Position | None:
        """The position after more bytes; None where no program begins so."""
        stack, lexeme = position
        moves, step = self.dfa.moves, self.dfa.step
        for byte in data:
            if lexeme != EMPTY:
                inside = moves[lexeme].get(byte)
                if inside is None:
                    inside = step(lexeme, byte)
                if inside >= 0:
                    lexeme = inside
                    continue
                closed = self.close(stack, lexeme)
                if closed is None:
                    return None
                stack = closed
            lexeme = step(self.lexer_start(stack), byte)
            if lexeme < 0:
                return None
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
        if pattern not in stack.after:
            stack.after[pattern] = self._after(stack, pattern)
        return stack.after[pattern]

    def _after(self, stack: Stack, pattern: int) -> Stack | None:
        terminal = self.patterns[pattern].terminal
        if terminal in self.ignored:
            return stack
        if terminal not in self._scopes.terminals:
            return self.tables.shift(stack, terminal)
        scope = self._scope_of(stack.environment, terminal).get(pattern)
        if scope is None:
            return None
        return self.tables.shift(stack, terminal, partial(self._scopes.enter, scope=scope) if scope else None)

    def lexer_start(self, stack: Stack) -> int:
        """The lexer's state before a lexeme."""
        key = (stack.state, stack.environment)
        if key not in self._lexer_starts:
            named = (self.tables.allowed(stack.state) | self.ignored) & self._scopes.terminals
            starts = [self._names_start(terminal, stack.environment) for terminal in named]
            self._lexer_starts[key] = self.dfa.union([self._plain_start(stack.state), *starts])
        return self._lexer_starts[key]

    def is_wide(self, position: Position) -> bool:
        """Whether many bytes may follow: free text."""
        stack, lexeme = position
        return self.dfa.is_wide(self.lexer_start(stack) if lexeme == EMPTY else lexeme)

    def _plain_start(self, state: int) -> int:
        """The lexer's state before a lexeme that is no name of the catalogue."""
        if state not in self._plain_starts:
            terminals = (self.tables.allowed(state) | self.ignored) - self._scopes.terminals
            self._plain_starts[state] = self.dfa.start(self._starts(n for t in terminals for n in self.patterns_of(t)))
        return self._plain_starts[state]

    def _names_start(self, terminal: str, environment: int) -> int:
        """The lexer's state before one of the names that a terminal may spell in an environment."""
        key = self._scopes.key(environment, terminal)
        if key not in self._names_starts:
            self._names_starts[key] = self.dfa.start(self._starts(self._scope_of(environment, terminal)))
        return self._names_starts[key]

    def _starts(self, patterns: Iterable[int]) -> list[int]:
        return [self.patterns[n].start for n in patterns]

    def nfa_starts(self, stack: Stack) -> list[int]:
        """States of the NFA in which the patterns begin that may come next."""
        terminals = self.tables.allowed(stack.state) | self.ignored
        return self._starts(n for t in terminals for n in self._allowed(t, stack.environment))

    def terminal_start(self, terminal: str) -> int:
        """The lexer's state before a lexeme of one terminal, whatever may be bound."""
        return self.dfa.start(self._starts(self._by_terminal[terminal]))

    def pattern_start(self, pattern: int) -> int:
        """The lexer's state before a lexeme of one pattern only."""
        return self.dfa.start([self.patterns[pattern].start])

    def length(self, terminal: str) -> float:
        """Bytes of the shortest lexeme of a terminal; infinite where no name is left of it."""
        return min((self.dfa.length(self.patterns[n].start) for n in self._by_terminal[terminal]), default=math.inf)

    def distances(self, lexeme: int) -> dict[str, list[tuple[float, int]]]:
        """By terminal, the patterns that a begun lexeme may become: bytes to a match and number, the nearest first."""
        if lexeme not in self._distances:
            found: dict[str, list[tuple[float, int]]] = {}
            for pattern, num_bytes in self.dfa.distances(lexeme).items():
                found.setdefault(self.patterns[pattern].terminal, []).append((num_bytes, pattern))
            self._distances[lexeme] = {terminal: sorted(patterns) for terminal, patterns in found.items()}
        return self._distances[lexeme]

    def _allowed(self, terminal: str, environment: int) -> Iterable[int]:
        if terminal not in self._scopes.terminals:
            return self._by_terminal[terminal]
        return self._scope_of(environment, terminal)

    def _scope_of(self, environment: int, terminal: str) -> dict[int, int]:
        """Patterns of the names that a terminal may spell in an environment, with the scopes they open."""
        key = self._scopes.key(environment, terminal)
        if key not in self._names:
            names = self._scopes.tables[key]
            self._names[key] = {self._by_name[terminal, name]: scope for name, scope in names.items()}
        return self._names[key]

    def _add(self, terminal: TerminalDef, names: Iterable[str] | None) -> None:
        if names is None:
            self._add_pattern(terminal.name, self.nfa.add(terminal.pattern.to_regexp(), terminal.name))
        for name in names or ():
            self._add_name(terminal.name, name)

    def _add_name(self, terminal: str, name: str) -> None:
        self._by_name[terminal, name] = self._add_pattern(terminal, self.nfa.add_text(name.encode()))

    def _add_pattern(self, terminal: str, start: int) -> int:
        self.patterns.append(Pattern(terminal, start))
        self._by_terminal.setdefault(terminal, []).append(len(self.patterns) - 1)
        return len(self.patterns) - 1
