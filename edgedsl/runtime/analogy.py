"""Programs made to fit a request: what a like sentence says otherwise is replaced in its program.

"Play jazz in the kitchen" has the program ``play(genre: jazz, room: kitchen)``; so "play folk in the hall" should have
``play(genre: folk, room: hall)``. A guess to draft from, no more: the model checks every token of it.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from edgedsl.tokenizer import Tokenizer

_WORD = re.compile(r"\w+|[^\w\s]")


class Analogy:
    """Fits programs to one sentence.

    Args:
        tokenizer: of the model.
        sentence: what the user said.
    """

    def __init__(self, tokenizer: Tokenizer, sentence: str) -> None:
        self._tokenizer = tokenizer
        self._words = _Words(sentence)
        self._known = frozenset(self._words.texts)
        self._matcher = SequenceMatcher(None, autojunk=False)
        self._matcher.set_seq2(self._words.texts)  # what it learns of the second it uses again
        self._encoded: dict[str, list[int]] = {}  # like sentences often come to the same program

    def fit(self, sentence_token_ids: list[int], program_token_ids: list[int]) -> list[int]:
        """The program of another sentence in this one's words, in tokens."""
        program = self._tokenizer.decode(program_token_ids)
        fitted = self.fit_text(self._tokenizer.decode(sentence_token_ids), program)
        if fitted == program:
            return program_token_ids
        if fitted not in self._encoded:
            self._encoded[fitted] = self._tokenizer.encode_plain(fitted)
        return self._encoded[fitted]

    def fit_text(self, sentence: str, program: str) -> str:
        """The program of another sentence in this one's words; unchanged where it holds none that differ."""
        other = _Words(sentence)
        if not any(text in program for text in set(other.texts) - self._known):
            return program
        changes = self._changes(other)
        found = [old for old in changes if old in program]
        if not found:
            return program
        longest_first = "|".join(re.escape(old) for old in sorted(found, key=len, reverse=True))
        return re.sub(rf"(?<!\w)(?:{longest_first})(?!\w)", lambda match: changes[match[0]], program)

    def _changes(self, other: _Words) -> dict[str, str]:
        """What stands in this sentence where the other has something else: whole stretches, and word by word."""
        self._matcher.set_seq1(other.texts)
        changes: dict[str, str] = {}
        for kind, first, end, own_first, own_end in self._matcher.get_opcodes():
            if kind != "replace":
                continue
            changes[other.span(first, end)] = self._words.span(own_first, own_end)
            if end - first == own_end - own_first:  # a program may have the words apart
                pairs = zip(other.texts[first:end], self._words.texts[own_first:own_end], strict=True)
                changes.update((old, new) for old, new in pairs if old not in changes)
        return changes


class _Words:
    """The words and signs of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [match.span() for match in _WORD.finditer(text)]
        self.texts = [text[start:end] for start, end in self._spans]

    def span(self, first: int, end: int) -> str:
        """The text of words in a row."""
        return self._text[self._spans[first][0] : self._spans[end - 1][1]]
