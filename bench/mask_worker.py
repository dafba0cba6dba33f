"""One engine of :mod:`edgedsl.bench.masks` in a process of its own, which can be killed: both ends of it.

A request is a line of JSON on stdin of ``python -m edgedsl.bench.mask_worker``, its answer a line on stdout; whatever
an engine prints goes to stderr. An answer to a request that failed is ``{"error": "..."}``.

    {"open": NAME, "tokenizer": FILE, "end_token_id": N}  ->  {"version": "...", "tokenizer_ms": ...}
    {"compile": SOURCE}                                   ->  {"compile_ms": ...}
    {"walk": [TOKEN_ID, ...], "seed": N}                  ->  {"step_us": [...], "drawn": [...], "is_accepted": ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgedsl.bench.mask_engines import EdgedslFull, EdgedslGreedy, Llguidance, MaskEngine, Outlines, Xgrammar
from edgedsl.bench.process import JsonProcess, Message, threads
from edgedsl.errors import ConfigError, GenerationError, first_line

ENGINES: dict[str, type[MaskEngine]] = {
    "edgedsl-greedy": EdgedslGreedy,
    "edgedsl-full": EdgedslFull,
    "outlines": Outlines,
    "llguidance": Llguidance,
    "xgrammar": Xgrammar,
}
_MAX_STARTS = 3  # of one engine for one grammar; each but the first follows a crash or a time-out
_START_TIMEOUT_S = 300.0  # imports from a cold disk are in it


class MaskProcess(JsonProcess):
    """The parent's end.

    Args:
        engine: name of :data:`ENGINES`.
        python: interpreter that has edgedsl and the engine; None is this one.
        tokenizer: tokenizer.json.
        end_token_id: token that ends a program.
        timeout_s: longest wait for an answer.

    Attributes:
        opened: what the engine said of itself.

    Raises:
        ConfigError: the engine cannot be started there.
    """

    def __init__(self, engine: str, python: Path | None, tokenizer: Path, end_token_id: int, timeout_s: float) -> None:
        interpreter = str(python or sys.executable)
        super().__init__([interpreter, "-m", "edgedsl.bench.mask_worker"], threads(1))
        self.timeout_s = timeout_s
        request = {"open": engine, "tokenizer": str(tokenizer.absolute()), "end_token_id": end_token_id}
        try:
            self.opened = self.ask(request, _START_TIMEOUT_S)
        except GenerationError as exc:
            self.close()
            raise ConfigError(
                f"engine '{engine}' cannot be used: {exc.message}",
                hint=f"'{Path(interpreter).name}' needs edgedsl and what '{engine}' needs; see bench/README.md",
            ) from exc


class Run:
    """One engine on its way through the programs of one grammar, started again where it crashed or was killed.

    Args:
        start: makes a process.
        source: of the grammar, as the engine reads it; None where there is none, for the reason ``failure``.

    Attributes:
        opened: what the engine said of itself.
        compile_ms: None as long as the grammar was not compiled.
    """

    def __init__(self, start: Callable[[], MaskProcess], source: str | None, failure: str = "") -> None:
        self._start = start
        self._source = source
        self._failure = failure
        self._num_starts = 0
        self._process = start()
        self.opened = self._process.opened
        self.compile_ms: float | None = None
        self._compile()

    def walk(self, token_ids: list[int], seed: int) -> Message:
        """The answer of :func:`walk`.

        Raises:
            GenerationError: the grammar does not compile, or the engine failed with this program or too often before.
        """
        if self.compile_ms is not None and not self._process.is_running and self._num_starts < _MAX_STARTS:
            self._process = self._start()
            self._compile()
        if self.compile_ms is None:
            raise GenerationError(self._failure)
        if not self._process.is_running:
            raise GenerationError(f"not tried any more, the engine was lost {self._num_starts} times")
        return self._process.ask({"walk": token_ids, "seed": seed}, self._process.timeout_s)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _compile(self) -> None:
        self._num_starts += 1
        if self._source is None:
            return
        try:
            self.compile_ms = self._process.ask({"compile": self._source}, self._process.timeout_s)["compile_ms"]
        except GenerationError as exc:
            self.compile_ms, self._failure = None, f"compiling: {exc.message}"


class Worker:
    """The child's end: answers requests about one engine."""

    def __init__(self) -> None:
        self._engine: MaskEngine | None = None

    def answer(self, request: Message) -> Message:
        """The answer; a failure of the engine, of whatever kind, is one too."""
        handlers: dict[str, Callable[[Message], Message]] = {
            "open": self._open,
            "compile": self._compile,
            "walk": self._walk,
        }
        try:
            return next(handler for name, handler in handlers.items() if name in request)(request)
        except Exception as exc:
            return {"error": f"{type(exc).__name__}: {first_line(exc)}"}

    def _open(self, request: Message) -> Message:
        """Also makes a first mask of a small grammar, so that no import is in the times."""
        self._engine = ENGINES[request["open"]](Path(request["tokenizer"]), request["end_token_id"])
        self._first_mask()
        seconds = self._engine.tokenizer_s
        return {"version": self._engine.version, "tokenizer_ms": None if seconds is None else round(1e3 * seconds, 1)}

    def _compile(self, request: Message) -> Message:
        """From the source to a first mask: some engines put off what others do at once."""
        started = time.perf_counter()
        self._opened.compile(request["compile"])
        seconds = time.perf_counter() - started
        return {"compile_ms": round(1e3 * (seconds + self._first_mask()), 1)}

    def _walk(self, request: Message) -> Message:
        return walk(self._opened, request["walk"], request["seed"])

    def _first_mask(self) -> float:
        return float(1e-6 * sum(walk(self._opened, [], seed=0)["step_us"]))

    @property
    def _opened(self) -> MaskEngine:
        assert self._engine is not None
        return self._engine


def walk(engine: MaskEngine, token_ids: list[int], seed: int) -> Message:
    """Move along a program and its end token, until the engine refuses one.

    Args:
        engine: with a grammar.
        token_ids: of the program, the end token not among them.
        seed: of the random logits; every engine gets the same ones.

    Returns:
        ``step_us``: time of each step, a new matcher in the first one; ``drawn``: what random logits would have led to
        at each place, where it was drawn; ``is_accepted``.
    """
    rng = np.random.default_rng(seed)
    step_us, drawn = [], []
    started = time.perf_counter()
    engine.begin(len(token_ids))
    begin_s = time.perf_counter() - started
    is_allowed = True
    for token_id in [*token_ids, engine.end_token_id]:
        step = engine.step(token_id, rng.standard_normal(engine.tokenizer.vocab_size, np.float32))
        drawn.append(step.drawn)
        is_allowed = step.is_allowed
        step_us.append(round(1e6 * (step.seconds + begin_s), 2))
        begin_s = 0.0
        if not is_allowed:
            break
    return {"step_us": step_us, "drawn": drawn, "is_accepted": is_allowed}


def main() -> int:
    """Answer until stdin ends."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
