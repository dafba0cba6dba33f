"""String literals that have to stand in the sentence: nothing else can be spelt there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lark import Lark

from edgedsl.catalogue import Catalogue
from edgedsl.errors import RequestError

_MAX_WORDS = 12  # of a span
_MAX_SPANS = 2000  # of a sentence: fewer words a span, where there would be more
_QUOTES = ("", '"', "'", '" ', "' ")  # before a span, and mirrored behind it
_TRIMMED = ".,;:!?\"'()"


@dataclass(frozen=True)
class Spans:
    """The words of a sentence in a row, from one word up, as the only texts of some terminals.

    A text is a span as the sentence writes it, or in quotes; what the terminal does not match is left out.

    Attributes:
        terminals: names of terminals of the grammar.
        sentence: what the user said.
    """

    terminals: tuple[str, ...]
    sentence: str

    def check(self, catalogue: Catalogue, lark: Lark) -> None:
        """Refuse terminals whose texts are not free.

        Args:
            catalogue: the whole one: no sentence brings back the names that a part leaves out.
            lark: the grammar.

        Raises:
            RequestError: the grammar has no such terminal, or the catalogue lists its names.
        """
        known, listed = {terminal.name for terminal in lark.terminals}, catalogue.terminals
        for terminal in self.terminals:
            if terminal not in known or terminal in listed:
                expected = "expected terminals of the grammar whose texts are free"
                raise RequestError(
                    f"spans names '{terminal}', {expected}", hint="'edgedsl grammar railroad' shows the terminals"
                )

    def of(self, catalogue: Catalogue, lark: Lark) -> Catalogue:
        """The catalogue with these terminals in it."""
        patterns = {terminal.name: terminal.pattern.to_regexp() for terminal in lark.terminals}
        spans = list(dict.fromkeys(self._spans()))
        found = {terminal: _matching(patterns[terminal], spans) for terminal in self.terminals}
        return Catalogue({**catalogue.names, **{name: {text: {} for text in texts} for name, texts in found.items()}})

    def _spans(self) -> Iterator[str]:
        words = list(re.finditer(r"\S+", self.sentence))
        longest = max(1, min(_MAX_WORDS, _MAX_SPANS // max(1, len(words))))
        for size in range(1, longest + 1):
            for first, last in zip(words, words[size - 1 :], strict=False):
                span = self.sentence[first.start() : last.end()]
                yield span
                yield span.strip(_TRIMMED)


def _matching(pattern: str, spans: list[str]) -> list[str]:
    terminal = re.compile(pattern)
    texts = (quote + span + quote[::-1] for span in spans if span for quote in _QUOTES)
    return [text for text in texts if terminal.fullmatch(text)]
