"""The tokens that may come next, in the form that is quickest to choose from, and kept for the next program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEW = 2048  # up to here picking out the logits is quicker than masking all of them
_MAX_MASKS = 512  # one of many tokens holds four bytes for each token of the vocabulary
Logits = NDArray[np.float32]


class LegalTokens:
    """What one bitmask allows.

    Args:
        bitmask: [ceil(vocab / 32)] words, bit i of word w for token 32 w + i.
        vocab_size: ids from here on are padding, and never legal.
    """

    def __init__(self, bitmask: NDArray[np.int32], vocab_size: int) -> None:
        allowed = np.unpackbits(bitmask.view(np.uint8), count=vocab_size, bitorder="little").view(np.bool_)
        self._token_ids: NDArray[np.int64] | None = None
        self._penalty: Logits | None = None
        if np.count_nonzero(allowed) <= _FEW:
            self._token_ids = np.flatnonzero(allowed)
        else:
            self._penalty = np.where(allowed, np.float32(0), np.float32(-np.inf))

    def select(self, logits: Logits, extra: int | None, memory: Logits) -> tuple[Logits, NDArray[np.int64] | None]:
        """The logits to choose from, and the token of each of them; None where it is its index.

        Args:
            logits: [vocab]; a copy is made.
            extra: a token that is legal too.
            memory: [vocab], for the copy: to allocate that much anew takes longer than to fill it.
        """
        if self._token_ids is None:
            assert self._penalty is not None
            values = np.add(logits, self._penalty, out=memory)
            if extra is not None:
                values[extra] = logits[extra]
            return values, None
        token_ids = self._token_ids
        if extra is not None and extra not in token_ids:
            token_ids = np.append(token_ids, extra)
        return logits[token_ids], token_ids


class LegalTokenCache:
    """Equal masks are one object: a language has few, and most of its places share them."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._known: dict[bytes, LegalTokens] = {}

    def get(self, bitmask: NDArray[np.int32]) -> LegalTokens:
        """The tokens of a bitmask [ceil(vocab / 32)]."""
        key = bitmask.tobytes()
        if key not in self._known:
            if len(self._known) >= _MAX_MASKS:
                self._known.clear()
            self._known[key] = LegalTokens(bitmask, self._vocab_size)
        return self._known[key]
