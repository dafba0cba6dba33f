"""The last product of a model, apart from its graph: all logits of a row, or those of a few tokens.

At most places of a program a grammar leaves few tokens. No other logit is worked out there, where the head is a fifth
of a small model. Inputs and weights are integers, whose sums are exact: both ways give the same numbers to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgedsl.errors import GenerationError
from edgedsl.grammar.legal_tokens import Logits
from edgedsl.runtime.index_file import Layout, refuse
from edgedsl.runtime.providers import ThreadSettings, make_session

GRAPH_FILE = "head.onnx"  # codes [rows, width] -> logits [rows, columns]
CODES_FILE = "head.onnx.data"  # int8 [columns, width], nothing else
FILE_NAME = "head.columns"
LAYOUT = Layout(
    magic=b"EDSLCOLS",
    version=1,
    fields=("vocab_size", "width", "zero_point"),
    arrays=(
        ("scales", "<f4"),  # [columns] factor of an integer sum
        ("token_ids", "<u4"),  # [columns] ascending; empty where each token has its column
    ),
)
INPUT, OUTPUT = "codes", "logits"
NO_LOGIT = -1e30  # finite, since a logit that is not means a broken model; far below any that a model gives
_BLOCK = 4  # rows that take no longer than one: the weights are read once
_EXACT = 1024  # channels whose sum is exact in fp32: weights are codes up to 64 (exporters/w8a8.py), inputs up to 255
_MAX_KEPT_BYTES = 16 << 20
Codes = NDArray[np.uint8]
TokenIds = NDArray[np.int64]


class LmHead:
    """Works out logits from the codes that a graph gives in their place.

    Args:
        folder: of the model, with the three files.
        vocab_size: of the model.
        threads: as for the model.

    Attributes:
        vocab_size: of the model.
        width: codes of a row.

    Raises:
        BundleError: a file is missing or malformed, or made for another vocabulary.
    """

    def __init__(self, folder: Path, vocab_size: int, threads: ThreadSettings) -> None:
        path = folder / FILE_NAME
        fields, arrays = LAYOUT.read(path, vocab_size)
        self.vocab_size, self.width = vocab_size, fields["width"]
        self._scales: Logits = arrays["scales"]
        self._token_ids: TokenIds = arrays["token_ids"].astype(np.int64)
        _check(path, fields, self._scales, self._token_ids)
        self._zero_point = np.float32(fields["zero_point"])
        self._column_of = np.full(vocab_size, -1)
        self._column_of[self._token_ids if self._token_ids.size else slice(None)] = np.arange(len(self._scales))
        self._weights = _map_codes(folder / CODES_FILE, len(self._scales), self.width)
        session = make_session(folder / GRAPH_FILE, execution_provider="cpu", threads=threads)
        self._session, self._binding = session, session.io_binding()
        self._kept: OrderedDict[int, _Columns] = OrderedDict()
        self._kept_bytes = 0
        self._block = np.empty((_BLOCK, vocab_size), np.float32)
        self._block_of: tuple[HeadRows, int] | None = None

    def logits(self, codes: Codes, out: Logits) -> None:
        """Write all logits of some rows.

        Args:
            codes: [rows, width].
            out: [rows, vocab].

        Raises:
            GenerationError: the session failed.
        """
        found = np.empty((len(codes), len(self._scales)), np.float32) if self._token_ids.size else out
        self._binding.bind_cpu_input(INPUT, codes)
        self._binding.bind_output(OUTPUT, "cpu", 0, np.float32, found.shape, found.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as exc:  # ONNX Runtime raises many classes of its own
            raise GenerationError(
                "the model failed to work out its logits", hint="run 'edgedsl bundle verify' and 'edgedsl doctor'"
            ) from exc
        if self._token_ids.size:
            out[:] = NO_LOGIT
            out[:, self._token_ids] = found

    def inputs(self, codes: Codes) -> Logits:
        """What codes [rows, width] stand for, but for a factor."""
        found: Logits = codes.astype(np.float32)
        found -= self._zero_point
        return found

    def logits_of(self, row: Logits, token_ids: TokenIds) -> Logits:
        """Logits [len(token_ids)] of one row [width] of :meth:`inputs`.

        The weights are kept for the same array, which must not change.
        """
        columns = self._columns_of(token_ids)
        if self.width <= _EXACT:
            total = columns.weights @ row
        else:
            parts = range(0, self.width, _EXACT)
            sums = [columns.weights[:, at : at + _EXACT] @ row[at : at + _EXACT] for at in parts]
            total = np.add.reduce(sums, dtype=np.float64).astype(np.float32)
        total *= columns.scales
        if columns.missing.size:
            total[columns.missing] = NO_LOGIT
        return total

    def block(self, rows: HeadRows, index: int) -> Logits:
        """All logits [vocab] of one of some rows, until the next call of the model; the next rows' are kept with it."""
        owner, first = self._block_of or (None, 0)
        if owner is not rows or not first <= index < first + _BLOCK:
            codes = rows.codes[index : index + _BLOCK]
            self._block_of = None
            self.logits(codes, self._block[: len(codes)])
            self._block_of, first = (rows, index), index
        row: Logits = self._block[index - first]
        return row

    def _columns_of(self, token_ids: TokenIds) -> _Columns:
        """Those asked for last are kept, each with its array, so that no other one gets its number."""
        key = id(token_ids)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        places = self._column_of[token_ids]
        missing = np.flatnonzero(places < 0)
        found = _Columns(token_ids, self._weights[places].astype(np.float32), self._scales[places], missing)
        self._kept[key] = found
        self._kept_bytes += found.weights.nbytes
        while self._kept_bytes > _MAX_KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].weights.nbytes
        return found


class _Columns(NamedTuple):
    """Of some tokens: weights [tokens, width], scales [tokens], and which of the tokens have no column."""

    token_ids: TokenIds
    weights: Logits
    scales: Logits
    missing: TokenIds


class HeadRows:
    """The rows of one call.

    Args:
        codes: [rows, width]; the next call may overwrite them.
        head: of the model.
    """

    def __init__(self, codes: Codes, head: LmHead) -> None:
        self.codes = codes
        self.head = head

    @cached_property
    def inputs(self) -> Logits:
        """See :meth:`LmHead.inputs`."""
        return self.head.inputs(self.codes)

    def __getitem__(self, index: int) -> HeadRow:
        return HeadRow(self, index)

    def __iter__(self) -> Iterator[HeadRow]:
        return map(self.__getitem__, range(len(self.codes)))

    def on_host(self) -> Logits:
        """All logits [rows, vocab]."""
        found = np.empty((len(self.codes), self.head.vocab_size), np.float32)
        self.head.logits(self.codes, found)
        return found


@dataclass(frozen=True)
class HeadRow:
    """The logits after one token, worked out when they are asked for; only before the next call of the model."""

    rows: HeadRows
    index: int

    def fetch(self) -> Logits:
        """All of them [vocab]."""
        return self.rows.head.block(self.rows, self.index)

    def of(self, token_ids: TokenIds) -> Logits:
        """Those of some tokens [len(token_ids)], see :meth:`LmHead.logits_of`; 0 for one, compared with nothing."""
        if len(token_ids) == 1:
            return np.zeros(1, np.float32)
        return self.rows.head.logits_of(self.rows.inputs[self.index], token_ids)


def _check(path: Path, fields: dict[str, int], scales: Logits, token_ids: TokenIds) -> None:
    vocab_size, width, zero_point = (fields[name] for name in LAYOUT.fields)
    if not 1 <= width <= 1 << 20 or zero_point > 255:
        refuse(path, f"its rows have {width} codes and the zero point {zero_point}")
    if len(scales) != (len(token_ids) or vocab_size) or not np.isfinite(scales).all():
        refuse(path, f"it has {len(scales)} finite scales, expected {len(token_ids) or vocab_size}")
    if token_ids.size and (token_ids[-1] >= vocab_size or (np.diff(token_ids) <= 0).any()):
        refuse(path, "its token ids do not ascend inside the vocabulary")


def _map_codes(path: Path, num_columns: int, width: int) -> NDArray[np.int8]:
    size = path.stat().st_size if path.is_file() else 0
    if size != num_columns * width:
        refuse(path, f"it has {size} bytes, expected {num_columns * width}")
    return np.memmap(path, np.int8, "r", shape=(num_columns, width))
