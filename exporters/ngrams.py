"""Builds the index of n-grams that drafts are taken from; ``edgedsl.runtime.ngrams`` reads it.

Backing off to the longest context that was seen is that of Katz (1987) without discounts: a draft only needs the most
frequent token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedsl import atomic
from edgedsl.errors import ExportError
from edgedsl.runtime.ngrams import LAYOUT, MULTIPLIER, SEED, SHIFT

MAX_ORDER = 8
# A longer context that names the same token is kept only where it makes it likelier or unlikelier than by this.
TOLERANCE = 0.1
_Keys = NDArray[np.uint64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Order:
    """Contexts of one length, by ascending key; ``example`` is a place in the symbols where one stands before."""

    keys: _Keys
    token_ids: _Ints
    counts: _Ints
    totals: _Ints
    example: _Ints
    reach: _Ints

    def take(self, chosen: NDArray[np.bool_]) -> _Order:
        return _Order(
            self.keys[chosen],
            self.token_ids[chosen],
            self.counts[chosen],
            self.totals[chosen],
            self.example[chosen],
            self.reach[chosen],
        )

    def find(self, keys: _Keys) -> tuple[_Ints, NDArray[np.bool_]]:
        """Where each key is, and whether it is there."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        where = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return where, self.keys[where] == keys


def write_ngrams(
    path: Path, rows: Sequence[Sequence[int]], *, vocab_size: int, end_token_id: int, max_order: int = MAX_ORDER
) -> int:
    """Write the index of some programs; returns its number of entries. The same rows give the same bytes.

    Args:
        path: file to write.
        rows: token ids of each program, without the end token.
        vocab_size: of the tokenizer.
        end_token_id: what follows each program.
        max_order: most tokens of a context; the start of the program counts as one.

    Raises:
        ExportError: no rows, or a token beyond the vocabulary.
    """
    flat, depth = _symbols(rows, vocab_size, end_token_id)
    orders: list[_Order] = []
    for order in range(1, max_order + 1):
        orders.append(_pruned(_count(flat, np.flatnonzero(depth >= order), order), flat, orders))
    for longer, entries in enumerate(orders, 1):
        _mark(entries, flat, orders[: longer - 1], longer)
    arrays, num_entries = _table(orders)
    fields = {"vocab_size": vocab_size, "max_order": max_order, "num_entries": num_entries}
    atomic.write_bytes(path, LAYOUT.pack(fields, arrays))
    return num_entries


def _symbols(rows: Sequence[Sequence[int]], vocab_size: int, end_token_id: int) -> tuple[_Keys, _Ints]:
    """All programs one after the other, and how many symbols of its own program stand before each symbol."""
    if not rows:
        raise ExportError("there are no programs to draft from", hint="give [data] train")
    lengths = np.array([len(row) + 2 for row in rows])
    flat = np.zeros(lengths.sum(), np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    depth = np.arange(len(flat)) - np.repeat(starts, lengths)
    flat[depth > 0] = np.concatenate([np.array([*row, end_token_id], np.int64) for row in rows]) + 1
    if flat[depth > 0].min() < 1 or flat.max() > vocab_size:
        raise ExportError(f"a program holds a token beyond the vocabulary of {vocab_size}")
    return flat.astype(np.uint64), depth


def _keys(flat: _Keys, positions: _Ints, order: int) -> _Keys:
    """Keys of the contexts of ``order`` symbols before each position."""
    keys = np.full(len(positions), SEED, np.uint64)
    for back in range(1, order + 1):
        keys = (keys ^ flat[positions - back]) * np.uint64(MULTIPLIER)
        keys ^= keys >> np.uint64(SHIFT)
    return keys


def _count(flat: _Keys, positions: _Ints, order: int) -> _Order:
    """The most frequent next token of each context; of equally frequent ones the smallest."""
    keys, tokens = _keys(flat, positions, order), flat[positions].astype(np.int64) - 1
    by_pair = np.lexsort((tokens, keys))
    keys, tokens, positions = keys[by_pair], tokens[by_pair], positions[by_pair]
    pairs = _firsts((keys[1:] != keys[:-1]) | (tokens[1:] != tokens[:-1]), len(keys))
    counts = np.diff(np.append(pairs, len(keys)))
    keys, tokens, positions = keys[pairs], tokens[pairs], positions[pairs]
    contexts = _firsts(keys[1:] != keys[:-1], len(keys))
    totals = np.add.reduceat(counts, contexts) if len(contexts) else counts
    best = np.lexsort((tokens, -counts, keys))[contexts]
    found = _Order(keys[best], tokens[best], counts[best], totals, positions[best], np.full(len(best), order))
    return found.take(found.keys != 0)  # key 0 marks an empty slot


def _firsts(differs: NDArray[np.bool_], length: int) -> _Ints:
    return np.flatnonzero(np.concatenate([np.ones(min(length, 1), np.bool_), differs]))


def _pruned(entries: _Order, flat: _Keys, shorter: list[_Order]) -> _Order:
    """Only what says something else than the longest shorter context that is kept."""
    undecided = np.ones(len(entries.keys), np.bool_)
    kept = undecided.copy()
    share = entries.counts / entries.totals
    for order in range(len(shorter), 0, -1):
        where, known = shorter[order - 1].find(_keys(flat, entries.example, order))
        known &= undecided
        suffix = shorter[order - 1]
        same = suffix.token_ids[where[known]] == entries.token_ids[known]
        near = np.abs(suffix.counts[where[known]] / suffix.totals[where[known]] - share[known]) <= TOLERANCE
        kept[known] = ~(same & near)
        undecided &= ~known
    return entries.take(kept)


def _mark(entries: _Order, flat: _Keys, shorter: list[_Order], longer: int) -> None:
    """Tell every context that these end in that looking further is worth it."""
    for order, suffixes in enumerate(shorter, 1):
        where, known = suffixes.find(_keys(flat, entries.example, order))
        suffixes.reach[where[known]] = longer


def _table(orders: list[_Order]) -> tuple[dict[str, NDArray[np.generic]], int]:
    """Linear probing, filled in ascending order of the keys."""
    keys = np.concatenate([entries.keys for entries in orders])
    num_slots = 1 << max(1, (2 * len(keys) - 1).bit_length())
    order = np.argsort(keys, kind="stable")
    slots = np.array(_slots(keys[order].tolist(), num_slots), np.int64)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, dtype in LAYOUT.arrays:
        values = np.concatenate([getattr(entries, name) for entries in orders])
        arrays[name] = np.zeros(num_slots, dtype)
        arrays[name][slots] = values[order]
    return arrays, len(keys)


def _slots(keys: list[int], num_slots: int) -> list[int]:
    taken = bytearray(num_slots)
    slots = []
    for key in keys:
        slot = key & (num_slots - 1)
        while taken[slot]:
            slot = (slot + 1) & (num_slots - 1)
        taken[slot] = 1
        slots.append(slot)
    return slots
