"""The goals of goals.toml beside what was measured: a table of README.md, written by :mod:`edgedsl.bench.table`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedsl.errors import DataError

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """One figure that has to be reached.

    Attributes:
        figure: what is measured, for readers.
        result: name of the result files up to their hardware.
        rows: column -> what its cell is, or begins with, or a list of such beginnings; the rows that count.
        column: with the figure; of several rows the worst counts.
        at_least: the goal; None for ``at_most``.
        at_most: the goal; None for ``at_least``.
        limit: why it is missed.
    """

    figure: str
    result: str
    rows: Mapping[str, Any]
    column: str
    at_least: float | None = None
    at_most: float | None = None
    limit: str = ""

    @property
    def bound(self) -> float:
        """The number to reach."""
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None
        return bound

    def worst(self, rows: Iterable[Mapping[str, Any]]) -> float | None:
        """The figure of the rows that count; None where none was measured."""
        found = [row[self.column] for row in rows if self._counts(row)]
        measured = [value for value in found if value is not None]
        return (max if self.at_least is None else min)(measured, default=None)

    def is_reached(self, value: float) -> bool:
        """Whether that is as good as the goal."""
        return value <= self.bound if self.at_least is None else value >= self.bound

    def _counts(self, row: Mapping[str, Any]) -> bool:
        return all(_fits(row.get(column), wanted) for column, wanted in self.rows.items())


def _fits(cell: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(cell, one) for one in wanted)
    return cell.startswith(wanted) if isinstance(cell, str) and isinstance(wanted, str) else bool(cell == wanted)


def read_goals(path: Path) -> list[Goal]:
    """The goals in a file.

    Raises:
        DataError: it cannot be read, or a goal has not all it needs, or both bounds or none.
    """
    try:
        goals = [Goal(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["goal"]]
    except FileNotFoundError as exc:
        raise DataError(f"goals '{path}' do not exist", hint="run it in the repository root") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(f"goals '{path}' cannot be read: {exc}", hint="bench/goals.py says what a goal has") from exc
    for goal in goals:
        if (goal.at_least is None) == (goal.at_most is None):
            raise DataError(f"goal '{goal.figure}' needs one of at_least and at_most")
    return goals


def compare(goals: Iterable[Goal], results: Mapping[str, Rows]) -> list[tuple[Goal, str, float | None]]:
    """Each goal with the hardware it was measured on and the figure; "" and None where it was not.

    Args:
        goals: to compare.
        results: name of a result file without its date (``masks-flow_epyc-avx2-2c``) -> its rows.

    Raises:
        DataError: a result without the rows or the column, or a goal that is missed and has no ``limit``.
    """
    found: list[tuple[Goal, str, float | None]] = []
    for goal in goals:
        measured = [(name.split("_")[1], rows) for name, rows in results.items() if name.split("_")[0] == goal.result]
        found += [(goal, hardware, _measured(goal, hardware, rows)) for hardware, rows in measured]
        if not measured:
            found.append((goal, "", None))
    return found


def _measured(goal: Goal, hardware: str, rows: Rows) -> float:
    try:
        value = goal.worst(rows)
    except KeyError as exc:
        raise DataError(f"goal '{goal.figure}': {goal.result} has no column {exc}") from exc
    if value is None:
        raise DataError(f"goal '{goal.figure}': {goal.result} of {hardware} has no such row", hint="measure it again")
    if not goal.is_reached(value) and not goal.limit:
        raise DataError(f"goal '{goal.figure}' is missed", hint="say in bench/goals.toml what limits it")
    return value
