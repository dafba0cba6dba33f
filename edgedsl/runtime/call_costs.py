"""What one call of the model costs, by the number of new tokens in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedsl.runtime.decoder import Decoder

SIZES = (2, 3, 4, 6, 8, 12, 16)  # a call of one token is padded to two, see lookahead.py
_PAST = 24  # tokens before the measured ones, as many as a short prompt has; or the decoder's prefix if that is longer
_ROUNDS = 5


@dataclass(frozen=True)
class CallCosts:
    """Milliseconds of a call with :data:`SIZES` new tokens, never falling."""

    ms: tuple[float, ...]

    def of(self, num_tokens: int) -> float:
        """Milliseconds with so many new tokens; beyond the measured sizes it goes on as between the last two."""
        if num_tokens <= SIZES[-1]:
            return float(np.interp(num_tokens, SIZES, self.ms))
        slope = (self.ms[-1] - self.ms[-2]) / (SIZES[-1] - SIZES[-2])
        return self.ms[-1] + slope * (num_tokens - SIZES[-1])

    def best_length(self, probabilities: Iterable[float], num_certain: int = 1, token_ms: float = 0.0) -> int:
        """How many drafted tokens are worth their cost.

        Args:
            probabilities: of each drafted token to be right, given that those before it are.
            num_certain: tokens that the call has anyway.
            token_ms: what a token costs otherwise; 0 for half a call of one token, which drafts come to in the middle.
        """
        value = token_ms or self.of(1) / 2
        base, reach, saved = self.of(num_certain), 1.0, 0.0
        best, best_gain = 0, 0.0
        for length, probability in enumerate(probabilities, 1):
            reach *= probability
            saved += reach * value
            gain = saved - (self.of(num_certain + length) - base)
            if gain > best_gain:
                best, best_gain = length, gain
        return best


def measure(decoder: Decoder) -> CallCosts:
    """Run calls of each size, or of what the context has room for, over a short past; then reset the decoder."""
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    context_length = decoder.info.context_length
    decoder.reset()
    past = max(decoder.length, min(_PAST, context_length - SIZES[-1]))
    for _ in range(_ROUNDS):
        decoder.reset()
        if missing := past - decoder.length:
            decoder.forward([0] * missing)
        for size in SIZES:
            decoder.truncate(past)
            num_tokens = min(size, context_length - past)
            started = time.perf_counter()
            decoder.rows([0] * num_tokens, num_tokens)
            times[size].append(1000 * (time.perf_counter() - started))
    decoder.reset()
    medians = (statistics.median(times[size]) for size in SIZES)
    return CallCosts(tuple(accumulate(medians, max)))
