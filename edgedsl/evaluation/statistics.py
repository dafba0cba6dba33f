"""Percentiles that are only given where there are enough samples for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Below these, the percentile would be the largest sample under another name.
MIN_SAMPLES = {50: 1, 95: 20, 99: 100}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """``num``, ``mean``, ``min``, ``max``, ``p50``, ``p95`` (from 20 samples), ``p99`` (from 100); else None."""
    numbers = np.asarray(values, np.float64)
    some = len(numbers) > 0
    return {
        "num": len(numbers),
        "mean": round(float(numbers.mean()), 3) if some else None,
        "min": round(float(numbers.min()), 3) if some else None,
        "max": round(float(numbers.max()), 3) if some else None,
        **{f"p{q}": percentile(values, q) for q in MIN_SAMPLES},
    }


def percentile(values: Sequence[float], q: int) -> float | None:
    """The ``q``-th percentile with linear interpolation, or None where :data:`MIN_SAMPLES` are not reached."""
    if len(values) < MIN_SAMPLES[q]:
        return None
    return round(float(np.percentile(np.asarray(values, np.float64), q)), 3)


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``; None of nothing."""
    return round(part / whole, 6) if whole else None
