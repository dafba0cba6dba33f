"""Token ids in, logits out: the ONNX Runtime session and its KV cache. Knows no text and no grammar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgedsl.bundle.manifest import ModelInfo
from edgedsl.errors import GenerationError, PromptTooLong, ProviderError
from edgedsl.grammar.legal_tokens import Logits
from edgedsl.runtime import kernels, kv_cache
from edgedsl.runtime.device_calls import DeviceCalls
from edgedsl.runtime.lm_head import HeadRows, LmHead
from edgedsl.runtime.placement import Placement
from edgedsl.runtime.prefix import Prefix
from edgedsl.runtime.providers import ThreadSettings, make_session
from edgedsl.runtime.rows import Rows, on_host

HEAD_CODES = "head_codes"  # what a graph without a head gives instead of logits
# Inputs of a graph whose rows say where they belong, int64 [tokens] (edgedsl.exporters.passes.row_attention).
ROW_SLOTS, ROW_POSITIONS = "row_slots", "row_positions"
_T = TypeVar("_T")
_MAX_KEPT_ROWS = 32  # rows of logits that have a buffer of their own


class Decoder:
    """One sequence at a time on preallocated buffers, bound once (IOBinding).

    Two layouts of the KV cache, written into the manifest by the exporter:

    - ``shared``: past and present of a layer are one buffer [1, num_kv_heads, context_length, head_dim];
      GroupQueryAttention appends in place.
    - ``growing``: the graph concatenates past and new keys; two sets of buffers take turns as past and present.

    A graph made for a GPU has inputs of its own, see :mod:`edgedsl.runtime.device_calls`; it runs on the CPU too.
    In a graph of edgedsl's own operators each row says where it belongs, see :class:`~edgedsl.runtime.slots.Slots`.

    Attributes:
        prefix_token_ids: tokens that every sequence begins with and that no call is needed for.
        length: tokens of the sequence so far, the prefix included.
        has_rows: whether a call can have any number of tokens of several sequences, see :mod:`edgedsl.runtime.slots`.
        placement: which execution provider got how many nodes.

    Args:
        model_path: of model.onnx.
        info: of the model.
        execution_provider: cpu or cuda.
        num_threads: of a model call; 0 takes every core.
        is_spinning: see :class:`~edgedsl.runtime.providers.ThreadSettings`.
        prefix: see :meth:`begin_with`.
        captures_graphs: on a GPU, whether calls of a few tokens are replayed as CUDA graphs.
        num_slots: sequences that have room beside each other in a ``shared`` cache, see :meth:`slot`.

    Raises:
        ProviderError: the execution provider cannot run here, or not this graph, or not all of it.
        BundleError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model_path: Path,
        info: ModelInfo,
        *,
        execution_provider: str = "cpu",
        num_threads: int = 0,
        is_spinning: bool = True,
        prefix: Prefix | None = None,
        captures_graphs: bool = True,
        num_slots: int = 1,
    ) -> None:
        _check_provider(info, execution_provider)
        self.info = info
        self.execution_provider = execution_provider
        self.threads = ThreadSettings(num_threads, is_spinning)
        is_on_gpu = execution_provider == "cuda"
        self.num_slots, self._slot = num_slots, 0
        self.captures_graphs = captures_graphs = captures_graphs and is_on_gpu and info.kv_dtype != "float32"
        self.session = make_session(
            model_path,
            execution_provider=execution_provider,
            threads=self.threads,
            captures_graphs=captures_graphs,
            is_native=info.quantization in kernels.RECIPES,
        )
        self.placement = Placement.of(self.session)
        if is_on_gpu:
            self.placement.check_on_device(is_strict=captures_graphs)
        self.length = 0
        self._device = "cuda" if is_on_gpu else "cpu"
        self._binding = self.session.io_binding()
        has_head = HEAD_CODES not in {output.name for output in self.session.get_outputs()}
        self.head = None if has_head else LmHead(model_path.parent, info.vocab_size, self.threads)
        self._found = self.row_buffer(1, _MAX_KEPT_ROWS)
        self._tokens = np.zeros((1, info.context_length), np.int64)
        # Views of these are the inputs of every step: the mask is all ones, the positions count up.
        self._mask = np.ones((1, info.context_length), np.int64)
        self._positions = np.arange(info.context_length, dtype=np.int64)[None]
        inputs = {i.name for i in self.session.get_inputs()}
        self._has_position_ids = "position_ids" in inputs
        self.has_rows = ROW_SLOTS in inputs
        # Graphs with this input work out the head for the last positions only.
        self._num_logits = np.ones(1, np.int64) if "num_logits" in inputs else None
        shape = (num_slots, info.num_kv_heads, info.context_length, info.head_dim)
        num_buffers = 2 * info.num_layers * (1 if info.kv_layout == "shared" else 2)
        self._kv = [kv_cache.allocate(shape, info.kv_dtype, self._device) for _ in range(num_buffers)]
        self._is_past_second = False  # growing: whether the second half of the buffers holds the past
        self._device_calls: DeviceCalls | None = None
        self._has_device_calls = "seqlens_k" in inputs
        if info.kv_layout == "shared":
            self._bind_slot()
        self.prefix_token_ids: tuple[int, ...] = ()
        if prefix:
            self.begin_with(prefix)

    def _bind_slot(self) -> None:
        """Bind the buffers of one sequence, or of all where rows say which is theirs."""
        first, num_slots = (0, self.num_slots) if self.has_rows else (self._slot, 1)
        self.bind_cache(self._binding, first, num_slots)
        if self._has_device_calls:
            self._device_calls = DeviceCalls(
                self.session, self.info, self._device, self.captures_graphs, self.bind_cache, self._slot
            )

    def slot(self, index: int) -> Decoder:
        """A decoder of another sequence: same session and weights, its own place in the cache, length and logits."""
        assert self.can_truncate
        other = copy(self)
        other._slot = index
        other._binding = self.session.io_binding()
        other._found, other._tokens = np.empty_like(self._found), np.zeros_like(self._tokens)
        other._num_logits = None if self._num_logits is None else self._num_logits.copy()
        other._bind_slot()
        other.reset()
        return other

    def reset(self) -> None:
        """Forget the sequence but for the prefix; the next call is a prefill of what follows it."""
        self.length = len(self.prefix_token_ids)

    def cached(self) -> NDArray[np.float32]:
        """Keys and values of the sequence, a copy [2 * layers, kv heads, tokens, head_dim]; of a ``shared`` cache."""
        kept = (kv_cache.read(buffer, self.info.kv_dtype)[self._slot, :, : self.length] for buffer in self._kv)
        return np.stack(list(kept))

    def begin_with(self, prefix: Prefix) -> None:
        """Let every sequence begin with this; no call writes to the first positions of the buffers again."""
        assert self.can_truncate
        self.prefix_token_ids = prefix.token_ids
        self.length = len(prefix.token_ids)
        for buffer, values in zip(self._kv, prefix.kv, strict=True):
            whole = np.zeros(buffer.shape(), np.float32)
            whole[:, :, : self.length] = values
            kv_cache.write(buffer, whole, self.info.kv_dtype)

    @property
    def can_truncate(self) -> bool:
        """Whether tokens can be taken back: not in a ``growing`` cache, whose rows lie closer the fewer they are."""
        return self.info.kv_layout == "shared"

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first ``length``; what lies behind is overwritten by the next call."""
        assert self.can_truncate or length == self.length
        assert length >= len(self.prefix_token_ids)
        self.length = length

    def forward(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens to the sequence and return the logits [vocab] after the last of them.

        The array may be overwritten by the next call.

        Raises:
            PromptTooLong: the sequence would not fit into the context.
            GenerationError: the session failed. Whether the logits are finite is for the caller to see.
        """
        last: NDArray[np.float32] = self.forward_last(token_ids, 1)[0]
        return last

    def forward_all(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Like :meth:`forward`, with the logits of every new position [len(token_ids), vocab]."""
        return self.forward_last(token_ids, len(token_ids))

    def forward_last(self, token_ids: Sequence[int], num_logits: int) -> NDArray[np.float32]:
        """Like :meth:`forward`, with the logits of the last positions [num_logits, vocab]."""
        return on_host(self.rows(token_ids, num_logits))

    def rows(self, token_ids: Sequence[int], num_logits: int) -> Rows:
        """Like :meth:`forward_last`, with logits that are worked out, or copied, when they are asked for."""
        total = self.length + len(token_ids)
        if total > self.info.context_length:
            raise PromptTooLong(
                f"{total} tokens do not fit into the context of {self.info.context_length}", hint="shorten the sentence"
            )
        rows: Rows
        if self._device_calls:
            rows = guarded(self._device_calls.run, token_ids, self.length, num_logits)
        else:
            rows = guarded(self._run, token_ids, num_logits, total)
        self.length = total
        self._is_past_second = not self._is_past_second
        return rows

    def _run(self, token_ids: Sequence[int], num_logits: int, total: int) -> Rows:
        count = len(token_ids)
        tokens = self._tokens[:, :count]
        tokens[0] = token_ids
        if self._num_logits is not None:
            self._num_logits[0] = count = num_logits
        found = self._found[:, :count] if count <= _MAX_KEPT_ROWS else self.row_buffer(1, count)
        self._bind(tokens, found, total)
        self.session.run_with_iobinding(self._binding)
        return self.rows_of(found[0, -num_logits:])

    def row_buffer(self, num_sequences: int, num_rows: int) -> NDArray[Any]:
        """Memory for what the graph gives: logits [sequences, rows, vocab], or codes [sequences, rows, width]."""
        if self.head:
            return np.empty((num_sequences, num_rows, self.head.width), np.uint8)
        return np.empty((num_sequences, num_rows, self.info.vocab_size), np.float32)

    def bind_rows(self, binding: ort.IOBinding, buffer: NDArray[Any]) -> None:
        """Let the graph write into memory of :meth:`row_buffer`."""
        name = HEAD_CODES if self.head else "logits"
        binding.bind_output(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def rows_of(self, found: NDArray[Any]) -> Logits | HeadRows:
        """What the graph wrote, as rows."""
        return HeadRows(found, self.head) if self.head else found

    def _bind(self, tokens: NDArray[np.int64], found: NDArray[Any], total: int) -> None:
        binding = self._binding
        if self.has_rows:
            binding.bind_cpu_input(ROW_SLOTS, np.full(tokens.shape[1], self._slot, np.int64))
            binding.bind_cpu_input(ROW_POSITIONS, self._positions[0, self.length : total])
        else:
            binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        binding.bind_cpu_input("input_ids", tokens)
        if self._num_logits is not None:
            binding.bind_cpu_input("num_logits", self._num_logits)
        if self._has_position_ids:
            binding.bind_cpu_input("position_ids", self._positions[:, self.length : total])
        self.bind_rows(binding, found)
        if self.info.kv_layout == "growing":
            self._bind_growing(total)

    def bind_cache(self, binding: ort.IOBinding, first: int, num_slots: int) -> None:
        """Bind past and present of neighbouring slots of a ``shared`` cache, from the first on."""
        element = kv_cache.ELEMENT_TYPES[self.info.kv_dtype]
        for buffer, (past, present) in zip(self._kv, self._kv_names(), strict=True):
            _, *rest = buffer.shape()
            start = buffer.data_ptr() + first * math.prod(rest) * kv_cache.ELEMENT_BYTES[self.info.kv_dtype]
            binding.bind_input(past, self._device, 0, element, (num_slots, *rest), start)
            binding.bind_output(present, self._device, 0, element, (num_slots, *rest), start)

    def _bind_growing(self, total: int) -> None:
        half = len(self._kv) // 2
        first, second = self._kv[:half], self._kv[half:]
        sources, targets = (second, first) if self._is_past_second else (first, second)
        heads, width = self.info.num_kv_heads, self.info.head_dim
        for index, (past, present) in enumerate(self._kv_names()):
            self._binding.bind_input(
                past, self._device, 0, np.float32, (1, heads, self.length, width), sources[index].data_ptr()
            )
            self._binding.bind_output(
                present, self._device, 0, np.float32, (1, heads, total, width), targets[index].data_ptr()
            )

    def _kv_names(self) -> list[tuple[str, str]]:
        layers = range(self.info.num_layers)
        return [(f"past_key_values.{i}.{part}", f"present.{i}.{part}") for i in layers for part in ("key", "value")]


def guarded(run: Callable[..., _T], *arguments: object) -> _T:
    """What a call of the model gives.

    Raises:
        GenerationError: it failed.
    """
    try:
        return run(*arguments)
    except Exception as exc:  # ONNX Runtime raises many classes of its own
        raise GenerationError(
            "the model failed to run one step", hint="run 'edgedsl bundle verify' and 'edgedsl doctor'"
        ) from exc


def _check_provider(info: ModelInfo, execution_provider: str) -> None:
    """Refuse what has no kernel before anything is loaded."""
    if execution_provider == "cuda" and info.kv_layout == "shared" and info.kv_dtype == "float32":
        raise ProviderError(
            f"the bundle is for the CPU ('{info.quantization}'): CUDA has its attention in half precision only",
            hint="export it for CUDA: '--quantize fp16', 'bf16' or 'int4-fp16'",
        )
    if execution_provider == "cpu" and info.kv_dtype == "bfloat16":
        raise ProviderError(
            f"the bundle is for CUDA ('{info.quantization}'): the CPU has no attention in bfloat16",
            hint="run it with '--execution-provider cuda', or export it for the CPU: '--quantize w8a8'",
        )
