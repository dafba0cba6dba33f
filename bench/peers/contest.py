"""Contestants answer the same questions in turn, and every answer is judged the same way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lark.exceptions import LarkError

from edgedsl.bench.peers.process import WorkerProcess
from edgedsl.errors import GenerationError
from edgedsl.evaluation.progress import track
from edgedsl.evaluation.statistics import ratio, summary
from edgedsl.grammar import Grammar
from edgedsl.tokenizer import Tokenizer

PAUSE_S = 0.05
ROUNDS = 2
_MAX_STARTS = 3  # each but the first follows a crash or a time-out
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """A sentence with its tokens, as edgedsl encodes the whole prompt, and the program that is wanted."""

    prompt: str
    token_ids: tuple[int, ...]
    target: str


@dataclass(frozen=True)
class Answer:
    """What a contestant gave for a question.

    Attributes:
        first_ms: request to the first token.
        end_ms: request to the whole answer; where it failed, the time that was lost.
        is_misplaced: a name of the catalogue stands where its owner has none; all else is right.
    """

    error: str | None = None
    num_tokens: int = 0
    first_ms: float = 0.0
    end_ms: float = 0.0
    parses: bool = False
    is_exact: bool = False
    is_misplaced: bool = False

    @property
    def tpot_ms(self) -> float | None:
        """Time of each token after the first, the end of the answer included."""
        return (self.end_ms - self.first_ms) / (self.num_tokens - 1) if self.num_tokens > 1 else None


class Judge:
    """Reads the token ids of an answer and parses its text; it has nothing but these."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer) -> None:
        self._grammar = grammar
        self._tokenizer = tokenizer

    def answer(self, reply: Mapping[str, Any], target: str) -> Answer:
        """The reply of a worker, judged."""
        text = self._tokenizer.decode(reply["token_ids"])
        parses = self._grammar.accepts(text)
        return Answer(
            num_tokens=len(reply["token_ids"]),
            first_ms=reply["first_ms"],
            end_ms=reply["end_ms"],
            parses=parses,
            is_exact=text.strip() == target.strip(),
            is_misplaced=not parses and self._parses_without_scopes(text),
        )

    def _parses_without_scopes(self, text: str) -> bool:
        try:
            self._grammar.lark.parse(text)
        except LarkError:
            return False
        return True


@dataclass
class Entrant:
    """One contestant, started again where it crashed or was killed.

    Attributes:
        start: makes its process.
        settings: for ``open``.
        opened: what it said of itself; None where it could not be opened, for the reason ``failure``.
        seconds: that all its answers took, where several streams shared the time.
    """

    label: str
    start: Callable[[], WorkerProcess]
    settings: Settings
    timeout_s: float = 120.0
    open_timeout_s: float = 600.0
    opened: dict[str, Any] | None = None
    failure: str = ""
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    _process: WorkerProcess | None = None
    _num_starts: int = 0

    def open(self) -> None:
        """Start it. A failure is kept, and each question then counts as an error."""
        try:
            self._running()
        except GenerationError as exc:
            self.failure = exc.message

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            GenerationError: it failed, crashed, took too long, or cannot be started again.
        """
        return self._running().ask(request, self.timeout_s)

    def generate(self, question: Question, max_tokens: int, judge: Judge) -> Answer:
        """Its answer to a question."""
        started = time.perf_counter()
        try:
            return judge.answer(self.ask({"generate": _request(question, max_tokens)}), question.target)
        except GenerationError as exc:
            return Answer(error=exc.message, end_ms=1e3 * (time.perf_counter() - started))

    def generate_together(
        self, questions: Sequence[Question], max_tokens: int, num_streams: int, judge: Judge
    ) -> list[Answer]:
        """Its answers to several streams; a failure is one of all of them."""
        requests = [_request(question, max_tokens) for question in questions]
        started = time.perf_counter()
        try:
            reply = self.ask({"together": {"requests": requests, "num_streams": num_streams}})
        except GenerationError as exc:
            self.seconds += time.perf_counter() - started
            return [Answer(error=exc.message) for _ in questions]
        self.seconds += reply["seconds"]
        return [judge.answer(one, q.target) for one, q in zip(reply["answers"], questions, strict=True)]

    def close(self) -> None:
        """End its process."""
        if self._process:
            self._process.close()

    def _running(self) -> WorkerProcess:
        if self._process and self._process.is_running:
            return self._process
        if self.failure or self._num_starts == _MAX_STARTS:
            raise GenerationError(self.failure or f"given up after {_MAX_STARTS} starts")
        self._num_starts += 1
        self._process = self.start()
        try:
            self.opened = self._process.ask({"open": dict(self.settings)}, self.open_timeout_s)
        except GenerationError:
            self._process.close()
            raise
        return self._process


def contest(
    entrants: Sequence[Entrant],
    questions: Sequence[Question],
    judge: Judge,
    *,
    max_tokens: int,
    num_warmup: int,
    pause_s: float = PAUSE_S,
    max_seconds: float = math.inf,
) -> None:
    """Let the entrants answer each question in turn; the answers are added to theirs.

    Args:
        entrants: opened.
        questions: the first ``num_warmup`` are asked once more before, and not counted.
        judge: of the answers.
        max_tokens: budget of an answer.
        num_warmup: answers of each entrant that are not counted.
        pause_s: before each answer, for the threads of the one before to stop spinning.
        max_seconds: no further question is asked after that; all have then answered the same ones.
    """
    started = time.perf_counter()
    for question in questions[:num_warmup]:
        for entrant in entrants:
            entrant.generate(question, max_tokens, judge)
    for question in track(questions, "in turn"):
        for entrant in entrants:
            time.sleep(pause_s)
            entrant.answers.append(entrant.generate(question, max_tokens, judge))
        if time.perf_counter() - started > max_seconds:
            return


def contest_of_streams(
    entrants: Sequence[Entrant],
    questions: Sequence[Question],
    judge: Judge,
    *,
    max_tokens: int,
    num_streams: int,
    pause_s: float = PAUSE_S,
    max_seconds: float = math.inf,
) -> None:
    """Let the entrants answer rounds of questions in turn, each from several streams at a time.

    A round has :data:`ROUNDS` questions a stream; the first is asked once more before, and not counted. For the
    arguments see :func:`contest`.
    """
    started, size = time.perf_counter(), ROUNDS * num_streams
    rounds = [questions[first : first + size] for first in range(0, len(questions), size)]
    for number, asked in enumerate(track([rounds[0], *rounds], "in turn")):
        for entrant in entrants:
            time.sleep(pause_s)
            found = entrant.generate_together(asked, max_tokens, num_streams, judge)
            if number:
                entrant.answers += found
            else:
                entrant.seconds = 0.0
        if number and time.perf_counter() - started > max_seconds:
            return


def _request(question: Question, max_tokens: int) -> dict[str, Any]:
    return {"prompt": question.prompt, "token_ids": list(question.token_ids), "max_tokens": max_tokens}


@dataclass(frozen=True)
class Standing:
    """The figures of one entrant; None is: not measured."""

    entrant: Entrant

    @cached_property
    def given(self) -> list[Answer]:
        """Answers without an error."""
        return [answer for answer in self.entrant.answers if answer.error is None]

    @property
    def answers_per_s(self) -> float | None:
        """Answers given in the time of all, failed ones too."""
        seconds = self.entrant.seconds or sum(answer.end_ms for answer in self.entrant.answers) / 1e3
        return ratio(len(self.given), seconds) if self.given else None

    @property
    def exact_match(self) -> float | None:
        """Share of all questions whose answer is the target."""
        return ratio(sum(answer.is_exact for answer in self.given), len(self.entrant.answers))

    @property
    def ttft_ms(self) -> float | None:
        """Median."""
        return self._median([answer.first_ms for answer in self.given])

    @property
    def tpot_ms(self) -> float | None:
        """Median."""
        return self._median([answer.tpot_ms for answer in self.given if answer.tpot_ms is not None])

    @property
    def e2el_ms(self) -> float | None:
        """Median."""
        return self._median([answer.end_ms for answer in self.given])

    @property
    def num_tokens(self) -> float | None:
        """Mean of the tokens of an answer."""
        return ratio(sum(answer.num_tokens for answer in self.given), len(self.given))

    def _median(self, values: Sequence[float]) -> float | None:
        median: float | None = summary(values)["p50"]
        return median
