"""Dev loss and exact match while training, shared out among the processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from edgedsl.data.pairs import Pair
from edgedsl.errors import TrainingError
from edgedsl.evaluation.torch_decoder import TorchDecoder
from edgedsl.training.batches import Example, collate
from edgedsl.training.lora import TargetHead, target_loss

_DECODE_BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per target token (nats), and the share of exact matches in ``rows`` (None when nothing was decoded)."""

    loss: float
    exact_match: float | None
    rows: int = 0

    def beats(self, exact_match: float | None, loss: float) -> bool:
        """Whether this is better than an earlier evaluation of the same rows.

        A few dozen rows say little: exact match decides where it moved by more than its standard error, else the loss.
        """
        if self.exact_match is None or exact_match is None:
            return self.loss < loss
        mean = (self.exact_match + exact_match) / 2
        gain = self.exact_match - exact_match
        if abs(gain) > math.sqrt(2 * mean * (1 - mean) / self.rows):
            return gain > 0
        return self.loss < loss


class Evaluator:
    """Measures the model on dev pairs.

    Args:
        examples: pairs for the loss.
        pairs: pairs to decode under the grammar.
        max_tokens: longest answer; a longer one counts as wrong, and so does one on which the grammar engine fails.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        decoder: TorchDecoder,
        examples: Sequence[Example],
        pairs: Sequence[Pair],
        batch_size: int,
        max_tokens: int,
    ) -> None:
        self._accelerator = accelerator
        self._decoder = decoder
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        self._examples = sorted(examples, key=lambda example: example.num_tokens)[mine]
        self._pairs = list(pairs)[mine]
        self._batch_size = batch_size
        self._max_tokens = max_tokens

    def evaluate(self, model: Any, head: TargetHead, dtype: torch.dtype) -> Evaluation:
        """Measure now; every process gets the same numbers."""
        device = self._accelerator.device
        model.eval()
        loss, targets = self._loss(model, head, dtype)
        hits = 0
        if self._pairs:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                answers = self._decoder.decode([p.prompt for p in self._pairs], self._max_tokens, _DECODE_BATCH)
            hits = sum(
                answer.text.strip() == pair.target.strip() for answer, pair in zip(answers, self._pairs, strict=True)
            )
        model.train()
        parts = [(loss, targets, hits, len(self._pairs))]
        if self._accelerator.num_processes > 1:
            parts = gather_object(parts)
        loss, targets, hits, rows = (sum(column) for column in zip(*parts, strict=True))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the dev loss is {loss}", hint="lower [train] learning_rate and start again with --force"
            )
        return Evaluation(loss / targets, hits / rows if rows else None, rows)

    @torch.inference_mode()
    def _loss(self, model: Any, head: TargetHead, dtype: torch.dtype) -> tuple[float, int]:
        total, targets = 0.0, 0
        for start in range(0, len(self._examples), self._batch_size):
            batch = collate(self._examples[start : start + self._batch_size]).to(self._accelerator.device)
            total += target_loss(model, head, batch, dtype).item()
            targets += len(batch.labels)
        return total, targets
