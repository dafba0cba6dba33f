"""All state of one request, and what comes back from it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from edgedsl.grammar import Matcher
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.tokenizer import TextStream

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
        finish_reason: ``stop``: a whole program; ``length``: cut at max_tokens, may not parse; ``cancelled``: the
            caller left.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    timings: Timings

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "program": self.text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "timings": {name: round(value, 3) for name, value in asdict(self.timings).items()},
        }


@dataclass
class Sequence:
    """A request on its way: prompt, program so far, grammar state, random state, clock."""

    prompt_token_ids: list[int]
    params: SamplingParams
    matcher: Matcher | None
    text_stream: TextStream
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    started_s: float = field(default_factory=time.perf_counter)
    first_token_s: float = 0.0
    last_token_s: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.params.seed)

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
            text, tuple(self.token_ids), self.finish_reason, len(self.prompt_token_ids), num_tokens, timings
        )
