"""Calls of a graph that takes its lengths and positions as inputs and names the likeliest token itself.

The graph is that of :mod:`edgedsl.exporters.fused.on_device`. A call of a few tokens has inputs and outputs at fixed
addresses, so that CUDA captures it once for each size and replays it without launching kernel by kernel. A size that
has no buffers is filled up to the next that has: what stands behind the real tokens is overwritten by the next call.
What is longer - a prompt - runs as it is.

Tokens and lengths go to the device, the best token of each row and its check come back, some bytes each way. The logits
are copied only where the grammar refuses the best token or the request samples.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from edgedsl.bundle.manifest import ModelInfo
from edgedsl.grammar.legal_tokens import Logits
from edgedsl.runtime.call_costs import SIZES
from edgedsl.runtime.rows import DeviceRow

CAPTURED_SIZES = (1, *SIZES)
_GRAPH_ID = "gpu_graph_id"  # key of run options: CUDA graphs of different shape have different numbers
_NOT_CAPTURED = "-1"
_numbers = itertools.count(1)  # of graphs: addresses are captured too, so buffers of the same shape need another


@dataclass(frozen=True)
class _Call:
    """Buffers of calls of one shape, bound once."""

    num_tokens: int
    num_logits: int
    tokens: ort.OrtValue  # int64 [batch, num_tokens]
    last: ort.OrtValue  # int32 [batch], index of the last position
    positions: ort.OrtValue  # int64 [num_logits], kept alive for the binding
    logits: ort.OrtValue  # fp32 [batch, num_logits, vocab]
    best: ort.OrtValue  # int64 [batch, num_logits]
    check: ort.OrtValue  # fp32 [batch, num_logits]
    binding: ort.IOBinding
    options: ort.RunOptions


class DeviceCalls:
    """Calls for one sequence, or for a token of each of several that lie side by side in a shared KV cache.

    Args:
        session: of the graph.
        info: of the model.
        device: cpu or cuda.
        captures_graphs: whether the session was opened to capture CUDA graphs.
        bind_cache: binds past and present of some slots: the first, and how many.
        slot: of the one sequence.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        info: ModelInfo,
        device: str,
        captures_graphs: bool,
        bind_cache: Callable[[ort.IOBinding, int, int], None],
        slot: int = 0,
    ) -> None:
        self._session = session
        self._info = info
        self._device = device
        self._captures_graphs = captures_graphs
        self._bind_cache = bind_cache
        self._slot = slot
        self._fixed: dict[int, _Call] = {}
        self._together: dict[int, _Call] = {}

    def run(self, token_ids: Sequence[int], num_past: int, num_logits: int) -> list[DeviceRow]:
        """Append tokens behind the first ``num_past`` of the sequence.

        Returns:
            The last ``num_logits`` rows; they can be fetched until the next call.
        """
        count = len(token_ids)
        size = next((size for size in CAPTURED_SIZES if size >= count), 0)
        if size and num_past + size <= self._info.context_length:
            call, first = self._fixed_call(size), count - num_logits
        else:
            call, first = self._make(count, num_logits, False), 0
        filled = [*token_ids, *[token_ids[-1]] * (call.num_tokens - count)]
        call.tokens.update_inplace(np.array([filled], np.int64))
        call.last.update_inplace(np.array([num_past + call.num_tokens - 1], np.int32))
        self._session.run_with_iobinding(call.binding, call.options)
        return _rows(call, [(0, place) for place in range(first, first + num_logits)])

    def step(self, token_ids: Sequence[int], num_past: Sequence[int]) -> list[DeviceRow]:
        """Append one token to each of the sequences in the first slots, behind so many of its own.

        Returns:
            A row for each; they can be fetched until the next call.
        """
        batch = len(token_ids)
        if batch not in self._together:
            self._together[batch] = self._make(1, 1, True, 0, batch)
        call = self._together[batch]
        call.tokens.update_inplace(np.array(token_ids, np.int64)[:, None])
        call.last.update_inplace(np.array(num_past, np.int32))
        self._session.run_with_iobinding(call.binding, call.options)
        return _rows(call, [(slot, 0) for slot in range(batch)])

    def _fixed_call(self, size: int) -> _Call:
        if size not in self._fixed:
            self._fixed[size] = self._make(size, size, True)
        return self._fixed[size]

    def _make(
        self, num_tokens: int, num_logits: int, is_captured: bool, slot: int | None = None, batch: int = 1
    ) -> _Call:
        positions = np.arange(num_tokens - num_logits, num_tokens, dtype=np.int64)
        options = ort.RunOptions()
        if self._captures_graphs:
            options.add_run_config_entry(_GRAPH_ID, str(next(_numbers)) if is_captured else _NOT_CAPTURED)
        call = _Call(
            num_tokens, num_logits,
            tokens=self._buffer((batch, num_tokens), np.int64), last=self._buffer((batch,), np.int32),
            positions=self._buffer((num_logits,), np.int64),
            logits=self._buffer((batch, num_logits, self._info.vocab_size), np.float32),
            best=self._buffer((batch, num_logits), np.int64), check=self._buffer((batch, num_logits), np.float32),
            binding=self._session.io_binding(), options=options,
        )  # fmt: skip
        call.positions.update_inplace(positions)
        inputs = {"input_ids": call.tokens, "seqlens_k": call.last, "logit_positions": call.positions}
        for name, value in inputs.items():
            call.binding.bind_ortvalue_input(name, value)
        for name, value in {"logits": call.logits, "best_token": call.best, "check": call.check}.items():
            call.binding.bind_ortvalue_output(name, value)
        self._bind_cache(call.binding, self._slot if slot is None else slot, batch)
        return call

    def _buffer(self, shape: tuple[int, ...], dtype: type) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device)


def _rows(call: _Call, places: list[tuple[int, int]]) -> list[DeviceRow]:
    """The rows at some places [sequence, position] of a call."""
    best, check = call.best.numpy(), call.check.numpy()
    logits = functools.cache(call.logits.numpy)  # all rows in one copy, and that once
    return [
        DeviceRow(int(best[place]), bool(np.isfinite(check[place])), functools.partial(_row, logits, place))
        for place in places
    ]


def _row(logits: Callable[[], Logits], place: tuple[int, int]) -> Logits:
    row: Logits = logits()[place]
    return row
