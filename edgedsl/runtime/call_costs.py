"""What one call of the model costs, by the number of new tokens in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedsl.runtime.decoder import Decoder

SIZES = (2, 3, 4, 6, 8, 12, 16)  # a call of one token is padded to two, see lookahead.py
_PAST = 24  # tokens before the measured ones, as many as a short prompt has; or the decoder's prefix if that is longer
_ROUNDS = 5
_FADE = 0.99  # of what earlier calls brought, with each call


@dataclass(frozen=True)
class CallCosts:
    """Milliseconds of a call with :data:`SIZES` new tokens, never falling."""

    ms: tuple[float, ...]

    def of(self, num_tokens: int) -> float:
        """Milliseconds with so many new tokens; beyond the measured sizes it goes on as between the last two."""
        if num_tokens <= SIZES[-1]:
            return self._table[num_tokens]
        slope = (self.ms[-1] - self.ms[-2]) / (SIZES[-1] - SIZES[-2])
        return self.ms[-1] + slope * (num_tokens - SIZES[-1])

    @cached_property
    def _table(self) -> list[float]:
        """By number of tokens; asked for at every drafted token."""
        found: list[float] = np.interp(range(SIZES[-1] + 1), SIZES, self.ms).tolist()
        return found

    def best_length(self, probabilities: Iterable[float], token_ms: float, num_certain: int = 1) -> int:
        """How many drafted tokens are worth their cost.

        Args:
            probabilities: of each drafted token to be right, given that those before it are.
            token_ms: what a token costs otherwise.
            num_certain: tokens that the call has anyway.
        """
        base, reach, saved = self.of(num_certain), 1.0, 0.0
        best, best_gain = 0, 0.0
        for length, probability in enumerate(probabilities, 1):
            reach *= probability
            saved += reach * token_ms
            gain = saved - (self.of(num_certain + length) - base)
            if gain > best_gain:
                best, best_gain = length, gain
        return best


class TokenCost:
    """What a token costs in calls of one request, as it went lately: with drafts they bring several.

    It is what one more token of a draft is worth where it is right: of all ways to spend the time of a call, that one
    gives the most tokens a second which gains most at this price (Dinkelbach, 1967).
    """

    def __init__(self) -> None:
        self._ms = self._tokens = 0.0

    def learn(self, ms: float, num_tokens: int) -> None:
        """Count a call and what it brought."""
        self._ms = _FADE * self._ms + ms
        self._tokens = _FADE * self._tokens + num_tokens

    def estimate(self, costs: CallCosts) -> float:
        """Milliseconds; at first as if calls of four brought three."""
        return (costs.of(4) + self._ms) / (3 + self._tokens)


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
