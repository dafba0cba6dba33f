"""A bounded queue in front of one engine thread. The event loop only waits; all work on text runs in the thread."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from edgedsl._version import __version__
from edgedsl.errors import QueueFull
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion

State = Literal["loading", "ready", "draining", "failed"]


class Generator(Protocol):
    """What the queue needs of an engine."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        ...

    @property
    def execution_provider(self) -> str:
        """Where the model runs."""
        ...

    def generate(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Completion:
        """One generation at a time."""
        ...


class Job:
    """One request on its way through the engine thread.

    ``events`` yields pieces of text (when streamed), then a completion, an exception, or None when cancelled.
    """

    def __init__(self, sentence: str, params: SamplingParams, *, is_streamed: bool) -> None:
        self.sentence = sentence
        self.params = params
        self.is_streamed = is_streamed
        self.queue_ms = 0.0
        self.events: asyncio.Queue[str | Completion | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._created_s = time.perf_counter()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask the engine to stop at the next token, or not to begin."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set()

    def run(self, engine: Generator) -> Completion | BaseException | None:
        """Generate, in the engine thread; the outcome is the last event, not yet posted."""
        self.queue_ms = 1000 * (time.perf_counter() - self._created_s)
        try:
            on_text = self.post if self.is_streamed else None
            completion = engine.generate(self.sentence, self.params, on_text=on_text, is_cancelled=self.is_cancelled)
            return None if completion.finish_reason == "cancelled" else completion
        except BaseException as exc:  # a panic of a Rust library is no Exception, and must not end the thread
            return exc

    def post(self, event: str | Completion | BaseException | None) -> None:
        """Hand an event to the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server was stopped at once
            self.cancel()


class EngineQueue:
    """At most ``max_queue`` jobs that wait and one that runs; the thread loads the engine first."""

    def __init__(self, load: Callable[[], Generator], *, max_queue: int) -> None:
        self.engine: Generator | None = None
        self.fingerprint = ""  # of the engine, once it is loaded
        self.error: BaseException | None = None
        self.state: State = "loading"
        self.loaded = threading.Event()
        self.created_s = int(time.time())
        self._load = load
        self._max_queue = max_queue
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.is_alive()

    @property
    def num_jobs(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def submit(self, sentence: str, params: SamplingParams, *, is_streamed: bool) -> Job:
        """Put a request into the queue, from the event loop.

        Raises:
            QueueFull: too many wait, or the server does not take requests now.
        """
        job = Job(sentence, params, is_streamed=is_streamed)
        with self._changed:
            if self.state != "ready" or self._is_closed:
                raise QueueFull(f"the server is {self.state}", hint="try again later")
            # A job that nothing runs before is as good as running, so max_queue = 0 still takes one request.
            if len(self._waiting) + (self._running is not None) > self._max_queue:
                raise QueueFull(f"{self._max_queue} requests wait already", hint="try again after Retry-After seconds")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Stop a job; one that waits leaves the queue at once and frees its place."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.post(None)

    def drain(self) -> None:
        """Take no more requests; those taken go on."""
        with self._changed:
            if self.state != "failed":
                self.state = "draining"

    def close(self, timeout_s: float) -> bool:
        """Cancel what is left and end the thread; False when it is still inside a model call after ``timeout_s``."""
        with self._changed:
            self._is_closed = True
            left = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify()
        for job in left:
            self.cancel(job)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            engine = self._load()
            self.fingerprint = _fingerprint(engine)
            self.engine = engine
            with self._changed:
                self.state = "ready" if self.state == "loading" else self.state
        except BaseException as exc:
            self.error = exc
            self.state = "failed"
            return
        finally:
            self.loaded.set()
        while job := self._next():
            outcome = job.run(engine)
            with self._changed:
                self._running = None  # before the answer goes out: the next request may follow it closely
            job.post(outcome)

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running


def _fingerprint(engine: Generator) -> str:
    """Names bundle, version and execution provider: a seed repeats an answer only under the same fingerprint."""
    manifest = getattr(engine, "manifest", None)
    text = f"{__version__} {engine.name} {engine.execution_provider} {manifest!r}"
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:12]
