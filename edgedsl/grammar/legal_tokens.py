"""The tokens that may come next, in the form that is quickest to choose from, and kept for the next program."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_FEW = 2048  # up to here picking out the logits is quicker than masking all of them
_MAX_MASKS = 512
# Of the forms that take more than their bits. One of many tokens is 32 times as large, and programs meet thousands.
_MAX_FORM_BYTES = 16 << 20
Logits = NDArray[np.float32]


class _Form(NamedTuple):
    """One of two: the legal tokens, ascending, or what to add to a token's logit, -inf where it is not legal."""

    token_ids: NDArray[np.int64] | None
    penalty: Logits | None

    @classmethod
    def of(cls, bits: bytes, vocab_size: int) -> _Form:
        allowed = np.unpackbits(np.frombuffer(bits, np.uint8), count=vocab_size, bitorder="little").view(np.bool_)
        if np.count_nonzero(allowed) <= _FEW:
            return cls(np.flatnonzero(allowed), None)
        return cls(None, np.where(allowed, np.float32(0), np.float32(-np.inf)))

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self if array is not None)


class _Recent:
    """The large forms that were made last; older ones are made again when they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # requests of several threads share what is known of a position
        self._owners: deque[tuple[LegalTokens, int]] = deque()
        self._num_bytes = 0

    def add(self, owner: LegalTokens, num_bytes: int) -> None:
        with self._lock:
            self._owners.append((owner, num_bytes))
            self._num_bytes += num_bytes
            while self._num_bytes > _MAX_FORM_BYTES and len(self._owners) > 1:
                oldest, freed = self._owners.popleft()
                oldest.drop_form()
                self._num_bytes -= freed


class LegalTokens:
    """What one bitmask allows.

    Args:
        bits: bit i of byte b for token 8 b + i.
        vocab_size: ids from here on are padding, and never legal.
        recent: where large forms are counted.

    Attributes:
        is_empty: whether it allows none.
    """

    def __init__(self, bits: bytes, vocab_size: int, recent: _Recent) -> None:
        self._vocab_size = vocab_size
        self._recent = recent
        self._form: _Form | None = _Form.of(bits, vocab_size)
        self.is_empty = self._form.token_ids is not None and not self._form.token_ids.size
        is_small = self._form.num_bytes <= len(bits)
        self._bits = b"" if is_small else bits
        if not is_small:
            recent.add(self, self._form.num_bytes)

    def select(self, logits: Logits, extra: int | None, memory: Logits) -> tuple[Logits, NDArray[np.int64] | None]:
        """The logits to choose from, and the token of each of them; None where it is its index.

        Args:
            logits: [vocab]; a copy is made.
            extra: a token that is legal too.
            memory: [vocab], for the copy: to allocate that much anew takes longer than to fill it.
        """
        token_ids = self.few(extra)
        if token_ids is not None:
            return logits[token_ids], token_ids
        penalty = (self._form or self._made_again()).penalty
        assert penalty is not None
        values = np.add(logits, penalty, out=memory)
        if extra is not None:
            values[extra] = logits[extra]
        return values, None

    def few(self, extra: int | None) -> NDArray[np.int64] | None:
        """The tokens; None where they are many. ``extra`` is as for :meth:`select`."""
        token_ids = (self._form or self._made_again()).token_ids
        if token_ids is None or extra is None or extra in token_ids:
            return token_ids
        return np.append(token_ids, extra)

    def __contains__(self, token_id: int) -> bool:
        """Whether a token, below the size of the vocabulary, is legal."""
        form = self._form or self._made_again()
        if form.token_ids is not None:
            return token_id in form.token_ids
        assert form.penalty is not None
        return bool(form.penalty[token_id] == 0)

    def drop_form(self) -> None:
        """Keep the bits only."""
        self._form = None

    def _made_again(self) -> _Form:
        form = self._form = _Form.of(self._bits, self._vocab_size)
        self._recent.add(self, form.num_bytes)
        return form


class LegalTokenCache:
    """Equal masks are one object: a language has few, and most of its places share them."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._recent = _Recent()
        self._known: dict[bytes, LegalTokens] = {}

    def get(self, bitmask: NDArray[np.int32]) -> LegalTokens:
        """The tokens of a bitmask: [ceil(vocab / 32)] words, bit i of word w for token 32 w + i."""
        bits = bitmask.tobytes()
        if bits not in self._known:
            if len(self._known) >= _MAX_MASKS:
                self._known.clear()
            self._known[bits] = LegalTokens(bits, self._vocab_size, self._recent)
        return self._known[bits]
