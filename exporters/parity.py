"""How far two models' logits are apart on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Two candidates this close are a coin toss for any change of arithmetic; a flip between them is not a defect.
NEAR_TIE = 0.1

Logits = NDArray[np.float32]  # [tokens, vocab]
LogitsOf = Callable[[Sequence[int]], Logits]


@dataclass(frozen=True)
class Parity:
    """One hop against the one before it, over ``num_tokens`` positions of teacher-forced dev rows.

    Attributes:
        max_difference: largest absolute difference of a logit.
        mean_difference: mean absolute difference of a logit.
        argmax_agreement: share of positions with the same likeliest token.
        near_tie_flips: positions that disagree where the reference's two best are closer than 0.1.
        flips: positions that disagree elsewhere.
    """

    num_tokens: int
    max_difference: float
    mean_difference: float
    argmax_agreement: float
    near_tie_flips: int
    flips: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)


def compare(references: Sequence[Logits], candidates: Sequence[Logits]) -> Parity:
    """Compare rows of logits [tokens, vocab]; both sides hold the same rows in the same order."""
    differences = [np.abs(a - b) for a, b in zip(references, candidates, strict=True)]
    is_flip = np.concatenate([a.argmax(-1) != b.argmax(-1) for a, b in zip(references, candidates, strict=True)])
    is_near_tie = np.concatenate([_margin(a) < NEAR_TIE for a in references])
    return Parity(
        num_tokens=len(is_flip),
        max_difference=float(max(d.max() for d in differences)),
        mean_difference=float(np.mean([d.mean() for d in differences])),
        argmax_agreement=float(1 - is_flip.mean()),
        near_tie_flips=int((is_flip & is_near_tie).sum()),
        flips=int((is_flip & ~is_near_tie).sum()),
    )


def collect(logits_of: LogitsOf, rows: Sequence[Sequence[int]]) -> list[Logits]:
    """The logits of every row; a copy, since decoders reuse their buffers."""
    return [np.array(logits_of(row), np.float32) for row in rows]


def _margin(logits: Logits) -> NDArray[np.float32]:
    top = np.partition(logits, -2, axis=-1)[:, -2:]
    return top[:, 1] - top[:, 0]
