"""Streams without a model: the test says when a step may be made."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgedsl.errors import GenerationError, PromptTooLong
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion, Timings


class Panic(BaseException):
    """What pyo3 makes of a panic is no Exception either."""


class FakeStream:
    def __init__(
        self, sentence: str, on_text: Callable[[str], None] | None, is_cancelled: Callable[[], bool] | None
    ) -> None:
        self.sentence = sentence
        self.on_text = on_text
        self.is_cancelled = is_cancelled
        self.num_left = int(sentence.rsplit(maxsplit=1)[-1])
        self.text = ""
        self.outcome: Completion | BaseException | None = None

    def advance(self) -> None:
        """One token."""
        word = self.sentence.split()[0]
        if word in ("fail", "panic"):
            self.outcome = GenerationError("the model failed") if word == "fail" else Panic("a matcher")
            return
        self.text += "x"
        self.num_left -= 1
        if self.on_text:
            self.on_text("x")
        if word != "deaf" and self.is_cancelled and self.is_cancelled():
            self._finish("cancelled")
        elif not self.num_left:
            self._finish("stop")

    def _finish(self, finish_reason: str) -> None:
        timings = Timings(1.0, 0.5, 2.0)
        self.outcome = Completion(self.text, (1,), finish_reason, 7, 1, timings)  # type: ignore[arg-type]


class FakeStreams:
    """Sentences steer it: 'a 3' takes three steps, 'deaf 3' even when it is cancelled; 'fail 1' and 'panic 1' fail in a
    step, 'long 1' and 'burst 1' at once.

    Attributes:
        started: sentences in their order.
        started_after: how many steps, each of them.
        steps: the sentences of each step.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_free = num_slots
        self.started: list[str] = []
        self.started_after: list[int] = []
        self.steps: list[list[str]] = []
        self._active: list[FakeStream] = []
        self._allowed = threading.Semaphore(0)
        self._is_open = threading.Event()

    def allow(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._allowed.release()

    def open(self) -> None:
        """Allow any number of steps."""
        self._is_open.set()
        self._allowed.release()

    def start(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> FakeStream:
        assert self.num_free
        self.started_after.append(len(self.steps))
        self.started.append(sentence)
        if sentence.startswith("long"):
            raise PromptTooLong("the prompt has 900 tokens")
        if sentence.startswith("burst"):
            raise Panic("a tokenizer")
        stream = FakeStream(sentence, on_text, is_cancelled)
        self._active.append(stream)
        self.num_free -= 1
        return stream

    def step(self) -> list[FakeStream]:
        if not self._is_open.is_set():
            assert self._allowed.acquire(timeout=20)
        active = list(self._active)
        self.steps.append([stream.sentence for stream in active])
        for stream in active:
            stream.advance()
        ended = [stream for stream in active if stream.outcome]
        self._active = [stream for stream in active if not stream.outcome]
        self.num_free += len(ended)
        return ended
