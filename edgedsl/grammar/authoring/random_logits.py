"""Logits that no model would write, of several kinds. Seeded, and cheap enough for 10^5 programs."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from edgedsl.grammar.compiled import CompiledGrammar

# normal: as an untrained model. peaked: one token far above the others. endless: no wish to end or to close anything.
# nested: a wish to open. ties: few different values. equal: one value. extreme: half of the logits are the lowest or
# the highest number there is; an engine refuses infinite ones, so -inf itself is not among them.
# A number of kinds that has no common divisor with the number of budgets: the two cycle against each other.
KINDS = ("normal", "peaked", "endless", "nested", "ties", "equal", "extreme")
Logits = NDArray[np.float32]

_SPREAD = np.float32(3)
_PEAKED_SPREAD = np.float32(12)
_PENALTY = np.float32(-40)
_BONUS = np.float32(15)
_OPENING = frozenset(b"([{<\"'`")
_CLOSING = frozenset(b")]}>\"'`;\n")
# Drawing a normal number for every token of a large vocabulary costs more than its mask. So numbers are drawn once, and
# a row is a window of them at a random offset.
_LEAST_POOL = 1 << 16
_ROWS_IN_POOL = 64


class RandomLogits:
    """Rows of logits [vocab] for the tokens of one compiled grammar, cut from one pool of random numbers."""

    def __init__(self, compiled: CompiledGrammar, rng: np.random.Generator) -> None:
        self._width = compiled.vocab_size
        size = max(_LEAST_POOL, _ROWS_IN_POOL * self._width)
        self._normal = rng.standard_normal(size, np.float32)
        self._gumbel: Logits = rng.gumbel(size=size).astype(np.float32)
        token_bytes = compiled.planner.vocabulary.token_bytes
        ends = list(compiled.end_token_ids)
        self._endless = _where(token_bytes, _CLOSING) * _PENALTY
        self._endless[ends] = _PENALTY
        self._nested = _where(token_bytes, _OPENING) * _BONUS
        self._nested[ends] = _PENALTY

    def row(self, kind: str, rng: np.random.Generator) -> Logits:
        """A new row of one of :data:`KINDS`; all values are finite."""
        values = self._window(self._normal, rng)
        match kind:
            case "peaked":
                return values * _PEAKED_SPREAD
            case "endless":
                return values * _SPREAD + self._endless
            case "nested":
                return values * _SPREAD + self._nested
            case "ties":
                return np.round(values)
            case "equal":
                return np.zeros_like(values)
            case "extreme":
                return _extreme(values)
        return values * _SPREAD

    def noise(self, rng: np.random.Generator) -> Logits:
        """Gumbel noise [vocab], not to be written to: the largest of logits plus noise is a sample at temperature 1."""
        return self._window(self._gumbel, rng)

    def _window(self, pool: Logits, rng: np.random.Generator) -> Logits:
        start = int(rng.integers(len(pool) - self._width))
        return pool[start : start + self._width]


def _extreme(values: Logits) -> Logits:
    lowest, highest = np.finfo(np.float32).min, np.finfo(np.float32).max
    return np.where(values < -0.5, lowest, np.where(values > 1, highest, values)).astype(np.float32)


def _where(token_bytes: list[bytes], wanted: AbstractSet[int]) -> Logits:
    """1 for each token with one of the bytes in it, 0 for the others."""
    return np.array([not wanted.isdisjoint(text) for text in token_bytes], np.float32)
