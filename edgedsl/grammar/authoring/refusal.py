"""How far a text is the beginning of a program, and what would have had to come there."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from edgedsl.grammar.position import EMPTY, Automaton, Position

THE_END = "the end"
_WIDTH = 72


@dataclass(frozen=True)
class Refusal:
    """Where a text stops to be a program.

    Attributes:
        offset: number of characters that are the beginning of a program.
        line: of the first character that is not, from 1.
        column: of it, from 1.
        excerpt: that line and a caret under the character; long lines are cut.
        expected: terminals that could have come instead.
        is_incomplete: whether all of the text is the beginning of a program, only not a whole one.
    """

    offset: int
    line: int
    column: int
    excerpt: str
    expected: tuple[str, ...]
    is_incomplete: bool

    def __str__(self) -> str:
        what = "the program is not finished" if self.is_incomplete else "not allowed here"
        return f"line {self.line}, column {self.column}: {what}\n{self.excerpt}\nexpected {shorten(self.expected)}"


def find_refusal(automaton: Automaton, text: str, label: Callable[[str], str]) -> Refusal | None:
    """Where a text stops to be a program; None where it is one.

    Args:
        automaton: of the grammar.
        text: to read.
        label: a terminal's name for the reader.
    """
    position, offset = automaton.start(), 0
    for character in text:
        moved = automaton.advance(position, character.encode())
        if moved is None or not is_viable(automaton, moved):
            return _refusal(automaton, position, text, offset, label)
        position, offset = moved, offset + 1
    return None if automaton.is_complete(position) else _refusal(automaton, position, text, offset, label)


def is_viable(automaton: Automaton, position: Position) -> bool:
    """Whether a program can go on from here: LALR tables find some errors only when a begun lexeme is over."""
    return position.lexeme == EMPTY or any(
        automaton.after(position.stack, pattern) is not None for pattern in automaton.dfa.patterns[position.lexeme]
    )


def expected_terminals(automaton: Automaton, position: Position, label: Callable[[str], str]) -> tuple[str, ...]:
    """Terminals that may come next, or go on, and the end where it may come."""
    found: dict[str, None] = {}
    stack = automaton.close(position.stack, position.lexeme)
    if position.lexeme != EMPTY:
        found |= _viable(automaton, position, _going_on(automaton, position.lexeme))
    if stack is not None:
        found |= _viable(automaton, Position(stack), automaton.dfa.patterns[automaton.lexer_start(stack)])
    names = [label(name) for name in found]
    return (*names, THE_END) if automaton.is_complete(position) else tuple(names)


def is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair: JSON and command lines can bring one."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shorten(names: tuple[str, ...], most: int = 12) -> str:
    """Names in a row; of many, the first ones."""
    more = f" ... and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def locate(text: str, offset: int) -> tuple[int, int, str]:
    """Line and column of a character, from 1, and its line with a caret under it."""
    line = text.count("\n", 0, offset) + 1
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    content, column = text[start : end if end >= 0 else len(text)], offset - start
    first = max(0, column - _WIDTH * 2 // 3)
    shown = "".join(c if c.isprintable() else " " for c in content[first : first + _WIDTH])
    indent = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown[: column - first])
    return line, column + 1, f"{shown}\n{' ' * indent}^"


def _going_on(automaton: Automaton, lexeme: int) -> frozenset[int]:
    """Patterns that can take at least one more byte."""
    targets = {automaton.dfa.step(lexeme, byte) for byte in range(256)} - {-1}
    return frozenset(pattern for target in targets for pattern in automaton.dfa.patterns[target])


def _viable(automaton: Automaton, position: Position, patterns: frozenset[int]) -> dict[str, None]:
    names = (automaton.patterns[n].terminal for n in sorted(patterns) if automaton.after(position.stack, n) is not None)
    return dict.fromkeys(names)


def _refusal(automaton: Automaton, position: Position, text: str, offset: int, label: Callable[[str], str]) -> Refusal:
    line, column, excerpt = locate(text, offset)
    expected = expected_terminals(automaton, position, label)
    return Refusal(offset, line, column, excerpt, expected, offset == len(text))
