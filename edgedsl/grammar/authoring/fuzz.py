"""The promise, proved on a grammar: whatever a model's logits are, at any budget, a program comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedsl.catalogue import Catalogue
from edgedsl.errors import GenerationError, GrammarError
from edgedsl.grammar.authoring.token_set import TokenSet
from edgedsl.grammar.guard import BudgetGuard
from edgedsl.grammar.matcher import CompiledGrammar, Grammar

# Tokens that a budget has more than the shortest program.
SPARE = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
_SPREAD = 3.0  # of the logits
_LISTED = 5
Logits = NDArray[np.float32]


@dataclass
class FuzzResult:
    """What came out of ``n`` generations.

    Attributes:
        n: generations that were started.
        parsed: those whose text Lark parses, from scratch.
        over_budget: those with more tokens than their budget.
        invented_names: texts of catalogue terminals that the catalogue does not have.
        min_budget: tokens of the shortest program, the smallest budget that was given.
        errors: generations that ended with an error of an engine.
        mask_us_p50: of the time of mask and budget check of one token, the median.
        mask_us_p99: the same, 99 of 100.
    """

    n: int = 0
    parsed: int = 0
    over_budget: int = 0
    invented_names: int = 0
    min_budget: int = 0
    errors: int = 0
    mask_us_p50: float | None = None
    mask_us_p99: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def refuse(self) -> None:
        """Raise where the promise was broken.

        Raises:
            GrammarError: a program that does not parse, is over its budget or holds an invented name.
        """
        if self.parsed < self.n or self.over_budget or self.invented_names:
            raise GrammarError(
                f"{self.n - self.parsed} of {self.n} programs do not parse ({self.errors} errors), "
                f"{self.over_budget} are over budget, {self.invented_names} names are invented",
                hint="'edgedsl grammar check' says what is wrong with the grammar",
            )


@dataclass
class Fuzzer:
    """Generates from random logits, the way an engine does from a model's.

    Attributes:
        grammar: under test.
        tokens: what is decoded with.
        catalogue: names that may be used; None where there is no catalogue.
        seed: of the logits.
        failures: what went wrong, the first few.
    """

    grammar: Grammar
    tokens: TokenSet
    catalogue: Catalogue | None = None
    seed: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, n: int, on_progress: Callable[[int], None] = lambda _: None) -> FuzzResult:
        """Generate ``n`` programs: greedy and sampled in turn, budgets from the shortest program up.

        Raises:
            GrammarError: the grammar does not compile with these tokens.
        """
        compiled = self.tokens.compile(self.grammar)
        generation = Generation(compiled, np.random.default_rng(self.seed))
        result = FuzzResult(min_budget=compiled.planner.min_tokens)
        for number in range(n):
            budget = result.min_budget + SPARE[number // 2 % len(SPARE)]
            self._one(generation, result, budget, is_greedy=number % 2 == 0)
            on_progress(number + 1)
        if generation.mask_us:
            result.mask_us_p50 = round(float(np.percentile(generation.mask_us, 50)), 1)
            result.mask_us_p99 = round(float(np.percentile(generation.mask_us, 99)), 1)
        return result

    def _one(self, generation: Generation, result: FuzzResult, budget: int, *, is_greedy: bool) -> None:
        result.n += 1
        try:
            token_ids = generation.program(budget, is_greedy=is_greedy)
        except GenerationError as exc:
            result.errors += 1
            self._fail(f"budget {budget}: {exc.message}")
            return
        text = self.tokens.tokenizer.decode(token_ids)
        if len(token_ids) > budget:
            result.over_budget += 1
            self._fail(f"budget {budget}: {len(token_ids)} tokens: {text!r}")
        if not self.grammar.accepts(text):
            self._fail(f"budget {budget}: does not parse: {text!r}")
            return
        result.parsed += 1
        invented = self._invented(text)
        result.invented_names += len(invented)
        if invented:
            self._fail(f"budget {budget}: the catalogue does not have {', '.join(invented)}: {text!r}")

    def _invented(self, text: str) -> list[str]:
        names = self.catalogue.terminals if self.catalogue else {}
        return [
            spelled for terminal, spelled in self.grammar.tokens(text) if spelled not in names.get(terminal, [spelled])
        ]

    def _fail(self, what: str) -> None:
        if len(self.failures) < _LISTED:
            self.failures.append(what)


class Generation:
    """Programs from random logits, decoded the way an engine decodes a model's."""

    def __init__(self, compiled: CompiledGrammar, rng: np.random.Generator) -> None:
        self._compiled = compiled
        self._rng = rng
        self._bitmask = np.zeros(compiled.bitmask_size, np.int32)
        self.mask_us: list[float] = []
        self._draw_s = 0.0  # drawing is not the mask's time

    def program(self, budget: int, *, is_greedy: bool) -> list[int]:
        """Token ids of one generation.

        Raises:
            GenerationError: an engine failed, or no token was left.
        """
        matcher = self._compiled.matcher()
        guard = BudgetGuard(self._compiled, matcher)
        token_ids: list[int] = []
        while not matcher.is_stopped():
            logits = self._rng.standard_normal(self._compiled.vocab_size, np.float32) * np.float32(_SPREAD)
            started = time.perf_counter()
            matcher.fill_bitmask(self._bitmask)
            guard.mask(logits, self._bitmask)
            token_id = guard.choose(logits, _greedy if is_greedy else self._draw, budget - len(token_ids) - 1)
            self.mask_us.append(1e6 * (time.perf_counter() - started - self._draw_s))
            self._draw_s = 0.0
            if token_id in self._compiled.end_token_ids or len(token_ids) == budget:
                break
            matcher.consume(token_id)
            guard.consume(token_id)
            token_ids.append(token_id)
        return token_ids

    def _draw(self, logits: Logits) -> int:
        """Sample at temperature 1: the largest of the logits with Gumbel noise."""
        started = time.perf_counter()
        token_id = _greedy(logits + self._rng.gumbel(size=len(logits)).astype(np.float32))
        self._draw_s += time.perf_counter() - started
        return token_id


def _greedy(logits: Logits) -> int:
    token_id = int(logits.argmax())
    if not np.isfinite(logits[token_id]):
        raise GenerationError("no token is legal here; the program was discarded")
    return token_id
