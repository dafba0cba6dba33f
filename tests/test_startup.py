"""The measurement of loads and of a server's memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedsl.bench import memory, startup
from edgedsl.bench.table import read_result, render
from edgedsl.errors import BundleError


def test_bundles_take_turns_and_the_first_load_of_each_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    class Process:
        def __init__(self, number: int) -> None:
            assert number == 1

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def apply(self, function: object, arguments: tuple[Path, str, int]) -> tuple[float, float]:
            assert function is startup.first_program
            asked.append((arguments[0].name, *arguments[1:]))
            return (1000.0, 1000.0) if len(asked) <= 2 else (100.0 * len(asked), 1.0)

    class Context:
        Pool = Process

    monkeypatch.setattr(startup.multiprocessing, "get_context", lambda method: {"spawn": Context}[method])
    one, other = startup.measure_loads([Path("a"), Path("b")], ["x", "y"], 3, 2)
    assert asked == [("a", "x", 2), ("b", "y", 2)] * 4
    assert one == {"load_ms_p50": 500.0, "first_program_ms_p50": 1.0, "load_to_program_ms_p50": 501.0}
    assert other["load_ms_p50"] == 600.0


def test_memory_of_a_process_is_told() -> None:
    assert memory.resident_bytes(os.getpid()) == pytest.approx(memory.memory_now()["rss"], rel=0.2)
    assert memory.resident_bytes(1 << 30) is None


def test_command_measures_new_processes_and_a_server(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "startup-tiny_box_202611.json"
    output.parent.mkdir()
    arguments = ["--bundle", str(tiny_bundle), "--num-loads", "1", "--num-answers", "2", "--num-threads", "1"]
    assert startup.main([*arguments, "--output", str(output)]) == 0
    (row,) = read_result(output)["rows"]
    assert (row["recipe"], row["loads"], row["answers"]) == ("w8a8", 1, 2)
    assert 0 < row["first_program_ms_p50"] < row["load_to_program_ms_p50"]
    assert row["load_to_program_ms_p50"] == pytest.approx(row["load_ms_p50"] + row["first_program_ms_p50"], abs=0.2)
    assert 50 << 20 < row["served_bytes"] < 4 << 30
    assert "memory of the server" in render(output.parent)
    captured = capsys.readouterr()
    assert (len(json.loads(captured.out)), captured.err.count("first program")) == (1, 2)


def test_what_is_no_bundle_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--bundle", str(tmp_path), "--output", str(tmp_path / "out.json")]
    assert startup.main(arguments) == BundleError.exit_code
    assert "error:" in capsys.readouterr().err
