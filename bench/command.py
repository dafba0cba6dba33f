"""How the command line of a measurement ends: a result file and its rows, or one message."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedsl import atomic
from edgedsl.errors import EdgeDSLError


def write_result(measure: Callable[[], dict[str, Any]], output: Path) -> int:
    """Measure, write the result to ``output`` and print its rows; returns the exit code."""
    try:
        record = measure()
        atomic.write_json(output, record)
    except EdgeDSLError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    print(json.dumps(record["rows"]))
    return 0
