"""Programs from random logits, decoded the way an engine decodes a model's: one alone, or a batch in lock step."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from edgedsl.errors import GenerationError, MatcherError, NoTokenError
from edgedsl.grammar.authoring.random_logits import Logits, RandomLogits
from edgedsl.grammar.compiled import CompiledGrammar
from edgedsl.grammar.guard import BudgetGuard


@dataclass(frozen=True)
class Request:
    """One program to generate.

    Attributes:
        number: makes its random numbers, with the seed of the generation.
        budget: most tokens, the end token not counted.
        kind: of its logits, one of random_logits.KINDS.
        is_greedy: the largest logit is taken; else a sample at temperature 1.
    """

    number: int
    budget: int
    kind: str = "normal"
    is_greedy: bool = True

    def __str__(self) -> str:
        how = "greedy" if self.is_greedy else "sampled"
        return f"number {self.number}, {self.kind} logits, {how}, budget {self.budget}"


@dataclass
class Generated:
    """What became of a request: its tokens, and the error of an engine that ended it."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    error: GenerationError | None = None


class Generation:
    """Generates programs over one compiled grammar, which all of them share.

    Attributes:
        mask_us: time of mask and budget check of each token, in microseconds, and of the engine's word on each whole
            program; drawing is not in it.
    """

    def __init__(self, compiled: CompiledGrammar, rng: np.random.Generator) -> None:
        self._compiled = compiled
        self._seed = int(rng.integers(2**63))
        self._logits = RandomLogits(compiled, rng)
        self._num_alone = 0
        self.mask_us = array("d")

    def program(self, budget: int, *, is_greedy: bool, kind: str = "normal") -> list[int]:
        """Token ids of one generation.

        Raises:
            GenerationError: an engine failed, or no token was left.
        """
        request = Request(self._num_alone, budget, kind, is_greedy)
        self._num_alone += 1
        generated = next(self.batch([request], 1))
        if generated.error:
            raise generated.error
        return generated.token_ids

    def batch(self, requests: Iterable[Request], size: int) -> Iterator[Generated]:
        """Decode ``size`` programs in lock step, a token of each at a time; one that ends makes room for the next."""
        waiting = iter(requests)
        running: list[_Program] = []
        while running := running + [self._start(request) for request in islice(waiting, size - len(running))]:
            ended = [program for program in running if self._step(program)]
            running = [program for program in running if program not in ended]
            yield from (program.generated for program in ended)

    def _start(self, request: Request) -> _Program:
        return _Program(self._compiled, request, np.random.default_rng([self._seed, request.number]))

    def _step(self, program: _Program) -> bool:
        """Choose one token; whether the program ended."""
        try:
            return self._advance(program)
        except GenerationError as exc:
            program.generated.error = exc
            return True
        except Exception as exc:
            exc.add_note(f"program: {program.generated.request}")
            raise

    def _advance(self, program: _Program) -> bool:
        token_ids, request = program.generated.token_ids, program.generated.request
        if program.guard.is_over():
            return self._end(program)
        token_id = self._choose(program, request.budget - len(token_ids) - 1)
        if token_id in self._compiled.end_token_ids or len(token_ids) == request.budget:
            return self._end(program)
        program.guard.consume(token_id)
        token_ids.append(token_id)
        return False

    def _end(self, program: _Program) -> bool:
        started = time.perf_counter()
        is_whole = program.guard.is_whole()
        self.mask_us.append(1e6 * (time.perf_counter() - started))
        if not is_whole:
            raise MatcherError("the grammar engine does not take the program as whole")
        return True

    def _choose(self, program: _Program, tokens_left: int) -> int:
        rng, request = program.rng, program.generated.request
        logits = self._logits.row(request.kind, rng)
        drawing_s = 0.0

        def sampled(values: Logits) -> int:
            nonlocal drawing_s
            drawing_started = time.perf_counter()
            index = _greedy(values + self._logits.noise(rng)[: len(values)])
            drawing_s += time.perf_counter() - drawing_started
            return index

        draw = _greedy if request.is_greedy else sampled
        started = time.perf_counter()
        if not (request.is_greedy and program.guard.permits(token_id := int(logits.argmax()), tokens_left)):
            token_id = program.guard.choose(logits, draw, tokens_left)
        self.mask_us.append(1e6 * (time.perf_counter() - started - drawing_s))
        return token_id


class _Program:
    """A program on its way: matcher, budget guard and random numbers are its own."""

    def __init__(self, compiled: CompiledGrammar, request: Request, rng: np.random.Generator) -> None:
        self.generated = Generated(request)
        self.rng = rng
        self.matcher = compiled.matcher()
        self.guard = BudgetGuard(compiled, self.matcher)


def _greedy(values: Logits) -> int:
    index = int(values.argmax())
    if not np.isfinite(values[index]):
        raise NoTokenError("no token is legal here; the program was discarded")
    return index
