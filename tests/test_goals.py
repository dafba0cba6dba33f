"""Goals beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedsl.bench import table
from edgedsl.bench.goals import Goal, compare, read_goals
from edgedsl.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"engine": "ours, quick 0.1", "size": 1, "is_on": True, "ratio": 4.0},
    {"engine": "ours, slow 0.1", "size": 8, "is_on": True, "ratio": 2.0},
    {"engine": "theirs 3", "size": 8, "is_on": False, "ratio": None},
]


@pytest.mark.parametrize(
    ("rows", "least", "most"),
    [
        ({}, 2.0, 4.0),
        ({"engine": "ours"}, 2.0, 4.0),
        ({"engine": "ours, quick"}, 4.0, 4.0),
        ({"engine": ["theirs", "ours, slow"]}, 2.0, 2.0),
        ({"size": 8, "is_on": True}, 2.0, 2.0),
        ({"engine": "theirs"}, None, None),
        ({"other": 1}, None, None),
    ],
)
def test_of_the_rows_that_count_the_worst_one_counts(
    rows: dict[str, Any], least: float | None, most: float | None
) -> None:
    assert Goal("x", "r", rows, "ratio", at_least=1).worst(ROWS) == least
    assert Goal("x", "r", rows, "ratio", at_most=1).worst(ROWS) == most


def test_a_bound_is_reached_at_its_number() -> None:
    least, most = Goal("x", "r", {}, "ratio", at_least=2), Goal("x", "r", {}, "ratio", at_most=2)
    assert [least.is_reached(value) for value in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [most.is_reached(value) for value in (1.9, 2.0, 2.1)] == [True, True, False]


def test_each_hardware_has_a_line_and_what_was_not_run_says_so() -> None:
    goals = [Goal("x", "speed", {}, "ratio", at_least=1), Goal("y", "cuda", {}, "ratio", at_least=1)]
    results = {"speed_box": ROWS, "speed_gpu": ROWS[:1], "speed-other_box": ROWS}
    found = [(goal.figure, hardware, value) for goal, hardware, value in compare(goals, results)]
    assert found == [("x", "box", 2.0), ("x", "gpu", 4.0), ("y", "", None)]


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal("x", "speed", {}, "ratio", at_least=3), "goal 'x' is missed"),
        (Goal("x", "speed", {}, "colour", at_least=3), "no column 'colour'"),
        (Goal("x", "speed", {"engine": "theirs"}, "ratio", at_least=3), "no such row"),
    ],
)
def test_a_miss_without_a_reason_and_a_figure_that_is_not_there_are_errors(goal: Goal, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare([goal], {"speed_box": ROWS})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: 'goal'"),
        ("[[goal]", "cannot be read"),
        ('[[goal]]\nfigure = "x"\nat_least = 1', "cannot be read: .*missing"),
        ('[[goal]]\nfigure = "x"\nresult = "r"\nrows = {}\ncolumn = "c"', "one of at_least and at_most"),
        (
            '[[goal]]\nfigure = "x"\nresult = "r"\nrows = {}\ncolumn = "c"\nat_least = 1\nat_most = 1',
            "one of at_least and at_most",
        ),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "goals.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_goals(path)


def test_goals_that_are_not_there_hint_at_where_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist") as caught:
        read_goals(tmp_path / "goals.toml")
    assert caught.value.hint == "run it in the repository root"


def test_the_table_tells_what_limits_a_miss_and_only_that(tmp_path: Path) -> None:
    result = {
        "schema": 1,
        "kind": "latency",
        "title": "Speed",
        "caption": {"model": "m", "grammar": "g", "cpu": "c", "command": "x"},
        "rows": ROWS,
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed_box-2c_202611.json").write_text(json.dumps(result), encoding="utf-8")
    goal = '[[goal]]\nresult = "speed"\nrows = {}\ncolumn = "ratio"\nlimit = "kernels"\n'
    goals = tmp_path / "goals.toml"
    goals.write_text(f'{goal}figure = "x"\nat_least = 3\n{goal}figure = "y"\nat_most = 5\n', encoding="utf-8")
    lines = table.goals(tmp_path / "results", goals).splitlines()
    assert lines[2:] == [
        "| x | at least 3 | 2 | box-2c | no | kernels |",
        "| y | at most 5 | 4 | box-2c | yes |  |",
    ]
