"""transformers with a logits processor of Outlines for a Lark grammar."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch


class Contestant:
    """A model in PyTorch and Outlines' processor, which for a grammar is llguidance's."""

    def __init__(self, settings: dict[str, Any]) -> None:
        outlines: Any = importlib.import_module("outlines")
        backends: Any = importlib.import_module("outlines.backends")
        transformers: Any = importlib.import_module("transformers")
        names = ("transformers", "torch", "outlines", "llguidance")
        self.versions = {name: importlib.metadata.version(name) for name in names}
        torch.set_num_threads(settings["num_threads"])
        self._device = torch.device(settings["device"])
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings["quantization"]]
        model = transformers.AutoModelForCausalLM.from_pretrained(
            settings["merged"], dtype=dtype, local_files_only=True, use_safetensors=True
        )
        self._model = model.eval().to(self._device)  # without such a device an error
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(settings["merged"], local_files_only=True)
        self._end_token_ids = settings["end_token_ids"]
        outlined = outlines.from_transformers(self._model, self._tokenizer)
        self._processor = backends.get_cfg_logits_processor("llguidance", outlined, settings["lark"])

    @staticmethod
    def build(settings: dict[str, Any]) -> None:
        """Nothing: it reads the merged weights."""

    def tokens(self, text: str) -> list[int]:
        """By the tokenizer of the model folder."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def generate(self, prompt: str, token_ids: list[int], max_tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Greedy, by ``generate``."""
        self._processor.reset()
        inputs = torch.tensor([token_ids], device=self._device)
        output = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=self._end_token_ids,
            pad_token_id=self._end_token_ids[0],
            logits_processor=[self._processor],
            streamer=_Streamer(on_token),
        )
        for matcher in self._processor.ll_matchers:  # Outlines only warns
            if matcher.is_error():
                raise RuntimeError(matcher.get_error().splitlines()[0])
        found = [int(token_id) for token_id in output[0, len(token_ids) :]]
        return found[:-1] if found and found[-1] in self._end_token_ids else found


class _Streamer:
    """What ``generate`` calls a streamer: it gets the prompt first, then each token."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """Takes the prompt or a token."""
        if self._has_prompt:
            self._on_token()
        self._has_prompt = True

    def end(self) -> None:
        """Nothing is left to do."""
