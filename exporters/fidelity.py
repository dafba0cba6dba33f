"""How close a quantised model's choices are to those of the fp32 model: cheap, and enough to compare roundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import ExportError
from edgedsl.exporters.parity import Logits
from edgedsl.runtime.lm_head import NO_LOGIT


@dataclass(frozen=True)
class Fidelity:
    """A model against the fp32 one, over positions of teacher-forced programs.

    Attributes:
        num_positions: how many there were.
        agreement: share of them at which both have the same likeliest token.
        mean_kl: mean Kullback-Leibler divergence of the next token's distribution (softmax) from fp32's, in nats.
    """

    num_positions: int
    agreement: float
    mean_kl: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    def __str__(self) -> str:
        """In words, for people."""
        return (
            f"likeliest token as in fp32 at {self.agreement:.2%} of {self.num_positions} positions, "
            f"mean KL divergence {self.mean_kl:.3g}"
        )


def fidelity(references: Sequence[Logits], candidates: Sequence[Logits]) -> Fidelity:
    """Compare rows of logits [positions, vocab]; both sides hold the same rows in the same order.

    Tokens that a cut head of the candidate leaves out are left out on both sides: no mask allows them.

    Raises:
        ExportError: a logit is not finite.
    """
    is_same, divergences = [], []
    for reference, candidate in zip(references, candidates, strict=True):
        is_kept = candidate[0] > NO_LOGIT / 2
        expected, found = _log_softmax(reference[:, is_kept]), _log_softmax(candidate[:, is_kept])
        is_same.append(expected.argmax(-1) == found.argmax(-1))
        divergences.append((np.exp(expected) * (expected - found)).sum(-1))
    agreement, mean_kl = (float(np.concatenate(values).mean()) for values in (is_same, divergences))
    if not np.isfinite(mean_kl):
        raise ExportError("a model has logits that are not finite", hint="try another recipe (--quantize)")
    return Fidelity(sum(map(len, is_same)), agreement, max(mean_kl, 0.0))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = (logits - logits.max(-1, keepdims=True)).astype(np.float64)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised
