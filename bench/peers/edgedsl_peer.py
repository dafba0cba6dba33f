"""edgedsl itself, in the same kind of process as its peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedsl.machine import version
from edgedsl.runtime.engine import Engine
from edgedsl.runtime.sampling import SamplingParams


class Contestant:
    """A bundle. It gets the sentence, so encoding it is in its times; the answer is parsed again before it ends."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._engine = Engine.from_bundle(Path(settings["model"]), num_threads=settings["num_threads"])
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
