"""All state of one request, and what comes back from it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedsl.grammar import BudgetGuard, CompiledGrammar
from edgedsl.runtime.sampling import SamplingParams, sample
from edgedsl.tokenizer import TextStream

if TYPE_CHECKING:
    from edgedsl.runtime.lookahead import Lookahead

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one generation.

    Attributes:
        ttft_ms: request to first token (tokenise, prefill, first mask).
        tpot_ms: mean time per token after the first; n tokens have n - 1 gaps; 0 when there is one token.
        e2el_ms: request to checked answer.
    """

    ttft_ms: float
    tpot_ms: float
    e2el_ms: float


@dataclass(frozen=True)
class Completion:
    """A program. ``str()`` of it is its text.

    Attributes:
        token_ids: without the end token.
        finish_reason: ``stop``: the program the model wanted; ``length``: a whole program too, but ``max_tokens`` made
            it shorter (without the grammar: cut off); ``cancelled``: the caller left.
        model_calls: of the prompt and of the tokens; drafts make them fewer than the tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    timings: Timings
    model_calls: int = 0

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "program": self.text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "model_calls": self.model_calls,
            "timings": {name: round(value, 3) for name, value in asdict(self.timings).items()},
        }


@dataclass
class Sequence:
    """A request on its way: prompt, program so far, grammar state, random state, clock."""

    sentence: str
    prompt_token_ids: list[int]
    params: SamplingParams
    compiled: CompiledGrammar | None
    text_stream: TextStream
    budget: int  # most tokens of the program
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    started_s: float = field(default_factory=time.perf_counter)
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    lookahead: Lookahead | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.params.seed)
        self.matcher = self.compiled.matcher() if self.compiled else None
        self.guard = BudgetGuard(self.compiled, self.matcher) if self.compiled and self.matcher else None

    @property
    def tokens_left(self) -> int:
        """Of the budget."""
        return self.budget - len(self.token_ids)

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Pick a token id from masked logits [vocab]."""
        return sample(logits, self.params, self.rng)

    def may_take(self, token_id: int, tokens_left: int) -> bool:
        """Whether the likeliest token, which may be padding of the head, can be taken as it is."""
        if self.guard and self.compiled:
            return token_id < self.compiled.vocab_size and self.guard.permits(token_id, tokens_left)
        return False

    def consume(self, token_id: int) -> None:
        """Move the grammar on.

        Raises:
            GenerationError: the token is not the one that was last permitted.
        """
        if self.guard:
            self.guard.consume(token_id)

    def is_over(self) -> bool:
        """Whether the program is whole and nothing can follow it."""
        return self.guard is not None and self.guard.is_over()

    def is_whole(self, text: str) -> bool:
        """Whether both engines, each on its own, take the finished program.

        Raises:
            MatcherError: the decoding engine failed.
        """
        if not (self.guard and self.compiled):
            return True
        return self.guard.is_whole() and self.compiled.grammar.accepts(text)

    def is_steered(self) -> bool:
        """Whether the budget kept the model from a token it wanted."""
        return self.guard is not None and self.guard.is_steering

    def append(self, token_id: int) -> str:
        """Take one more token and return the text it completes."""
        self.last_token_s = time.perf_counter()
        if not self.token_ids:
            self.first_token_s = self.last_token_s
        self.token_ids.append(token_id)
        return self.text_stream.push(token_id)

    def completion(self, text: str) -> Completion:
        """The finished request with its timings, taken now."""
        assert self.finish_reason is not None
        now = time.perf_counter()
        gaps = max(len(self.token_ids) - 1, 1)
        timings = Timings(
            ttft_ms=1000 * ((self.first_token_s or now) - self.started_s),
            tpot_ms=1000 * (self.last_token_s - self.first_token_s) / gaps,
            e2el_ms=1000 * (now - self.started_s),
        )
        num_tokens = len(self.token_ids)
        return Completion(
            text,
            tuple(self.token_ids),
            self.finish_reason,
            len(self.prompt_token_ids),
            num_tokens,
            timings,
            self.lookahead.num_calls if self.lookahead else 0,
        )
