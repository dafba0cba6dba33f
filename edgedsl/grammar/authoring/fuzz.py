"""The promise, proved on a grammar: whatever a model's logits are, at any budget, a program comes out."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgedsl.catalogue import Catalogue
from edgedsl.errors import GrammarError
from edgedsl.grammar.authoring.generation import Generated, Generation, Request
from edgedsl.grammar.authoring.random_logits import KINDS
from edgedsl.grammar.authoring.token_set import TokenSet
from edgedsl.grammar.grammar import Grammar

# Tokens that a budget has more than the shortest program.
SPARE = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
# Programs that are decoded in lock step; the sizes take turns.
BATCH_SIZES = (1, 4, 8)
_ROUND = 16  # programs of one batch size
_LISTED = 5


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
        tokens: of all programs together.
        distinct: different texts among those that parse.
        mask_us_p50: of the time of mask and budget check of one token, the median.
        mask_us_p99: the same, 99 of 100.
        mask_us_max: the same, the longest.
    """

    n: int = 0
    parsed: int = 0
    over_budget: int = 0
    invented_names: int = 0
    min_budget: int = 0
    errors: int = 0
    tokens: int = 0
    distinct: int = 0
    mask_us_p50: float | None = None
    mask_us_p99: float | None = None
    mask_us_max: float | None = None

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
        mask_us: time of mask and budget check of each token, in microseconds.
    """

    grammar: Grammar
    tokens: TokenSet
    catalogue: Catalogue | None = None
    seed: int = 0
    failures: list[str] = field(default_factory=list)
    mask_us: array[float] = field(default_factory=lambda: array("d"))
    _texts: set[int] = field(default_factory=set)

    def run(self, n: int, on_progress: Callable[[int], None] = lambda _: None) -> FuzzResult:
        """Generate ``n`` programs: of every kind of logits, greedy and sampled, budgets from the shortest program up.

        Sixteen at a time are decoded in lock step, 1, 4 or 8 of them at once.

        Raises:
            GrammarError: the grammar does not compile with these tokens.
        """
        compiled = self.tokens.compile(self.grammar)
        generation = Generation(compiled, np.random.default_rng(self.seed))
        self.mask_us = generation.mask_us
        result = FuzzResult(min_budget=compiled.planner.min_tokens)
        for generated in _generate(generation, n, result.min_budget):
            self._judge(generated, result)
            on_progress(result.n)
        if self.mask_us:
            p50, p99, longest = np.percentile(self.mask_us, (50, 99, 100)).round(1).tolist()
            result.mask_us_p50, result.mask_us_p99, result.mask_us_max = p50, p99, longest
        return result

    def _judge(self, generated: Generated, result: FuzzResult) -> None:
        request, token_ids = generated.request, generated.token_ids
        result.n += 1
        if generated.error:
            result.errors += 1
            self._fail(f"{request}: {generated.error.message}")
            return
        text = self.tokens.tokenizer.decode(token_ids)
        result.tokens += len(token_ids)
        if len(token_ids) > request.budget:
            result.over_budget += 1
            self._fail(f"{request}: {len(token_ids)} tokens: {text!r}")
        if not self.grammar.accepts(text):
            self._fail(f"{request}: does not parse: {text!r}")
            return
        result.parsed += 1
        self._texts.add(hash(text))
        result.distinct = len(self._texts)
        invented = self._invented(text)
        result.invented_names += len(invented)
        if invented:
            self._fail(f"{request}: the catalogue does not have {', '.join(invented)}: {text!r}")

    def _invented(self, text: str) -> list[str]:
        return self.catalogue.invented(self.grammar.tokens(text)) if self.catalogue else []

    def _fail(self, what: str) -> None:
        if len(self.failures) < _LISTED:
            self.failures.append(what)


def request(number: int, min_budget: int) -> Request:
    """The request with a number: kinds of logits and budgets cycle against each other, so that all pairs occur."""
    pair = number // 2
    return Request(number, min_budget + SPARE[pair % len(SPARE)], KINDS[pair % len(KINDS)], number % 2 == 0)


def _generate(generation: Generation, n: int, min_budget: int) -> Iterator[Generated]:
    for start in range(0, n, _ROUND):
        requests = [request(number, min_budget) for number in range(start, min(start + _ROUND, n))]
        yield from generation.batch(requests, BATCH_SIZES[start // _ROUND % len(BATCH_SIZES)])
