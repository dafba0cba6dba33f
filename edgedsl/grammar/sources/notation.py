"""A cursor over the text of a grammar, and the parts of expressions that GBNF and EBNF share."""

from __future__ import annotations

import re

from edgedsl.errors import GrammarError
from edgedsl.grammar.code_points import Span
from edgedsl.grammar.sources import expression as ex

_MAX_TEXT = 1_000_000


class Cursor:
    """Where a reader stands.

    Args:
        kind: the notation, for messages.
        text: the grammar.
        blank: pattern of what may stand between two tokens.

    Raises:
        GrammarError: the grammar is too long.
    """

    def __init__(self, kind: str, text: str, blank: str) -> None:
        if len(text) > _MAX_TEXT:
            raise GrammarError(
                f"the {kind} has {len(text)} characters, expected at most {_MAX_TEXT}",
                hint="a catalogue holds more: write the terminal with %declare, and the names into catalogue.json",
            )
        self._kind = kind
        self._text = text
        self._blank = re.compile(blank)
        self._at = 0
        self.skip()

    def skip(self) -> None:
        """Pass over what may stand between two tokens."""
        while (match := self._blank.match(self._text, self._at)) and match.end() > self._at:
            self._at = match.end()

    def peek(self, pattern: str) -> re.Match[str] | None:
        """What the pattern matches here."""
        return re.compile(pattern).match(self._text, self._at)

    def take(self, pattern: str) -> re.Match[str] | None:
        """The same, and move behind it and the blanks after it."""
        match = self.peek(pattern)
        if match:
            self._at = match.end()
            self.skip()
        return match

    def expect(self, pattern: str, what: str) -> re.Match[str]:
        """The same, or refuse.

        Raises:
            GrammarError: something else is here.
        """
        match = self.take(pattern)
        if not match:
            raise self.error(f"expected {what}")
        return match

    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._text)

    def error(self, what: str) -> GrammarError:
        """An error at this place."""
        line = self._text.count("\n", 0, self._at) + 1
        found = self._text[self._at :][:16].split("\n")[0]
        return GrammarError(
            f"{self._kind}, line {line}: {what}, found {found!r}"
            if found
            else (f"{self._kind}, line {line}: {what}, found the end of the line"),
            hint=f"correct line {line}; --from names the notation where it is not {self._kind}",
        )


def counted(cursor: Cursor, item: ex.Node) -> ex.Node:
    """The item with the signs ``? * + {m,n}`` that follow it."""
    while sign := cursor.take(r"[?*+]|\{\s*(?P<least>\d*)\s*(?P<comma>,?)\s*(?P<most>\d*)\s*\}"):
        try:
            item = ex.repeat(item, *_counts(sign))
        except GrammarError as exc:
            raise cursor.error(exc.message) from exc
    return item


def _counts(sign: re.Match[str]) -> tuple[int, int | None]:
    if sign[0] in "?*+":
        return int(sign[0] == "+"), 1 if sign[0] == "?" else None
    least = int(sign["least"] or 0)
    return least, int(sign["most"]) if sign["most"] else None if sign["comma"] else least


def classed(chars: list[tuple[int, bool]], is_negated: bool) -> ex.Node:
    """A class of code points; those marked are hyphens that may be the sign of a range.

    Raises:
        GrammarError: a range from a later to an earlier code point.
    """
    spans: list[Span] = []
    at = 0
    while at < len(chars):
        low = high = chars[at][0]
        if at + 2 < len(chars) and chars[at + 1] == (0x2D, True):
            high = chars[at + 2][0]
            at += 2
        if high < low:
            raise GrammarError(f"a range from {chr(low)!r} to {chr(high)!r} is empty")
        spans.append((low, high))
        at += 1
    return ex.other_chars(spans) if is_negated else ex.chars(spans)
