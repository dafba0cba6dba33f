"""Sequences side by side in one KV cache: each decodes by itself, or one token of each runs in one call of the model.

A call of one token each reads the weights once for all of them. Attention allows no more than one token of a sequence
where a call has several sequences (ONNX Runtime, GroupQueryAttention), so a step has no drafts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from edgedsl.errors import GenerationError
from edgedsl.runtime.device_calls import DeviceCalls
from edgedsl.runtime.rows import Row

if TYPE_CHECKING:
    from edgedsl.runtime.decoder import Decoder


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
        size = self.width(token_ids)
        # A slot that takes no part gets a token behind its own, which its next call overwrites.
        tokens = [token_ids.get(slot, 0) for slot in range(size)]
        lengths = [decoder.length for decoder in self.decoders[:size]]
        context_length = self._decoder.info.context_length
        if max(lengths) >= context_length:
            raise GenerationError(f"a sequence fills the context of {context_length} tokens")
        try:
            if self._device_calls:
                rows: list[Row] = [*self._device_calls.step(tokens, lengths)]
            else:
                rows = self._run(tokens, lengths)
        except Exception as exc:  # ONNX Runtime raises many classes of its own
            raise GenerationError(
                "the model failed to run one step", hint="run 'edgedsl bundle verify' and 'edgedsl doctor'"
            ) from exc
        for slot in token_ids:
            self.decoders[slot].length += 1
        return {slot: rows[slot] for slot in token_ids}

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

    def _binding_of(self, size: int) -> ort.IOBinding:
        """The first slots and memory for their rows, bound; kept, since it takes as long as a row does."""
        if size not in self._bindings:
            binding = self._bindings[size] = self._decoder.session.io_binding()
            self._decoder.bind_cache(binding, 0, size)
            self._decoder.bind_rows(binding, self._found[:size])
        return self._bindings[size]
