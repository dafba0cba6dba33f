"""A bounded queue in front of one engine thread. The event loop only waits; all work on text runs in the thread."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal

from edgedsl._version import __version__
from edgedsl.errors import QueueFull
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion
from edgedsl.serving import heap
from edgedsl.serving.runner import Generator, OneAtATime, Runner, Running

State = Literal["loading", "ready", "draining", "failed"]
_log = logging.getLogger(__name__)
_DONE = object()


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

    def start(self, runner: Runner) -> Running:
        """Begin, in the engine thread; the outcome is the last event, not yet posted."""
        self.queue_ms = 1000 * (time.perf_counter() - self._created_s)
        on_text = self.post if self.is_streamed else None
        return runner.start(self.sentence, self.params, on_text=on_text, is_cancelled=self.is_cancelled)

    def post(self, event: str | Completion | BaseException | None) -> None:
        """Hand an event to the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server was stopped at once
            self.cancel()


class EngineQueue:
    """At most ``max_queue`` jobs that wait beside those that run; the thread loads the engine first.

    Args:
        load: makes the engine.
        max_queue: most jobs that wait.
        open_runner: makes what runs jobs on the engine; it says how many at a time.
    """

    def __init__(
        self,
        load: Callable[[], Generator],
        *,
        max_queue: int,
        open_runner: Callable[[Any], Runner] = OneAtATime,
    ) -> None:
        self.engine: Generator | None = None
        self.fingerprint = ""  # of the engine, once it is loaded
        self.error: BaseException | None = None
        self.state: State = "loading"
        self.loaded = threading.Event()
        self.created_s = int(time.time())
        self._load = load
        self._open_runner = open_runner
        self._max_queue = max_queue
        self._num_places = 0  # of the runner, once it is there
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
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
            return len(self._waiting) + len(self._running)

    def submit(self, sentence: str, params: SamplingParams, *, is_streamed: bool) -> Job:
        """Put a request into the queue, from the event loop.

        Raises:
            QueueFull: too many wait, or the server does not take requests now.
        """
        job = Job(sentence, params, is_streamed=is_streamed)
        with self._changed:
            if self.state != "ready" or self._is_closed:
                raise QueueFull(f"the server is {self.state}", hint="try again later")
            # A job with a free place is as good as running, so max_queue = 0 still takes as many as there are places.
            if len(self._waiting) + len(self._running) >= self._num_places + self._max_queue:
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
            left = [*self._waiting, *self._running]
            self._changed.notify()
        for job in left:
            self.cancel(job)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            engine = self._load()
            runner = self._open_runner(engine)
            self._num_places = runner.num_free
            self.fingerprint = _fingerprint(engine, self._num_places)
            self.engine = engine
            with self._changed:
                self.state = "ready" if self.state == "loading" else self.state
        except BaseException as exc:
            self.error = exc
            self.state = "failed"
            return
        finally:
            self.loaded.set()
        jobs: dict[Running, Job] = {}
        idle_work = chain(engine.idle_work(), _tidied())
        while self._has_jobs(idle_work):
            self._admit(runner, jobs)
            for ended in runner.step():
                self._end(jobs.pop(ended), ended.outcome)

    def _has_jobs(self, idle_work: Iterator[None]) -> bool:
        """Waits for one, and works meanwhile; False when the queue was closed and none is left."""
        while not self._is_wanted() and self._goes_on(idle_work):
            pass
        with self._changed:
            self._changed.wait_for(self._is_wanted)
            return bool(self._waiting or self._running)

    def _is_wanted(self) -> bool:
        return bool(self._waiting or self._running or self._is_closed)

    def _goes_on(self, idle_work: Iterator[None]) -> bool:
        """Do one step; what fails is work that nobody asked for, and the last of it."""
        try:
            return next(idle_work, _DONE) is not _DONE
        except BaseException as exc:  # a panic of a Rust library is no Exception
            _log.warning("work while idle failed: %s", type(exc).__name__)
            return False

    def _admit(self, runner: Runner, jobs: dict[Running, Job]) -> None:
        """Start jobs while there is room; those that run wait no longer than for as many prompts."""
        for _ in range(runner.num_free):
            if (job := self._next()) is None:
                return
            try:
                jobs[job.start(runner)] = job
            except BaseException as exc:  # a panic of a Rust library is no Exception, and must not end the thread
                self._end(job, exc)

    def _next(self) -> Job | None:
        with self._changed:
            if not self._waiting:
                return None
            self._running.append(self._waiting.popleft())
            return self._running[-1]

    def _end(self, job: Job, outcome: Completion | BaseException | None) -> None:
        with self._changed:
            self._running.remove(job)  # before the answer goes out: the next request may follow it closely
        is_cancelled = isinstance(outcome, Completion) and outcome.finish_reason == "cancelled"
        job.post(None if is_cancelled else outcome)


def _fingerprint(engine: Generator, num_places: int) -> str:
    """Names version, bundle, execution provider and places: a seed repeats an answer only under the same fingerprint.

    With several places it may differ even then, by the rounding of calls that requests share.
    """
    manifest = getattr(engine, "manifest", None)
    text = f"{__version__} {engine.name} {engine.execution_provider} {num_places} {manifest!r}"
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _tidied() -> Iterator[None]:
    """The last of the idle work: what the rest of it freed is given back."""
    heap.trim()
    yield
