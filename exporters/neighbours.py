"""Builds the index of training sentences that drafts are taken from; ``edgedsl.runtime.neighbours`` reads it.

The index holds the training sentences and the programs: who may read the bundle may read those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgedsl import atomic
from edgedsl.errors import ExportError
from edgedsl.runtime.neighbours import LAYOUT, rarity

MAX_ROWS = 20_000  # a look-up takes time for each
# A token of more sentences than this share says little, and looking through its list takes most of the time.
COMMON = 0.25
SHORT = 500  # rows that take no time to look through
_Row = tuple[Sequence[int], Sequence[int]]
_Program = tuple[int, ...]


def write_neighbours(
    path: Path, rows: Sequence[_Row], *, vocab_size: int, max_rows: int = MAX_ROWS, first: Iterable[_Program] = ()
) -> int:
    """Write the index of some pairs; returns the number of sentences in it. The same rows give the same bytes.

    Args:
        path: file to write.
        rows: token ids of each sentence and of its program, without the end token.
        vocab_size: of the tokenizer.
        max_rows: of more distinct ones, this many are taken, evenly spaced.
        first: programs to list before the others, where they are among them.

    Raises:
        ExportError: no rows, or a token beyond the vocabulary.
    """
    spelled: dict[tuple[frozenset[int], tuple[int, ...]], Sequence[int]] = {}
    for sentence, target in rows:
        spelled.setdefault((frozenset(sentence), tuple(target)), sentence)
    distinct = list(spelled)
    if not distinct:
        raise ExportError("there are no pairs to draft from", hint="give [data] train")
    if len(distinct) > max_rows:
        distinct = [distinct[n * len(distinct) // max_rows] for n in range(max_rows)]
    words, starts, postings, norms = _postings([sentence for sentence, _ in distinct])
    known = dict.fromkeys(target for _, target in distinct)
    order = dict.fromkeys([*(target for target in first if target in known), *known])
    targets = {target: n for n, target in enumerate(order)}
    target_tokens = [token_id for target in targets for token_id in target]
    sentences = [spelled[row] for row in distinct]
    row_tokens = [token_id for sentence in sentences for token_id in sentence]
    if not all(0 <= token_id < vocab_size for token_id in [*row_tokens, *target_tokens]):
        raise ExportError(f"a pair holds a token beyond the vocabulary of {vocab_size}")
    arrays = {
        "sentence_tokens": words,
        "posting_starts": starts,
        "postings": postings,
        "norms": norms,
        "row_targets": [targets[target] for _, target in distinct],
        "row_starts": [0, *np.cumsum([len(sentence) for sentence in sentences]).tolist()],
        "row_tokens": row_tokens,
        "target_starts": [0, *np.cumsum([len(target) for target in targets]).tolist()],
        "target_tokens": target_tokens,
    }
    atomic.write_bytes(path, LAYOUT.pack({"vocab_size": vocab_size}, {k: np.array(v) for k, v in arrays.items()}))
    return len(distinct)


def _postings(sentences: Sequence[frozenset[int]]) -> tuple[list[int], list[int], list[int], list[float]]:
    """Tokens, where the list of each begins, the rows that hold it, and one over the length of each row's weights."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, sentence in enumerate(sentences):
        for token_id in sentence:
            rows_of[token_id].append(row)
    words = sorted(word for word, rows in rows_of.items() if len(rows) <= max(COMMON * len(sentences), SHORT))
    lists = [rows_of[word] for word in words]
    squares = np.zeros(len(sentences))
    for rows in lists:
        squares[rows] += rarity(len(sentences), len(rows)) ** 2
    norms = np.divide(1, np.sqrt(squares), out=np.zeros(len(sentences)), where=squares > 0)
    starts = [0, *np.cumsum([len(rows) for rows in lists]).tolist()]
    return words, starts, [row for rows in lists for row in rows], norms.tolist()
