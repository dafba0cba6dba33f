"""Greedy decoding with torch: the reference that training and the export hops are measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from edgedsl.errors import GenerationError
from edgedsl.grammar import BudgetGuard, CompiledGrammar, Matcher
from edgedsl.prompt import PromptTemplate
from edgedsl.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Decoded:
    """One answer; ``token_ids`` without the end token. ``error``: the grammar engine failed, and the text is empty."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


@dataclass
class _Row:
    """One sentence while it is decoded."""

    index: int
    prompt: list[int]
    matcher: Matcher | None
    guard: BudgetGuard | None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class TorchDecoder:
    """Batched greedy decoding of a causal language model, under a grammar when ``compiled`` is given.

    Rows are padded on the left and share one KV cache; rows that are done leave it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        compiled: CompiledGrammar | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._tokenizer = tokenizer
        self._template = template
        self._compiled = compiled
        self._device = torch.device(device)
        self._end = frozenset(tokenizer.end_token_ids(template))

    def generate(self, sentences: Sequence[str], max_tokens: int, batch_size: int = 16) -> list[str]:
        """Programs of the sentences, in their order; without a grammar they are cut off at ``max_tokens``.

        Raises:
            RequestError: no program of the grammar fits into ``max_tokens``.
            GenerationError: logits that are not finite, or a failure of the grammar engine.
        """
        decoded = self.decode(sentences, max_tokens, batch_size)
        failed = [i for i, answer in enumerate(decoded) if answer.finish_reason == "error"]
        if failed:
            raise GenerationError(
                f"the grammar engine failed or met a limit in {len(failed)} of {len(decoded)} answers"
            )
        return [answer.text for answer in decoded]

    @torch.inference_mode()
    def decode(self, sentences: Sequence[str], max_tokens: int, batch_size: int = 16) -> list[Decoded]:
        """Like :meth:`generate`, with token ids and finish reasons; a failing grammar engine costs one answer only."""
        if self._compiled:
            self._compiled.check_budget(max_tokens)
        rows = [self._row(index, sentence) for index, sentence in enumerate(sentences)]
        by_length = sorted(rows, key=lambda row: len(row.prompt))  # little padding
        was_training = self._model.training
        self._model.eval()
        try:
            for start in range(0, len(rows), batch_size):
                self._decode_batch(by_length[start : start + batch_size], max_tokens)
        finally:
            self._model.train(was_training)
        return [self._decoded(row) for row in rows]

    def _row(self, index: int, sentence: str) -> _Row:
        matcher = self._compiled.matcher() if self._compiled else None
        guard = BudgetGuard(self._compiled, matcher) if self._compiled and matcher else None
        return _Row(index, self._tokenizer.encode_prompt(self._template, sentence), matcher, guard)

    def _decoded(self, row: _Row) -> Decoded:
        assert row.finish_reason is not None
        if row.finish_reason == "error":
            return Decoded("", [], "error")
        return Decoded(self._tokenizer.decode(row.token_ids), row.token_ids, row.finish_reason)

    def _decode_batch(self, rows: list[_Row], max_tokens: int) -> None:
        steps = _Steps(self._model, [row.prompt for row in rows], self._device)
        active = rows
        while True:
            chosen = self._choose(steps.logits[:, : self._tokenizer.vocab_size], active, max_tokens)
            for row, token_id in zip(active, chosen, strict=True):
                if row.finish_reason is None:
                    self._advance(row, token_id, max_tokens)
            going = [i for i, row in enumerate(active) if row.finish_reason is None]
            if not going:
                return
            if len(going) < len(active):
                steps.keep(going)
                active = [active[i] for i in going]
            steps.feed([row.token_ids[-1] for row in active])

    def _choose(self, logits: torch.Tensor, rows: list[_Row], max_tokens: int) -> list[int]:
        """The likeliest allowed token of each row; a mask is made only where the likeliest token is forbidden."""
        if not torch.isfinite(logits).all():
            raise GenerationError(
                "the model's logits are not finite", hint="train again with a lower learning rate, or in fp32"
            )
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        for i, row in enumerate(rows):
            tokens_left = max_tokens - len(row.token_ids) - 1
            try:
                if row.guard and not row.guard.permits(chosen[i], tokens_left):
                    chosen[i] = row.guard.choose(logits[i].float().cpu().numpy(), _argmax, tokens_left)
            except GenerationError:
                row.finish_reason = "error"
        return chosen

    def _advance(self, row: _Row, token_id: int, max_tokens: int) -> None:
        try:
            row.finish_reason = self._take(row, token_id, max_tokens)
            if row.finish_reason and row.guard and not row.guard.is_whole():
                row.finish_reason = "error"
        except GenerationError:
            row.finish_reason = "error"

    def _take(self, row: _Row, token_id: int, max_tokens: int) -> FinishReason | None:
        ended: FinishReason = "length" if row.guard and row.guard.is_steering else "stop"
        if token_id in self._end:
            return ended
        if len(row.token_ids) == max_tokens:
            return "length"
        row.token_ids.append(token_id)
        if not row.guard:
            return None
        row.guard.consume(token_id)
        return ended if row.guard.is_over() else None


def _argmax(logits: NDArray[np.float32]) -> int:
    best = int(logits.argmax())
    if logits[best] == -np.inf:
        raise GenerationError("no token can follow: every logit is masked")
    return best


class _Steps:
    """The forward passes of one batch. ``logits`` [rows, vocab] are those of the newest token."""

    def __init__(self, model: Any, prompts: list[list[int]], device: torch.device) -> None:
        self._model = model
        self._device = device
        self._cache = DynamicCache()
        width = max(len(prompt) for prompt in prompts)
        self._pad = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        self._width = width
        input_ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        positions = (torch.arange(width, device=device) - self._pad[:, None]).clamp(min=0)
        self.logits = self._forward(input_ids, positions)

    def feed(self, token_ids: list[int]) -> None:
        """Append one token to each row."""
        positions = (self._width - self._pad)[:, None]
        self._width += 1
        self.logits = self._forward(torch.tensor(token_ids, device=self._device)[:, None], positions)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self._device)
        self._cache.batch_select_indices(index)
        self._pad = self._pad[index]

    def _forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        mask = None
        if bool(self._pad.any()):
            mask = (torch.arange(self._width, device=self._device) >= self._pad[:, None]).long()  # [rows, width]
        logits: torch.Tensor = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]
