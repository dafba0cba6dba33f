"""The next token after the last few, as the training programs went on: a memory-mapped hash table.

A context is the last 1 to ``max_order`` symbols of a program; symbol 0 is its start, token ``i`` is symbol ``i + 1``.
Its key is folded from the last symbol backwards, so one pass over the program's end yields the keys of all orders.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgedsl.runtime.index_file import Array, Layout, refuse

FILE_NAME = "drafts.ngrams"
LAYOUT = Layout(
    magic=b"EDSLNGRM",
    version=1,
    fields=("vocab_size", "max_order", "num_entries"),
    arrays=(("keys", "<u8"), ("token_ids", "<u4"), ("counts", "<u4"), ("totals", "<u4"), ("reach", "u1")),
)
# Odd and without pattern (the golden ratio's bits): multiplying spreads the symbols over the key.
MULTIPLIER = 0x9E3779B97F4A7C15
SEED = 0xD1B54A32D192ED03
SHIFT = 32
_MASK = 2**64 - 1
_MAX_LOAD = 0.75  # of the table; more would make chains long, and a full one would never end a search
_MAX_ORDER = 64
_MAX_REMEMBERED = 8192  # programs of one language end alike: most contexts of a request were asked for before


class Prediction(NamedTuple):
    """The most frequent next token.

    Attributes:
        num_times: how often it followed the context.
        num_total: how often the context occurred.
        order: symbols of the context.
    """

    token_id: int
    num_times: int
    num_total: int
    order: int


class NgramIndex:
    """Looks up the longest context that is known. Immutable, but remembers its latest answers.

    Args:
        fields: see ``LAYOUT``.
        arrays: one element per slot; key 0 is an empty slot; ``reach`` is the most symbols that a kept context ending
            in this one has.
    """

    def __init__(self, fields: dict[str, int], arrays: dict[str, Array]) -> None:
        self.vocab_size = fields["vocab_size"]
        self.max_order = fields["max_order"]
        self.num_entries = fields["num_entries"]
        # Views of the map: numpy's own indexing would make an object per element, five times slower.
        self._keys = arrays["keys"].data
        self._token_ids = arrays["token_ids"].data
        self._counts = arrays["counts"].data
        self._totals = arrays["totals"].data
        self._reach = arrays["reach"].data
        self._slot_mask = len(self._keys) - 1
        self._remembered: dict[tuple[int, ...], Prediction | None] = {}

    @classmethod
    def from_file(cls, path: Path, vocab_size: int) -> NgramIndex:
        """Map and check an index.

        Args:
            path: written by ``edgedsl.exporters.ngrams``.
            vocab_size: of the tokenizer that it must belong to.

        Raises:
            BundleError: missing or malformed, or made for another tokenizer.
        """
        fields, arrays = LAYOUT.read(path, vocab_size)
        _check(path, fields, arrays)
        return cls(fields, arrays)

    def predict(self, token_ids: Sequence[int], refused: Container[int] = ()) -> Prediction | None:
        """What mostly follows the longest known context that a program ends with; None where none is known.

        Args:
            token_ids: the program so far.
            refused: contexts that these tokens mostly follow do not count.
        """
        context = tuple(token_ids[-self.max_order :])
        try:
            found = self._remembered[context]
        except KeyError:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[context] = found = self._search(context, self.max_order)
        while found and found.token_id in refused:
            found = self._search(context, found.order - 1)
        return found

    def _search(self, token_ids: tuple[int, ...], most: int) -> Prediction | None:
        """``most``: tokens of a context."""
        keys, slot_mask, reach = self._keys, self._slot_mask, most
        num_tokens = len(token_ids)
        key, found, found_order, order = SEED, -1, 0, 0
        while order < reach:
            order += 1
            symbol = token_ids[-order] + 1 if order <= num_tokens else 0
            key = ((key ^ symbol) * MULTIPLIER) & _MASK
            key ^= key >> SHIFT
            slot = key & slot_mask
            while (stored := keys[slot]) and stored != key:
                slot = (slot + 1) & slot_mask
            if stored:
                found, found_order, reach = slot, order, min(most, self._reach[slot])
            if not symbol:
                break
        if found < 0:
            return None
        return Prediction(self._token_ids[found], self._counts[found], self._totals[found], found_order)


def _check(path: Path, fields: dict[str, int], arrays: dict[str, Array]) -> None:
    keys = arrays["keys"]
    if any(len(array) != len(keys) for array in arrays.values()):
        refuse(path, "its arrays differ in length")
    if len(keys) < 2 or len(keys) & (len(keys) - 1):
        refuse(path, f"it has {len(keys)} slots, expected a power of two")
    if not 1 <= fields["max_order"] <= _MAX_ORDER:
        refuse(path, f"its contexts have up to {fields['max_order']} tokens, expected 1 to {_MAX_ORDER}")
    used = np.flatnonzero(keys)
    if len(used) != fields["num_entries"] or len(used) > _MAX_LOAD * len(keys):
        refuse(path, f"{len(used)} of {len(keys)} slots are used, its header says {fields['num_entries']}")
    if (arrays["token_ids"][used] >= fields["vocab_size"]).any():
        refuse(path, "it holds a token beyond the vocabulary")
    counts, totals = arrays["counts"][used], arrays["totals"][used]
    if (counts < 1).any() or (counts > totals).any():
        refuse(path, "it holds a count that is not between 1 and its total")
    if (arrays["reach"][used] > fields["max_order"]).any():
        refuse(path, "it holds a context longer than it says")
