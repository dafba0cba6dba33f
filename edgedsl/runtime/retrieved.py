"""Programs of like training sentences as a source of drafts: those that go on from where this program stands vote."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from edgedsl.runtime.neighbours import Neighbour

_START = -1
_LONGEST = 8  # tokens to agree on; asking for more leaves too few voters
# Votes for tokens that no neighbour has, by how many tokens the voters agree on: fits what ThingTalk's dev targets do.
_DOUBTS = (1.0, *(1 / length**2 for length in range(1, _LONGEST + 1)))


class Retrieved:
    """Follows a program through the programs that were retrieved for its sentence.

    Args:
        neighbours: best first.
        end_token_id: ends each program.
    """

    def __init__(self, neighbours: Sequence[Neighbour], end_token_id: int) -> None:
        self._tokens: list[int] = []
        self._votes: list[float] = []  # of the program that each token is of
        for token_ids, vote in neighbours:
            self._tokens += [_START, *token_ids, end_token_id]
            self._votes += [vote] * (len(token_ids) + 2)
        self._array = np.array(self._tokens, np.int32)
        self._after: dict[int, list[int]] = {}  # the places after each token that was looked for
        self._places: list[int] = []  # of tokens that would come next
        self._context: list[int] = []
        self._length = 0

    def seek(self, token_ids: Sequence[int], refused: Container[int] = ()) -> None:
        """Stand at the end of a program; those who go on with a refused token have no vote."""
        self._context = [_START, *token_ids]
        self._length = 0
        self._find(refused)

    def advance(self, token_id: int) -> None:
        """Stand one token further."""
        self._context.append(token_id)
        tokens = self._tokens
        self._places = [place + 1 for place in self._places if tokens[place] == token_id]
        self._length += 1
        if not self._places:
            self._find()

    def guess(self) -> tuple[int, float, int] | None:
        """What most of those who agree longest go on with; None where nobody agrees.

        Returns:
            The token, its share of the votes, and on how many tokens they agree.
        """
        places, tokens, votes = self._places, self._tokens, self._votes
        if not places:
            return None
        doubt = _DOUBTS[min(self._length, _LONGEST)]
        following = [tokens[place] for place in places]
        if following.count(following[0]) == len(following):
            total = sum([votes[place] for place in places])
            return following[0], total / (total + doubt), self._length
        ballot: dict[int, float] = {}
        for place in places:
            ballot[tokens[place]] = ballot.get(tokens[place], 0.0) + votes[place]
        best = max(ballot, key=ballot.__getitem__)
        return best, ballot[best] / (sum(ballot.values()) + doubt), self._length

    def _find(self, refused: Container[int] = ()) -> None:
        """The places after the longest stretches that end as the program does."""
        context, tokens = self._context, self._tokens
        places = self._places_after(context[-1])
        if refused:
            places = [place for place in places if tokens[place] not in refused]
        length = 1
        while places and length < min(len(context), _LONGEST):
            wanted = context[-1 - length]
            longer = [place for place in places if tokens[place - 1 - length] == wanted]
            if not longer:
                break
            places, length = longer, length + 1
        self._places, self._length = places, length

    def _places_after(self, token_id: int) -> list[int]:
        if token_id not in self._after:
            places = (np.flatnonzero(self._array[:-1] == token_id) + 1).tolist()
            self._after[token_id] = [place for place in places if self._tokens[place] != _START]
        return self._after[token_id]
