"""llama.cpp through llama-cpp-python's low-level calls, with a grammar in GBNF.

As llama.cpp's own programs do, the likeliest token is checked against the grammar alone, and only where it is refused
the grammar is applied to the whole vocabulary. llama-cpp-python's high-level calls always do the latter, which takes
longer.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

llama: Any = importlib.import_module("llama_cpp")
# The files know no type of a whole model called so: these are llama.cpp's numbers.
FTYPES = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
_WARNING = 3
_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Contestant:
    """A GGUF file and a grammar sampler."""

    def __init__(self, settings: dict[str, Any]) -> None:
        llama.llama_log_set(_LOG, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.versions = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "system": _system()}
        self._model = _needed(
            llama.llama_model_load_from_file(settings["model"].encode(), llama.llama_model_default_params()), "model"
        )
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._context = _needed(llama.llama_init_from_model(self._model, _parameters(settings)), "context")
        source = settings["gbnf"].encode()
        self._grammar = _needed(llama.llama_sampler_init_grammar(self._vocab, source, b"root"), "grammar")
        self._vocab_size = llama.llama_vocab_n_tokens(self._vocab)
        self._whole = np.zeros(self._vocab_size, _TOKEN)
        self._whole["id"] = np.arange(self._vocab_size)
        self._one = np.zeros(1, _TOKEN)

    @staticmethod
    def build(settings: dict[str, Any]) -> None:
        """Quantise the fp16 GGUF file with llama.cpp's own function."""
        parameters = llama.llama_model_quantize_default_params()
        parameters.ftype = FTYPES[settings["quantization"]]
        parameters.nthread = settings["num_threads"]
        source, target = settings["gguf"].encode(), settings["target"].encode()
        if llama.llama_model_quantize(source, target, ctypes.byref(parameters)):
            raise RuntimeError("llama_model_quantize failed")

    def tokens(self, text: str) -> list[int]:
        """Without special tokens."""
        content = text.encode()
        found = (llama.llama_token * (len(content) + 8))()
        num = llama.llama_tokenize(self._vocab, content, len(content), found, len(found), False, False)
        return list(found[:num])

    def generate(self, prompt: str, token_ids: list[int], max_tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Greedy. The grammar sampler is copied, which is quicker than to parse the grammar again."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        grammar = llama.llama_sampler_clone(self._grammar)
        found: list[int] = []
        try:
            self._decode(token_ids)
            while len(found) < max_tokens:
                token_id = self._choose(grammar)
                if llama.llama_vocab_is_eog(self._vocab, token_id):
                    break
                found.append(token_id)
                on_token()
                llama.llama_sampler_accept(grammar, token_id)
                if len(found) < max_tokens:
                    self._decode([token_id])
        finally:
            llama.llama_sampler_free(grammar)
        return found

    def _decode(self, token_ids: list[int]) -> None:
        tokens = (llama.llama_token * len(token_ids))(*token_ids)
        status = llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(token_ids)))
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _choose(self, grammar: Any) -> int:
        pointer = llama.llama_get_logits_ith(self._context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))
        likeliest = int(logits.argmax())
        self._one["id"], self._one["logit"] = likeliest, logits[likeliest]
        self._apply(grammar, self._one)
        if np.isfinite(self._one["logit"][0]):
            return likeliest
        self._whole["logit"] = logits
        self._apply(grammar, self._whole)
        token_id = int(self._whole["logit"].argmax())
        if not np.isfinite(self._whole["logit"][token_id]):
            raise RuntimeError("the grammar allows no token")
        return token_id

    def _apply(self, grammar: Any, tokens: Any) -> None:
        data = tokens.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        candidates = llama.llama_token_data_array(data=data, size=len(tokens), selected=-1, sorted=False)
        llama.llama_sampler_apply(grammar, ctypes.byref(candidates))


def _log(level: int, text: bytes, _: Any) -> None:
    """Warnings and errors only: llama.cpp tells of every call at length."""
    if level in (_WARNING, _WARNING + 1):
        sys.stderr.write(text.decode(errors="replace"))


_LOG = llama.llama_log_callback(_log)  # kept: llama.cpp holds a pointer to it


def _parameters(settings: dict[str, Any]) -> Any:
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = settings["context_length"]
    parameters.n_batch = parameters.n_ubatch = min(settings["context_length"], 512)
    parameters.n_threads = parameters.n_threads_batch = settings["num_threads"]
    return parameters


def _needed(handle: Any, what: str) -> Any:
    if not handle:
        raise RuntimeError(f"llama.cpp cannot make the {what}")
    return handle


def _system() -> str:
    """What llama.cpp says of its own build: instruction sets, threads library."""
    return str(llama.llama_print_system_info().decode()).strip(" |")
