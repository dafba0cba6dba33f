"""Where a program stands: a stack of LR states and the lexeme that was begun, moved on byte by byte.

This repeats what Lark's contextual lexer and LALR parser do, but on prefixes, and it can say how a prefix may end.
"""

from __future__ import annotations

from dataclasses import dataclass

from lark import Lark
from lark.lexer import PatternStr, TerminalDef

from edgedsl.grammar.lalr import Stack, Tables
from edgedsl.grammar.regex import Dfa, Nfa

EMPTY = -1


@dataclass(frozen=True, slots=True)
class Position:
    """``lexeme`` is the lexer's state inside a begun lexeme, -1 between two."""

    stack: Stack
    lexeme: int = EMPTY


class Automaton:
    """A grammar as a machine over bytes.

    Args:
        lark: compiled with ``parser="lalr"`` and ``lexer="contextual"``.
        start: its start rule.

    Raises:
        GrammarError: a terminal that no finite automaton can match.
    """

    def __init__(self, lark: Lark, start: str) -> None:
        self.tables = Tables(lark, start)
        self.ignored = frozenset(lark.ignore_tokens)
        self._terminals = [t for t in lark.terminals if t.name in self.tables.terminals | self.ignored]
        self._terminals.sort(key=_preference)
        self.names = [terminal.name for terminal in self._terminals]
        self._nfa = Nfa()
        self._starts = {t.name: self._nfa.add(t.pattern.to_regexp(), t.name) for t in self._terminals}
        self.dfa = Dfa(self._nfa)
        self._lexer_starts: dict[int, int] = {}

    def start(self) -> Position:
        """Before the first byte."""
        return Position(self.tables.start())

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
        name = self.names[accepted[0]]  # patterns are numbered by preference
        return stack if name in self.ignored else self.tables.shift(stack, name)

    def lexer_start(self, state: int) -> int:
        """The lexer's state before a lexeme in an LR state."""
        if state not in self._lexer_starts:
            names = self.tables.allowed(state) | self.ignored
            self._lexer_starts[state] = self.dfa.start(self._starts[name] for name in names)
        return self._lexer_starts[state]

    def terminal_start(self, name: str) -> int:
        """The lexer's state before a lexeme of one terminal."""
        return self.dfa.start([self._starts[name]])

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
        begun = self.dfa.step(self.lexer_start(stack.state), byte)
        return (stack, begun) if begun >= 0 else None


def _preference(terminal: TerminalDef) -> tuple[object, ...]:
    """Lark's order of terminals that match one text: priority, fixed strings, then the wider and longer pattern."""
    pattern = terminal.pattern
    is_regex = not isinstance(pattern, PatternStr)
    return (-terminal.priority, is_regex, -pattern.max_width, -len(pattern.value), terminal.name)
