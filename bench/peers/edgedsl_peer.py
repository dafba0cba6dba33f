"""edgedsl itself, in the same kind of process as its peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedsl.bench.together import Outcome, Watch, answer_together
from edgedsl.errors import EdgeDSLError
from edgedsl.machine import version
from edgedsl.runtime import huge_pages
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams
from edgedsl.runtime.streams import Streams


class Contestant:
    """A bundle. It gets the sentence, so encoding it is in its times; the answer is parsed again before it ends.

    Several streams have a slot each, where the bundle's graph takes several requests; where it does not, the worker has
    them answered one after the other.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        num_streams = settings.get("num_streams", 1)
        self._engine = Engine.from_bundle(
            Path(settings["model"]),
            execution_provider=settings.get("execution_provider", "cpu"),
            num_threads=settings["num_threads"],
            num_slots=num_streams,
        )
        # As a server does while nothing is asked; it counts as loading.
        self._engine.warm_up()
        for _ in self._engine.idle_work():
            pass
        huge_pages.collapse()
        if num_streams > 1 and self._engine.decoder.can_truncate:
            self._streams = Streams(self._engine)
            self.generate_together = self._generate_together  # the worker looks whether it is there
        names = ("edgedsl", "onnxruntime", "llguidance")
        self.versions = {name: version(name) or "unknown" for name in names}

    @staticmethod
    def build(settings: dict[str, Any]) -> None:
        """Nothing: a bundle is there."""

    def tokens(self, text: str) -> list[int]:
        """By the bundle's tokenizer."""
        return self._engine.tokenizer.encode_plain(text)

    def generate(self, prompt: str, token_ids: list[int], max_tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Greedy."""
        params = SamplingParams(max_tokens=max_tokens)
        return list(self._engine.generate(prompt, params, on_text=lambda _: on_token()).token_ids)

    def _generate_together(self, requests: list[dict[str, Any]], num_streams: int, clock: Watch) -> list[list[int]]:
        """Greedy. A request begins when there is a slot for it, as llama.cpp's do; a failure is one of all."""
        asked = [(request["prompt"], SamplingParams(max_tokens=request["max_tokens"])) for request in requests]
        found = answer_together(self._streams, asked, num_streams, clock)
        return [_token_ids(outcome) for outcome in found]


def _token_ids(outcome: Outcome) -> list[int]:
    if isinstance(outcome, EdgeDSLError):
        raise outcome
    return list(outcome.token_ids)
