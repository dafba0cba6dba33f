"""Sequences side by side in one KV cache: each decodes by itself, or tokens of several run in one call of the model.

A call for all reads the weights once for all of them. ONNX Runtime's attention allows no more than one token of a
sequence where a call has several (GroupQueryAttention), so such a step has no drafts; edgedsl's own takes any number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnxruntime as ort

from edgedsl.errors import GenerationError
from edgedsl.runtime.decoder import ROW_POSITIONS, ROW_SLOTS, Decoder, guarded
from edgedsl.runtime.device_calls import DeviceCalls
from edgedsl.runtime.rows import Row


class Slots:
    """The sequences of a decoder.

    Attributes:
        decoders: one for each slot.

    Args:
        decoder: with as many slots; of a ``shared`` cache.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoders = [decoder.slot(index) for index in range(decoder.num_slots)]
        self._decoder = decoder
        self._is_on_gpu = decoder.execution_provider == "cuda"
        self._inputs = {entry.name for entry in decoder.session.get_inputs()}
        self._found = decoder.row_buffer(decoder.num_slots, 1)  # of a step; a narrower one uses the first rows
        self._bindings: dict[int, ort.IOBinding] = {}
        self._device_calls: DeviceCalls | None = None
        if "seqlens_k" in self._inputs:
            device = "cuda" if self._is_on_gpu else "cpu"
            self._device_calls = DeviceCalls(
                decoder.session, decoder.info, device, decoder.captures_graphs, decoder.bind_cache
            )

    def step(self, token_ids: Mapping[int, int]) -> dict[int, Row]:
        """Append one token to each of some sequences.

        Args:
            token_ids: by slot. What the other slots hold stays as it is.

        Returns:
            The logits after each, by slot; until the next step.

        Raises:
            GenerationError: the model failed; no sequence got longer.
        """
        if self._decoder.has_rows:
            return {slot: rows[0] for slot, rows in self.call({slot: [one] for slot, one in token_ids.items()}).items()}
        size = self.width(token_ids)
        # A slot that takes no part gets a token behind its own, which its next call overwrites.
        tokens = [token_ids.get(slot, 0) for slot in range(size)]
        lengths = [decoder.length for decoder in self.decoders[:size]]
        self._check_room(max(lengths) + 1)
        run: Callable[..., Sequence[Row]] = self._device_calls.step if self._device_calls else self._run
        rows = guarded(run, tokens, lengths)
        for slot in token_ids:
            self.decoders[slot].length += 1
        return {slot: rows[slot] for slot in token_ids}

    def call(self, token_ids: Mapping[int, Sequence[int]]) -> dict[int, list[Row]]:
        """Append tokens to each of some sequences, any number of them; for a graph that ``has_rows``.

        Args:
            token_ids: by slot, one each at least.

        Returns:
            The logits after each token, by slot; until the next call.

        Raises:
            GenerationError: the model failed; no sequence got longer.
        """
        assert self._decoder.has_rows
        self._check_room(max(self.decoders[slot].length + len(tokens) for slot, tokens in token_ids.items()))
        rows = iter(guarded(self._run_rows, token_ids))
        found = {slot: [next(rows) for _ in tokens] for slot, tokens in token_ids.items()}
        for slot, tokens in token_ids.items():
            self.decoders[slot].length += len(tokens)
        return found

    def _check_room(self, length: int) -> None:
        context_length = self._decoder.info.context_length
        if length > context_length:
            raise GenerationError(f"a sequence fills the context of {context_length} tokens")

    def width(self, slots: Iterable[int]) -> int:
        """Slots of a step with some in it, those that take no part among them.

        Two if there are two, since kernels round a row on its own in another way; few shapes on a GPU.
        """
        size = max(2, 1 + max(slots))
        if self._is_on_gpu:
            size = 1 << (size - 1).bit_length()
        return min(size, len(self.decoders))

    def _run(self, tokens: list[int], lengths: list[int]) -> list[Row]:
        counts = np.array(lengths, np.int64) + 1
        total = int(counts.max())
        inputs = {
            "input_ids": np.array(tokens, np.int64)[:, None],
            "attention_mask": (np.arange(total) < counts[:, None]).astype(np.int64),
            "position_ids": np.array(lengths, np.int64)[:, None],
            "num_logits": np.ones(1, np.int64),
        }
        binding = self._binding_of(len(tokens))
        for name in inputs.keys() & self._inputs:
            binding.bind_cpu_input(name, inputs[name])
        self._decoder.session.run_with_iobinding(binding)
        return list(self._decoder.rows_of(self._found[: len(tokens), 0]))

    def _run_rows(self, token_ids: Mapping[int, Sequence[int]]) -> list[Row]:
        lengths = {slot: self.decoders[slot].length for slot in token_ids}
        tokens = np.array([[token for some in token_ids.values() for token in some]], np.int64)
        slots = np.repeat(np.array(list(token_ids), np.int64), [len(some) for some in token_ids.values()])
        positions = np.concatenate([np.arange(len(some)) + lengths[slot] for slot, some in token_ids.items()])
        found = self._decoder.row_buffer(1, tokens.size)
        binding = self._binding_of(len(self.decoders))
        binding.bind_cpu_input("input_ids", tokens)
        binding.bind_cpu_input(ROW_SLOTS, slots)
        binding.bind_cpu_input(ROW_POSITIONS, positions)
        binding.bind_cpu_input("num_logits", np.array([tokens.size]))
        self._decoder.bind_rows(binding, found)
        self._decoder.session.run_with_iobinding(binding)
        return list(self._decoder.rows_of(found[0]))

    def _binding_of(self, size: int) -> ort.IOBinding:
        """The first slots and memory for their rows, bound; kept, since it takes as long as a row does."""
        if size not in self._bindings:
            binding = self._bindings[size] = self._decoder.session.io_binding()
            self._decoder.bind_cache(binding, 0, size)
            self._decoder.bind_rows(binding, self._found[:size])
        return self._bindings[size]
