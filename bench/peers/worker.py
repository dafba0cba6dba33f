"""One contestant in a process of its own, in its own environment: run by path as ``python -I worker.py MODULE``.

MODULE is a file of this folder with the class :class:`Contestant` asks for. A request is a line of JSON on stdin, its
answer a line on stdout; whatever the contestant prints goes to stderr. A request that failed is answered with
``{"error": "..."}``. Nothing of edgedsl is imported here: a peer's environment does not have it.

    {"build": {...}}  ->  {}                                            a model file from the merged weights
    {"open": {...}}   ->  {"versions": {...}, "load_ms": ...}
    {"tokens": TEXT}  ->  {"token_ids": [...]}                          by the contestant's own tokenizer
    {"generate": {"prompt": TEXT, "token_ids": [...], "max_tokens": N}}
                      ->  {"token_ids": [...], "first_ms": ..., "end_ms": ...}
    {"together": {"requests": [...], "num_streams": N}}                 requests as those of generate
                      ->  {"answers": [...], "seconds": ...}

``token_ids`` of an answer are those of the program, without an end token; times are from the request. Together, N
streams ask one request after the other, each as soon as its last one is answered.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]


class Contestant(Protocol):
    """What a module of this folder offers as the class ``Contestant``; it is made from the settings of ``open``."""

    versions: dict[str, str]

    @staticmethod
    def build(settings: Message) -> None:
        """Write a model file, ``settings["target"]``, from the merged weights."""

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text in which no special token is looked for."""

    def generate(self, prompt: str, token_ids: list[int], max_tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Token ids of the program, greedy under the grammar; ``on_token`` is called as soon as one is known."""


class Together(Protocol):
    """What a contestant may have as well: answers to several streams at a time."""

    def generate_together(self, requests: list[Message], num_streams: int, clock: Clock) -> list[list[int]]:
        """Token ids for each request; the clock is told when each begins, has its first token and ends."""


class Clock:
    """Moments of several requests, in milliseconds from the start of each."""

    def __init__(self, num_requests: int) -> None:
        self._started = [0.0] * num_requests
        self._first: list[float | None] = [None] * num_requests
        self._ended = [0.0] * num_requests

    def start(self, index: int) -> None:
        """A stream asks."""
        self._started[index] = time.perf_counter()

    def token(self, index: int) -> None:
        """One more token is known."""
        if self._first[index] is None:
            self._first[index] = time.perf_counter()

    def end(self, index: int) -> None:
        """The answer is whole."""
        self._ended[index] = time.perf_counter()

    def answer(self, index: int, token_ids: list[int]) -> Message:
        """As ``generate`` answers."""
        first, started, ended = self._first[index], self._started[index], self._ended[index]
        times = {"first_ms": 1e3 * ((first or ended) - started), "end_ms": 1e3 * (ended - started)}
        return {"token_ids": token_ids, **{name: round(value, 3) for name, value in times.items()}}


class Worker:
    """Answers requests for one module."""

    def __init__(self, contestant: type[Contestant]) -> None:
        self._class = contestant
        self._open_contestant: Contestant | None = None
        self._answers: dict[str, Callable[[Any], Message]] = {
            "build": self._build,
            "open": self._open,
            "tokens": lambda text: {"token_ids": self._opened.tokens(text)},
            "generate": lambda request: timed(self._opened, **request),
            "together": lambda request: together(self._opened, **request),
        }

    def answer(self, request: Message) -> Message:
        """Of one request; errors of any class become messages: the contestants raise all sorts."""
        try:
            ((kind, content),) = request.items()
            return self._answers[kind](content)
        except Exception as exc:
            lines = str(exc).strip().splitlines()
            return {"error": f"{type(exc).__name__}: {lines[0][:300] if lines else ''}"}

    def _build(self, settings: Message) -> Message:
        self._class.build(settings)
        return {}

    def _open(self, settings: Message) -> Message:
        started = time.perf_counter()
        self._open_contestant = self._class(settings)  # type: ignore[call-arg]  # a protocol says nothing of that
        load_ms = round(1e3 * (time.perf_counter() - started), 1)
        return {"versions": self._open_contestant.versions, "load_ms": load_ms}

    @property
    def _opened(self) -> Contestant:
        assert self._open_contestant is not None
        return self._open_contestant


def together(contestant: Any, requests: list[Message], num_streams: int) -> Message:
    """Answers to several streams; who can answer only one at a time answers in the order of asking."""
    clock, started = Clock(len(requests)), time.perf_counter()
    if hasattr(contestant, "generate_together"):
        found = contestant.generate_together(requests, num_streams, clock)
    else:
        found = _one_by_one(contestant, requests, num_streams, clock)
    seconds = time.perf_counter() - started
    return {"answers": [clock.answer(n, token_ids) for n, token_ids in enumerate(found)], "seconds": seconds}


def _one_by_one(contestant: Contestant, requests: list[Message], num_streams: int, clock: Clock) -> list[list[int]]:
    found: list[list[int]] = []
    for index in range(min(num_streams, len(requests))):
        clock.start(index)
    for index, request in enumerate(requests):
        found.append(contestant.generate(**request, on_token=partial(clock.token, index)))
        clock.end(index)
        if index + num_streams < len(requests):  # its stream asks again
            clock.start(index + num_streams)
    return found


def timed(contestant: Contestant, prompt: str, token_ids: list[int], max_tokens: int) -> Message:
    """One answer with its times; they end when the contestant has nothing more to do."""
    first_s: list[float] = []

    def on_token() -> None:
        if not first_s:
            first_s.append(time.perf_counter())

    started = time.perf_counter()
    found = contestant.generate(prompt, token_ids, max_tokens, on_token)
    end_s = time.perf_counter()
    first_ms, end_ms = (1e3 * (moment - started) for moment in ((first_s or [end_s])[0], end_s))
    return {"token_ids": found, "first_ms": round(first_ms, 3), "end_ms": round(end_ms, 3)}


def load(path: Path) -> type[Contestant]:
    """The contestant of a module that need not be on the import path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Contestant] = module.Contestant
    return found


def main(arguments: list[str]) -> int:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        try:
            worker = worker or Worker(load(Path(arguments[0])))
            answer = worker.answer(json.loads(line))
        except Exception as exc:  # the module's own imports
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
