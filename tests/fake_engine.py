"""An engine that spells a fixed program; run as a script, a server around it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from edgedsl.errors import GenerationError, PromptTooLong
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.sequence import Completion, Timings
from edgedsl.serving.queue import EngineQueue, Job

PIECES = ("now", " =>", " é", " @light", ".on();")
PROGRAM = "".join(PIECES)


class FakeEngine:
    """Sentences steer it: 'hold' waits, 'fail' and 'break' raise, 'long' does not fit, 'slow 0.5' sleeps."""

    name = "fake-model"
    execution_provider = "cpu"
    manifest = None

    def __init__(self) -> None:
        self.release = threading.Event()
        self.seen: list[tuple[str, SamplingParams]] = []
        self.cancelled: list[str] = []
        self.threads: set[str] = set()
        self.num_idle_steps = self.idle_steps = 0

    def generate(
        self,
        sentence: str,
        params: SamplingParams,
        *,
        on_text: Callable[[str], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Completion:
        self.seen.append((sentence, params))
        self.threads.add(threading.current_thread().name)
        word, _, seconds = sentence.partition(" ")
        if word == "long":
            raise PromptTooLong("the prompt has 900 tokens, the context holds 512", hint="shorten the sentence")
        if word == "break":
            raise ZeroDivisionError("secret /path/of/the/server")
        text = ""
        for piece in PIECES[: params.max_tokens]:
            if word == "hold":
                self._wait(is_cancelled)
            if word == "slow":
                time.sleep(float(seconds))
            if is_cancelled and is_cancelled():
                self.cancelled.append(sentence)
                return self._completion(text, "cancelled")
            text += piece
            if on_text:
                on_text(piece)
            if word == "fail":
                raise GenerationError("the grammar engine failed or met a limit; the program was discarded")
        return self._completion(text, "stop" if text == PROGRAM else "length")

    def idle_work(self) -> Iterator[None]:
        for _ in range(self.num_idle_steps):
            self.idle_steps += 1
            yield

    def _wait(self, is_cancelled: Callable[[], bool] | None) -> None:
        while not self.release.wait(0.005):
            if is_cancelled and is_cancelled():
                return

    def _completion(self, text: str, finish_reason: str) -> Completion:
        return Completion(text, (1, 2, 3), finish_reason, 7, 3, Timings(1.0, 0.5, 2.0))  # type: ignore[arg-type]


def main() -> None:
    """``python fake_engine.py DRAIN_S``: serve, say on stderr what is taken; SIGUSR1 ends every 'hold'."""
    from edgedsl.config import ServeSection
    from edgedsl.serving import run

    class LoudQueue(EngineQueue):
        def submit(self, sentence: str, params: SamplingParams, *, is_streamed: bool) -> Job:
            job = super().submit(sentence, params, is_streamed=is_streamed)
            print(f"taken: {sentence}", file=sys.stderr, flush=True)
            return job

    engine = FakeEngine()
    signal.signal(signal.SIGUSR1, lambda *_: engine.release.set())
    vars(run)["EngineQueue"] = LoudQueue
    run.serve(lambda: engine, ServeSection(port=0, drain_s=float(sys.argv[1])))


if __name__ == "__main__":
    main()
