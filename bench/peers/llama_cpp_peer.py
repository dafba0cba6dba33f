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
_ALL_LAYERS = 999  # of any model, the head too
_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class _Slot:
    """A request on its way: what is still to be decoded of it, and where it stands."""

    def __init__(self, index: int, request: dict[str, Any], grammar: Any) -> None:
        self.index, self.grammar = index, grammar
        self.pending: list[int] = request["token_ids"]
        self.max_tokens: int = request["max_tokens"]
        self.position = 0
        self.row = 0


class Contestant:
    """A GGUF file and a grammar sampler."""

    def __init__(self, settings: dict[str, Any]) -> None:
        llama.llama_log_set(_LOG, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.versions = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python"), "system": _system()}
        self._model = _needed(llama.llama_model_load_from_file(settings["model"].encode(), _placed(settings)), "model")
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._context = _needed(llama.llama_init_from_model(self._model, _parameters(settings)), "context")
        source = settings["gbnf"].encode()
        self._grammar = _needed(llama.llama_sampler_init_grammar(self._vocab, source, b"root"), "grammar")
        self._vocab_size = llama.llama_vocab_n_tokens(self._vocab)
        self._whole = np.zeros(self._vocab_size, _TOKEN)
        self._whole["id"] = np.arange(self._vocab_size)
        self._one = np.zeros(1, _TOKEN)
        self._batch = llama.llama_batch_init(_batch_size(settings), 0, 1)

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

    def generate_together(self, requests: list[dict[str, Any]], num_streams: int, clock: Any) -> list[list[int]]:
        """Each stream is a slot; one call decodes a token of each, and the prompts of those that begin."""
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_clear(memory, False)
        waiting, free = list(enumerate(requests))[::-1], list(range(num_streams))
        found: list[list[int]] = [[] for _ in requests]
        slots: dict[int, _Slot] = {}
        while waiting or slots:
            while waiting and free:
                index, request = waiting.pop()
                clock.start(index)
                slots[free.pop()] = _Slot(index, request, llama.llama_sampler_clone(self._grammar))
            self._decode_slots(slots)
            for sequence, slot in list(slots.items()):
                token_id = self._choose(slot.grammar, slot.row)
                is_end = bool(llama.llama_vocab_is_eog(self._vocab, token_id))
                if not is_end:
                    found[slot.index].append(token_id)
                    clock.token(slot.index)
                    llama.llama_sampler_accept(slot.grammar, token_id)
                    slot.pending = [token_id]
                if is_end or len(found[slot.index]) == slot.max_tokens:
                    clock.end(slot.index)
                    llama.llama_sampler_free(slot.grammar)
                    llama.llama_memory_seq_rm(memory, sequence, -1, -1)
                    free.append(sequence)
                    del slots[sequence]
        return found

    def _decode_slots(self, slots: dict[int, _Slot]) -> None:
        batch = self._batch
        batch.n_tokens = 0
        for sequence, slot in slots.items():
            for token_id in slot.pending:
                row = batch.n_tokens
                batch.token[row], batch.pos[row], batch.logits[row] = token_id, slot.position, 0
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                slot.position += 1
                batch.n_tokens += 1
            slot.row = batch.n_tokens - 1
            batch.logits[slot.row] = 1
        status = llama.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _decode(self, token_ids: list[int]) -> None:
        tokens = (llama.llama_token * len(token_ids))(*token_ids)
        status = llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(token_ids)))
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _choose(self, grammar: Any, row: int = -1) -> int:
        pointer = llama.llama_get_logits_ith(self._context, row)
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


def _placed(settings: dict[str, Any]) -> Any:
    """All layers on the GPU, or none."""
    parameters = llama.llama_model_default_params()
    is_on_gpu = settings["device"] == "cuda"
    if is_on_gpu and not llama.llama_supports_gpu_offload():
        raise RuntimeError("this llama.cpp sees no GPU, or was built without CUDA")
    parameters.n_gpu_layers = _ALL_LAYERS if is_on_gpu else 0
    return parameters


def _parameters(settings: dict[str, Any]) -> Any:
    parameters = llama.llama_context_default_params()
    parameters.n_seq_max = settings.get("num_streams", 1)
    parameters.n_ctx = settings["context_length"] * parameters.n_seq_max
    parameters.n_batch = parameters.n_ubatch = _batch_size(settings)
    parameters.n_threads = parameters.n_threads_batch = settings["num_threads"]
    return parameters


def _batch_size(settings: dict[str, Any]) -> int:
    """Room for the prompts of all streams at a time, as a rule."""
    return int(min(settings["context_length"] * settings.get("num_streams", 1), 2048))


def _needed(handle: Any, what: str) -> Any:
    if not handle:
        raise RuntimeError(f"llama.cpp cannot make the {what}")
    return handle


def _system() -> str:
    """What llama.cpp says of its own build: instruction sets, threads library."""
    return str(llama.llama_print_system_info().decode()).strip(" |")
