"""From one row of logits to one token id."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedsl.config import GenerateSection
from edgedsl.errors import NoTokenError, RequestError
from edgedsl.grammar.subset import Subset


@dataclass(frozen=True)
class SamplingParams:
    """How one request is decoded.

    Attributes:
        max_tokens: most tokens of the program, the end token not counted.
        temperature: 0 is greedy.
        top_k: sample from the k likeliest tokens; 0 is off.
        top_p: sample from the smallest set of likeliest tokens that holds this mass.
        seed: the same seed gives the same program.
        subsets: parts of the catalogue, each a part of what the one before it leaves; nothing else can be spelt.
        spans: terminals whose texts have to be words of the sentence in a row.

    Raises:
        RequestError: a value out of range.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    subsets: tuple[Subset, ...] = ()
    spans: tuple[str, ...] = ()

    @classmethod
    def from_section(cls, section: GenerateSection) -> SamplingParams:
        """What the project file says."""
        return cls(
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            top_k=section.top_k,
            top_p=section.top_p,
            seed=section.seed,
            subsets=Subset.from_lists(_names(section.allow), _names(section.deny)),
            spans=_names(section.spans),
        )

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, Integral, lambda value: value >= 1, "a whole number, at least 1")
        _check("temperature", self.temperature, Real, lambda value: 0 <= value <= 100, "0 to 100")
        _check("top_k", self.top_k, Integral, lambda value: value >= 0, "a whole number, 0 (off) or more")
        _check("top_p", self.top_p, Real, lambda value: 0 < value <= 1, "above 0, at most 1")
        _check("seed", self.seed, Integral, lambda value: 0 <= value < 2**63, "a whole number, 0 to 2^63 - 1")


def sample(logits: NDArray[np.float32], params: SamplingParams, rng: np.random.Generator) -> int:
    """Pick a token id from masked logits [vocab].

    Raises:
        NoTokenError: every token is masked, or the largest logit is not finite.
    """
    best = int(logits.argmax())
    if not math.isfinite(float(logits[best])):
        raise NoTokenError("no token can follow: every logit is masked or not finite")
    if params.temperature == 0:
        return best
    return _draw(logits, params, rng)


def _draw(logits: NDArray[np.float32], params: SamplingParams, rng: np.random.Generator) -> int:
    token_ids = np.flatnonzero(logits > -np.inf)
    allowed = logits[token_ids].astype(np.float64)
    order = np.argsort(-allowed, kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    with np.errstate(over="ignore"):  # next to no temperature: the others' exponents go to minus infinity
        weights = np.exp((allowed[order] - allowed[order[0]]) / params.temperature)
    weights /= weights.sum()
    if params.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), params.top_p)) + 1
        order, weights = order[:kept], weights[:kept]
        weights /= weights.sum()
    return int(token_ids[order[rng.choice(len(order), p=weights)]])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check(name: str, value: Any, kind: type, is_good: Callable[[Any], bool], expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not is_good(value):
        raise RequestError(f"{name} is {value!r}, expected {expected}")
