"""Words of the sentence as a source of drafts: where a program repeats it, in names and texts (prompt look-up).

A word has other tokens after a space than after a quote or a bracket; those behind it in a text have their spaces.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import chain, islice

from edgedsl.tokenizer import Tokenizer

_BREAK = -2  # matches no token
_LONGEST = 8
# Chance that a program goes on as the sentence after so many tokens in common; each source is corrected as it goes.
_CHANCES = (0.0, 0.15, 0.5, 0.75, 0.85, 0.9, 0.9, 0.95, 0.95)


class Copies:
    """Finds the end of a program in a sentence.

    Args:
        tokenizer: of the model.
        sentence: what the user said.
    """

    def __init__(self, tokenizer: Tokenizer, sentence: str) -> None:
        words = sentence.split()
        spaced = [tokenizer.encode_plain(" " + word) for word in words]
        self._tokens = [_BREAK, *chain.from_iterable(spaced), _BREAK]
        for number, word in enumerate(words, 1):
            following = islice(chain.from_iterable(spaced[number : number + _LONGEST]), _LONGEST)
            self._tokens += [*tokenizer.encode_plain(word), *following, _BREAK]
        self._after: dict[int, list[int]] = {}
        for place, token_id in enumerate(self._tokens[:-1]):
            if self._tokens[place + 1] != _BREAK:
                self._after.setdefault(token_id, []).append(place + 1)

    def guess(self, token_ids: Sequence[int], refused: Container[int] = ()) -> tuple[int, float] | None:
        """The token after the longest stretch of the sentence that a program ends with, and its chance.

        Stretches before a refused token do not count.
        """
        if not token_ids:
            return None
        longest, best = 0, 0
        for place in self._after.get(token_ids[-1], ()):
            length = self._agreement(token_ids, place)
            if length > longest and self._tokens[place] not in refused:
                longest, best = length, place
        return (self._tokens[best], _CHANCES[longest]) if longest else None

    def _agreement(self, token_ids: Sequence[int], place: int) -> int:
        """How many tokens before a place are those that the program ends with."""
        length = 1
        while length < min(_LONGEST, len(token_ids)) and self._tokens[place - 1 - length] == token_ids[-1 - length]:
            length += 1
        return length
