"""Logits of a call, as the loop gets them: on the host, on the device until they are asked for, or not worked out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgedsl.grammar.legal_tokens import Logits
from edgedsl.runtime.lm_head import HeadRow, HeadRows


@dataclass(frozen=True)
class DeviceRow:
    """The logits after one token, of a graph that takes their largest itself.

    Attributes:
        best_token: the first of the largest logits; may be padding beyond the vocabulary.
        is_finite: whether all logits are.
        fetch: copies the logits [vocab] to the host; only before the next call of the model.
    """

    best_token: int
    is_finite: bool
    fetch: Callable[[], Logits]


Row = Logits | DeviceRow | HeadRow
Rows = Logits | Sequence[DeviceRow] | HeadRows  # [num_logits, vocab]


def best_token(row: Logits | DeviceRow) -> int | None:
    """The first of the largest logits, which may be padding beyond the vocabulary; None where one is not finite."""
    if isinstance(row, DeviceRow):
        return row.best_token if row.is_finite else None
    best = int(row.argmax())  # of NaN, where there is one
    return best if math.isfinite(row[best]) and math.isfinite(row.min()) else None


def on_host(rows: Rows) -> Logits:
    """All of the logits [num_logits, vocab]."""
    if isinstance(rows, np.ndarray):
        return rows
    return rows.on_host() if isinstance(rows, HeadRows) else np.stack([row.fetch() for row in rows])
