"""Logits of a call, as the loop gets them: on the host, or on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


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


Row = Logits | DeviceRow
Rows = Logits | Sequence[DeviceRow]  # [num_logits, vocab]


def is_finite(row: Row) -> bool:
    """Whether every logit of a row is a number."""
    return row.is_finite if isinstance(row, DeviceRow) else bool(np.isfinite(row).all())


def on_host(rows: Rows) -> Logits:
    """All of the logits [num_logits, vocab]."""
    return rows if isinstance(rows, np.ndarray) else np.stack([row.fetch() for row in rows])
