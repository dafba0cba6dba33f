"""One sentence decoded and timed. A sentence that fails is an answer with an error, never a row that is gone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgedsl.errors import EdgeDSLError
from edgedsl.evaluation.statistics import summary
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams


@dataclass(frozen=True)
class Answer:
    """What the engine gave for one sentence.

    Attributes:
        finish_reason: ``stop`` or ``length``; None where the engine raised an error.
        itl_ms: time between each token and the one before it; n tokens have n - 1.
        elapsed_ms: time the call took, also where it failed.
    """

    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    e2el_ms: float = 0.0
    itl_ms: tuple[float, ...] = ()
    elapsed_ms: float = 0.0

    def is_exact(self, target: str) -> bool:
        """Whether the text is the target, white space around it apart."""
        return self.error is None and self.text.strip() == target.strip()


def answer(engine: Engine, sentence: str, params: SamplingParams, *, constrained: bool = True) -> Answer:
    """Decode one sentence; errors of ours become :attr:`Answer.error`."""
    stamps: list[float] = []
    started = time.perf_counter()
    try:
        done = engine.generate(
            sentence, params, on_text=lambda _: stamps.append(time.perf_counter()), constrained=constrained
        )
    except EdgeDSLError as exc:
        return Answer(error=exc.message, elapsed_ms=1000 * (time.perf_counter() - started))
    elapsed_ms = 1000 * (time.perf_counter() - started)
    # Text held back for an unfinished character comes as one more call, after the last token.
    stamps = stamps[: done.completion_tokens]
    return Answer(
        text=done.text,
        finish_reason=done.finish_reason,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        ttft_ms=done.timings.ttft_ms,
        tpot_ms=done.timings.tpot_ms,
        e2el_ms=done.timings.e2el_ms,
        itl_ms=tuple(1000 * (later - earlier) for earlier, later in pairwise(stamps)),
        elapsed_ms=elapsed_ms,
    )


def latencies(answers: Iterable[Answer]) -> dict[str, dict[str, Any]]:
    """``ttft_ms``, ``tpot_ms`` (answers of two tokens or more) and ``e2el_ms`` of the answers without an error."""
    given = [item for item in answers if item.error is None]
    return {
        "ttft_ms": summary([item.ttft_ms for item in given if item.completion_tokens]),
        "tpot_ms": summary([item.tpot_ms for item in given if item.completion_tokens > 1]),
        "e2el_ms": summary([item.e2el_ms for item in given]),
    }
