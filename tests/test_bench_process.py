"""A process that is asked in lines of JSON: what it answers, what it reads and where it fails."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedsl.bench.command import at_least
from edgedsl.bench.process import JsonProcess, threads
from edgedsl.errors import ConfigError, GenerationError

CHILD = """
import json, os, sys, time
print("noise", file=sys.stderr, flush=True)
for line in sys.stdin:
    deed = json.loads(line)["do"]
    if deed == "end":
        os._exit(3)
    if deed == "hang":
        time.sleep(60)
    print(json.dumps({"error": "made up"} if deed == "fail" else {"is": os.environ.get(deed)}), flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[JsonProcess]:
    child = JsonProcess([sys.executable, "-c", CHILD], threads(2) | {"GIVEN": "café"}, tmp_path / "log")
    yield child
    child.close()
    assert not child.is_running


def test_requests_are_answered_in_the_environment_asked_for(process: JsonProcess, tmp_path: Path) -> None:
    wanted = {"GIVEN": "café", "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    assert {name: process.ask({"do": name}, 30)["is"] for name in wanted} == wanted
    assert process.ask({"do": "PATH"}, 30)["is"]  # this process's own
    assert (tmp_path / "log").read_text() == "noise\n"


def test_an_error_is_raised_and_the_next_request_answered(process: JsonProcess) -> None:
    with pytest.raises(GenerationError, match=r"^made up$"):
        process.ask({"do": "fail"}, 30)
    assert process.ask({"do": "GIVEN"}, 30) == {"is": "café"}


def test_a_process_that_ends_is_gone(process: JsonProcess) -> None:
    with pytest.raises(GenerationError, match=r"^the process ended with 3$"):
        process.ask({"do": "end"}, 30)
    assert not process.is_running


def test_a_process_that_hangs_is_killed(process: JsonProcess) -> None:
    with pytest.raises(GenerationError, match=r"^no answer in 0\.3 s$"):
        process.ask({"do": "hang"}, 0.3)
    assert not process.is_running


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^interpreter '/no/such/python' cannot be started: No such file"):
        JsonProcess(["/no/such/python"], {}, tmp_path / "log")


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "many", ""])
def test_numbers_of_options_are_checked(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=at_least(1))
    assert parser.parse_args(["--num", "1"]).num == 1
    with pytest.raises(SystemExit):
        parser.parse_args(["--num", text])
    assert f"'{text}' is not a whole number of at least 1" in capsys.readouterr().err
