"""Programs of the training sentences that are most like a request: an inverted index over their tokens.

Drafting from what was retrieved is REST (He et al. 2023, arXiv 2311.08252); here the request chooses what to draft
from, not the context alone. Likeness is the cosine of the two sets of tokens, each weighted by how rare it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgedsl.runtime.index_file import Array, Layout, refuse

FILE_NAME = "drafts.neighbours"
LAYOUT = Layout(
    magic=b"EDSLNEAR",
    version=2,
    fields=("vocab_size",),
    arrays=(
        ("sentence_tokens", "<u4"),  # [words] ascending
        ("posting_starts", "<u4"),  # [words + 1]
        ("postings", "<u4"),  # rows, ascending for each word
        ("norms", "<f4"),  # [rows] one over the length of the row's weights
        ("row_targets", "<u4"),  # [rows]
        ("row_starts", "<u4"),  # [rows + 1]
        ("row_tokens", "<u4"),  # of the sentences, in order
        ("target_starts", "<u4"),  # [targets + 1]
        ("target_tokens", "<u4"),
    ),
)
NUM_FITTED = 8  # the nearest: to make a program fit takes longer than to find it
Fit = Callable[[list[int], list[int]], list[int]]
_SHARPNESS = 2  # power of the likeness that is a sentence's vote: the nearest count most


class Neighbour(NamedTuple):
    """A training program and its vote: the likeness of its sentences to the request, sharpened and added up.

    The likest sentence has the vote 1.
    """

    token_ids: list[int]
    vote: float


def rarity(num_rows: int, num_with: int) -> float:
    """Weight of a token that ``num_with`` of the sentences hold (inverse document frequency)."""
    return math.log((num_rows + 1) / num_with)


class NeighbourIndex:
    """Finds training programs by sentence. Immutable.

    Args:
        arrays: see ``LAYOUT``.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._norms: NDArray[np.float32] = arrays["norms"]
        self.num_rows = len(self._norms)
        starts = arrays["posting_starts"].tolist()
        self._rows_of = {
            token_id: arrays["postings"][start:end]
            for token_id, start, end in zip(arrays["sentence_tokens"].tolist(), starts, starts[1:], strict=False)
        }
        # Views of the map: numpy's own indexing would make an object per element, five times slower.
        self._row_targets = arrays["row_targets"].data
        self._row_starts = arrays["row_starts"].data
        self._row_tokens = arrays["row_tokens"].data
        self._target_starts = arrays["target_starts"].data
        self._target_tokens = arrays["target_tokens"].data

    @classmethod
    def from_file(cls, path: Path, vocab_size: int) -> NeighbourIndex:
        """Map and check an index.

        Args:
            path: written by ``edgedsl.exporters.neighbours``.
            vocab_size: of the tokenizer that it must belong to.

        Raises:
            BundleError: missing or malformed, or made for another tokenizer.
        """
        _, arrays = LAYOUT.read(path, vocab_size)
        _check(path, vocab_size, arrays)
        return cls(arrays)

    def nearest(
        self, sentence_token_ids: Iterable[int], num_rows: int, fit: Fit | None = None, num_fitted: int = NUM_FITTED
    ) -> list[Neighbour]:
        """The programs of the most like sentences, those that share a token with it, best first.

        Args:
            sentence_token_ids: of the request.
            num_rows: most sentences to take.
            fit: the program of a sentence, made to fit the request: see :mod:`edgedsl.runtime.analogy`.
            num_fitted: of the sentences, the first ones whose programs are made to fit.
        """
        scores = self._scores(sentence_token_ids)
        rows = scores.argpartition(-num_rows)[-num_rows:] if num_rows < self.num_rows else np.arange(self.num_rows)
        rows = rows[np.lexsort((rows, -scores[rows]))]
        best = float(scores[rows[0]])
        if best <= 0:
            return []
        votes: dict[tuple[int, ...], float] = {}
        ranked = zip(rows.tolist(), ((scores[rows] / best) ** _SHARPNESS).tolist(), strict=True)
        for rank, (row, vote) in enumerate(ranked):
            if vote > 0:
                program = self._target(self._row_targets[row])
                if fit and rank < num_fitted:
                    program = fit(self._sentence(row), program)
                votes[tuple(program)] = votes.get(tuple(program), 0.0) + vote
        return [Neighbour(list(program), vote) for program, vote in votes.items()]

    def programs(self, most: int) -> Iterator[list[int]]:
        """The tokens of training programs: at most so many, those that are worth most to a walk first."""
        return map(self._target, range(min(most, len(self._target_starts) - 1)))

    def _scores(self, sentence_token_ids: Iterable[int]) -> NDArray[np.float32]:
        """[rows] the cosine, but for a factor that is the same for all."""
        scores = np.zeros(self.num_rows, np.float32)
        for token_id in set(sentence_token_ids):
            rows = self._rows_of.get(token_id)
            if rows is not None:
                scores[rows] += rarity(self.num_rows, len(rows)) ** 2
        scores *= self._norms
        return scores

    def _sentence(self, row: int) -> list[int]:
        return self._row_tokens[self._row_starts[row] : self._row_starts[row + 1]].tolist()

    def _target(self, target: int) -> list[int]:
        return self._target_tokens[self._target_starts[target] : self._target_starts[target + 1]].tolist()


def _check(path: Path, vocab_size: int, arrays: dict[str, Array]) -> None:
    num_rows, words = len(arrays["norms"]), arrays["sentence_tokens"]
    if not num_rows or len(arrays["row_targets"]) != num_rows:
        refuse(path, f"it has {num_rows} sentences and {len(arrays['row_targets'])} programs for them")
    _check_starts(path, arrays["posting_starts"], len(words), len(arrays["postings"]))
    _check_starts(path, arrays["row_starts"], num_rows, len(arrays["row_tokens"]))
    num_targets = len(arrays["target_starts"]) - 1
    _check_starts(path, arrays["target_starts"], num_targets, len(arrays["target_tokens"]))
    if (words[1:] <= words[:-1]).any() or (np.diff(arrays["posting_starts"]) < 1).any():
        refuse(path, "its tokens are not in ascending order, each with a sentence")
    if not ((arrays["norms"] >= 0) & (arrays["norms"] <= num_rows + 1)).all():  # NaN is neither
        refuse(path, "it holds a norm that no sentence can have")
    limits = {
        "postings": num_rows, "row_targets": num_targets, "row_tokens": vocab_size, "target_tokens": vocab_size,
    }  # fmt: skip
    for name, limit in limits.items():
        if (arrays[name] >= limit).any():
            refuse(path, f"its {name} hold a number that is not below {limit}")


def _check_starts(path: Path, starts: Array, num_lists: int, num_elements: int) -> None:
    if len(starts) != num_lists + 1 or starts[0] != 0 or starts[-1] != num_elements or (starts[1:] < starts[:-1]).any():
        refuse(path, "its lists do not follow one another")
