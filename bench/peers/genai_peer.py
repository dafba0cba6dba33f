"""onnxruntime-genai: its own graph, its own loop, guidance with a Lark grammar."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = {
    "cpu": ("onnxruntime-genai", "onnxruntime"),
    "cuda": ("onnxruntime-genai-cuda", "onnxruntime-gpu"),
}


class Contestant:
    """A model folder of the model builder and a grammar."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._genai: Any = importlib.import_module("onnxruntime_genai")
        device = settings["device"]
        names = _DISTRIBUTIONS[device]
        self.versions = {name: importlib.metadata.version(name) for name in names}
        config = self._genai.Config(settings["model"])
        session = {"intra_op_num_threads": settings["num_threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = self._genai.Model(config)
        if device != "cpu" and str(self._model.device_type).lower() != device:
            raise RuntimeError(f"the model runs on {self._model.device_type}, not on {device}")
        self._tokenizer = self._genai.Tokenizer(self._model)
        self._end_token_ids = frozenset(settings["end_token_ids"])
        self._grammar = settings["lark"]
        self._context_length = settings["context_length"]
        self._speculative = settings.get("speculative")
        self._has_forced_tokens = settings.get("forced_tokens", False)

    @staticmethod
    def build(settings: dict[str, Any]) -> None:
        """Write a model folder with onnxruntime-genai's model builder."""
        options = [f"{name}={value}" for name, value in settings["options"].items()]
        command = [
            sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", settings["merged"],
            "-o", settings["target"], "-p", settings["quantization"], "-e", settings["device"],
            "-c", str(Path(settings["target"]) / "cache"),
        ]  # fmt: skip
        if options:
            command += ["--extra_options", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"model builder: {done.stderr.strip().splitlines()[-1:]}")

    def tokens(self, text: str) -> list[int]:
        """By the tokenizer of the model folder."""
        return [int(token_id) for token_id in self._tokenizer.encode(text)]

    def generate(self, prompt: str, token_ids: list[int], max_tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Greedy; one call may give several tokens."""
        parameters = self._genai.GeneratorParams(self._model)
        max_length = min(len(token_ids) + max_tokens, self._context_length)
        parameters.set_search_options(max_length=max_length, do_sample=False)
        parameters.set_guidance("lark_grammar", self._grammar, self._has_forced_tokens)
        if self._speculative:
            parameters.set_speculative_options(**self._speculative)
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(token_ids)
        while not generator.is_done():
            generator.generate_next_token()
            on_token()
        found = [int(token_id) for token_id in generator.get_sequence(0)[len(token_ids) :]]
        return found[:-1] if found and found[-1] in self._end_token_ids else found
